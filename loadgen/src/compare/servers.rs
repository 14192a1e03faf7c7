//! Reads the servers of a comparison from the servers file, builds them, and fills in their commands.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::identity::{Identity, KeyKind};

/// A server as described in the servers file. Paths in `command` are relative to the root of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// The server's name: only letters, digits, `-`, `_` and `.`, because the name becomes part of file names.
    pub(crate) name: String,
    pub(crate) version: String,
    /// The program and its arguments. Each run replaces the placeholders `{listen}`, `{app}` and `{workers}`, and with
    /// TLS `{cert}` and `{key}` (or `{rsa-cert}` and `{rsa-key}`).
    pub(crate) command: Vec<String>,
    /// The modes that the server supports: `echo`, `relay` and `pusher`. A comparison has no runs for `pusher`.
    pub(crate) apps: Vec<String>,
    /// The shell command that builds the server. Empty if the server needs no build.
    #[serde(default)]
    pub(crate) build: String,
    #[serde(default)]
    pub(crate) notes: String,
    /// The number of connections that the server can hold, or `None` without a known limit. Extra idle runs with more
    /// connections show the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,
    /// Whether the server's port speaks TLS. A TLS server is run only with --tls, or when --servers names it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) tls: bool,
}

// Takes a reference, because serde's `skip_serializing_if` passes one.
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Deserialize)]
struct File {
    servers: Vec<Server>,
}

/// Reads the servers named in `wanted` from the servers file, in the order of `wanted`. If `wanted` is empty, reads all
/// servers, and TLS servers only if `with_tls` is true.
pub(crate) fn read(path: &Path, wanted: &[String], with_tls: bool) -> Result<Vec<Server>, String> {
    let text = fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        format!(
            "{path} cannot be read: {error}; run this from the root of the repository or give --servers-file"
        )
    })?;
    parse(&text, wanted, with_tls).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn parse(text: &str, wanted: &[String], with_tls: bool) -> Result<Vec<Server>, String> {
    let File { servers } = serde_json::from_str(text).map_err(|error| {
        format!("{error}; it must be {{\"servers\": […]}}, each with name, version, command and apps")
    })?;
    for (index, server) in servers.iter().enumerate() {
        check(server)?;
        if servers[..index].iter().any(|other| other.name == server.name) {
            return Err(format!("there are two servers `{}`; give one another name", server.name));
        }
    }
    if wanted.is_empty() {
        let is_usual = |server: &Server| server.is_compared() && (with_tls || !server.tls);
        let usual: Vec<Server> = servers.into_iter().filter(is_usual).collect();
        return if usual.is_empty() {
            Err("there is no server in it; add one, or give --tls".to_owned())
        } else {
            Ok(usual)
        };
    }
    let find = |name: &String| {
        servers.iter().find(|server| server.name == *name).cloned().ok_or_else(|| {
            let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
            format!("there is no server `{name}`; choose from {}", names.join(", "))
        })
    };
    let found: Vec<Server> = wanted.iter().map(find).collect::<Result<_, _>>()?;
    match found.iter().find(|server| !server.is_compared()) {
        Some(Server { name, .. }) => Err(format!(
            "`{name}` has no mode that is compared; leave it out, and measure it with the load's own script"
        )),
        None => Ok(found),
    }
}

fn check(server: &Server) -> Result<(), String> {
    let name = &server.name;
    let is_plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_.".contains(symbol);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(format!("`{name}` cannot name a server; use letters, digits, `-`, `_` and `.`"));
    }
    if !server.command.iter().any(|word| word.contains("{listen}")) {
        return Err(format!("the command of `{name}` has no `{{listen}}`; add it where the address belongs"));
    }
    let has_identity = ["{cert}", "{key}", "{rsa-cert}", "{rsa-key}"]
        .iter()
        .any(|place| server.command.iter().any(|word| word.contains(place)));
    if has_identity != server.tls {
        return Err(format!(
            "`{name}` needs both `\"tls\": true` and a certificate (`{{cert}}` and `{{key}}`, or `{{rsa-cert}}` and \
             `{{rsa-key}}`) in its command, or neither"
        ));
    }
    let is_app = |app: &String| ["echo", "relay", "pusher"].contains(&&**app);
    if !server.apps.iter().all(is_app) || server.apps.is_empty() {
        return Err(format!("the apps of `{name}` are {:?}; give echo, relay or pusher", server.apps));
    }
    Ok(())
}

/// Runs the build command of every server. A failed build is reported on standard error, and the comparison goes on.
pub(crate) fn build(servers: &[Server]) {
    let mut done: Vec<&str> = vec![""];
    for server in servers {
        if !done.contains(&server.build.as_str()) {
            done.push(&server.build);
            let status = Command::new("sh").args(["-c", &server.build]).status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("loadgen: `{}` failed, so {} may be missing", server.build, server.name);
            }
        }
    }
}

impl Server {
    /// Returns whether the server has a mode that a comparison runs.
    fn is_compared(&self) -> bool {
        self.apps.iter().any(|app| app == "echo" || app == "relay")
    }

    /// Returns the server's program and arguments for one run, with all placeholders replaced.
    pub(crate) fn command(
        &self,
        listen: &str,
        app: &str,
        workers: usize,
        identity: Option<&Identity>,
    ) -> Vec<String> {
        let file = |path: Option<&Path>| path.map_or_else(String::new, |path| path.display().to_string());
        let (cert, key) = (file(identity.map(|files| &*files.cert)), file(identity.map(|files| &*files.key)));
        let places = [
            ("{listen}", listen),
            ("{app}", app),
            ("{workers}", &workers.to_string()),
            ("{cert}", &cert),
            ("{key}", &key),
            ("{rsa-cert}", &cert),
            ("{rsa-key}", &key),
        ];
        let fill =
            |word: &String| places.iter().fold(word.clone(), |word, (name, value)| word.replace(name, value));
        self.command.iter().map(fill).collect()
    }

    /// Returns the key type of the server's certificate, or `None` if the server does not speak TLS.
    pub(crate) fn key_kind(&self) -> Option<KeyKind> {
        let is_rsa = self.command.iter().any(|word| word.contains("{rsa-cert}"));
        self.tls.then_some(if is_rsa { KeyKind::Rsa } else { KeyKind::Ecdsa })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(changed: &str, to: &str) -> String {
        let one = r#"{"name":"a","version":"1","command":["bin/a","--app={app}","{listen}","{workers}"],"apps":["echo"]}"#;
        format!("{{\"servers\":[{one},{}]}}", one.replace("\"a\"", "\"b\"")).replace(changed, to)
    }

    #[test]
    fn servers_are_read_in_the_order_asked_for() {
        let servers =
            parse(&file("", ""), &["b".to_owned(), "a".to_owned()], false).expect("the file is good");
        assert_eq!(servers.iter().map(|server| server.name.as_str()).collect::<String>(), "ba");
        let command = servers[1].command("127.0.0.1:9", "echo", 2, None);
        assert_eq!(command, ["bin/a", "--app=echo", "127.0.0.1:9", "2"]);
    }

    #[test]
    fn servers_with_tls_are_run_when_they_are_asked_for() {
        let with_tls = file(
            "{listen}\",\"{workers}\"],\"apps\":[\"echo\"]},{",
            "{listen}\",\"{cert}\",\"{key}\"],\"apps\":[\"echo\"],\"tls\":true},{",
        );
        let names = |wanted: &[String], tls| -> String {
            let servers = parse(&with_tls, wanted, tls).expect("the file is good");
            servers.iter().map(|server| server.name.as_str()).collect()
        };
        assert_eq!((names(&[], false).as_str(), names(&[], true).as_str()), ("b", "ab"));
        assert_eq!(names(&["a".to_owned()], false), "a");
        let servers = parse(&with_tls, &[], true).expect("the file is good");
        assert_eq!((servers[0].key_kind(), servers[1].key_kind()), (Some(KeyKind::Ecdsa), None));
        let identity = Identity { cert: "c.pem".into(), key: "k.pem".into() };
        let command = servers[0].command("127.0.0.1:9", "echo", 1, Some(&identity));
        assert_eq!(command, ["bin/a", "--app=echo", "127.0.0.1:9", "c.pem", "k.pem"]);
    }

    #[test]
    fn errors_name_the_way_out() {
        let no_file = read(Path::new("no/such/file"), &[], false).expect_err("there is none");
        assert!(no_file.contains("no/such/file") && no_file.contains("--servers-file"), "{no_file}");
        for (changed, to, way_out) in [
            ("\"servers\"", "\"server\"", "it must be {\"servers\""),
            ("\"version\":\"1\",", "", "each with name, version"),
            ("\"b\"", "\"a\"", "give one another name"),
            ("\"b\"", "\"../b\"", "use letters"),
            ("{listen}", "", "add it where"),
            ("[\"echo\"]", "[\"chat\"]", "give echo, relay"),
            ("[\"echo\"]", "[]", "give echo, relay"),
            ("{workers}", "{cert}", "or neither"),
            ("[\"echo\"]", "[\"echo\"],\"tls\":true", "or neither"),
        ] {
            let reason = parse(&file(changed, to), &[], false).expect_err(to);
            assert!(reason.contains(way_out), "{reason}");
        }
        let unknown = parse(&file("", ""), &["c".to_owned()], false).expect_err("it has no `c`");
        assert!(unknown.contains("`c`; choose from a, b"), "{unknown}");
        assert!(parse("{\"servers\":[]}", &[], false).is_err());
        let other = file("[\"echo\"]", "[\"pusher\"]");
        let named = parse(&other, &["a".to_owned()], false).expect_err("it is not compared");
        assert!(named.contains("`a` has no mode that is compared"), "{named}");
        assert!(parse(&other, &[], false).is_err());
    }
}
