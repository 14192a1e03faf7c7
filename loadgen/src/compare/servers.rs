//! The servers that are compared: what a file says of each, and how to start it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// One server of the file. Paths in its command are relative to the root of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// Letters, digits, `-`, `_` and `.`, because files are named after it.
    pub(crate) name: String,
    pub(crate) version: String,
    /// The program and its arguments, with `{listen}`, `{app}` and `{workers}` to be filled in.
    pub(crate) command: Vec<String>,
    /// What it can do: `echo`, `relay`.
    pub(crate) apps: Vec<String>,
    /// How its program is made.
    #[serde(default)]
    pub(crate) build: String,
    #[serde(default)]
    pub(crate) notes: String,
    /// It is known to fail with more, and is shown at its limit instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,
}

#[derive(Deserialize)]
struct File {
    servers: Vec<Server>,
}

/// Reads the servers with the names `wanted` from the file, in that order; all of them if none is named.
pub(crate) fn read(path: &Path, wanted: &[String]) -> Result<Vec<Server>, String> {
    let text = fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        format!(
            "{path} cannot be read: {error}; run this from the root of the repository or give --servers-file"
        )
    })?;
    parse(&text, wanted).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn parse(text: &str, wanted: &[String]) -> Result<Vec<Server>, String> {
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
        return if servers.is_empty() {
            Err("there is no server in it; add one".to_owned())
        } else {
            Ok(servers)
        };
    }
    let find = |name: &String| {
        servers.iter().find(|server| server.name == *name).cloned().ok_or_else(|| {
            let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
            format!("there is no server `{name}`; choose of {}", names.join(", "))
        })
    };
    wanted.iter().map(find).collect()
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
    if !server.apps.iter().all(|app| app == "echo" || app == "relay") || server.apps.is_empty() {
        return Err(format!("the apps of `{name}` are {:?}; give echo, relay or both", server.apps));
    }
    Ok(())
}

/// Builds them all. One that cannot be built has said why, and will be a row without figures.
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
    /// Its program and arguments for one run.
    pub(crate) fn command(&self, listen: &str, app: &str, workers: usize) -> Vec<String> {
        let fill = |word: &String| {
            word.replace("{listen}", listen).replace("{app}", app).replace("{workers}", &workers.to_string())
        };
        self.command.iter().map(fill).collect()
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
        let servers = parse(&file("", ""), &["b".to_owned(), "a".to_owned()]).expect("the file is good");
        assert_eq!(servers.iter().map(|server| server.name.as_str()).collect::<String>(), "ba");
        let command = servers[1].command("127.0.0.1:9", "echo", 2);
        assert_eq!(command, ["bin/a", "--app=echo", "127.0.0.1:9", "2"]);
    }

    #[test]
    fn errors_say_what_to_do() {
        let no_file = read(Path::new("no/such/file"), &[]).expect_err("there is none");
        assert!(no_file.contains("no/such/file") && no_file.contains("--servers-file"), "{no_file}");
        for (changed, to, way_out) in [
            ("\"servers\"", "\"server\"", "it must be {\"servers\""),
            ("\"version\":\"1\",", "", "each with name, version"),
            ("\"b\"", "\"a\"", "give one another name"),
            ("\"b\"", "\"../b\"", "use letters"),
            ("{listen}", "", "add it where"),
            ("[\"echo\"]", "[\"chat\"]", "give echo, relay"),
            ("[\"echo\"]", "[]", "give echo, relay"),
        ] {
            let reason = parse(&file(changed, to), &[]).expect_err(to);
            assert!(reason.contains(way_out), "{reason}");
        }
        let unknown = parse(&file("", ""), &["c".to_owned()]).expect_err("it has no `c`");
        assert!(unknown.contains("`c`; choose of a, b"), "{unknown}");
        assert!(parse("{\"servers\":[]}", &[]).is_err());
    }
}
