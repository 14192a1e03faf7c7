//! Checks the modules and crates that each module imports against the table of the architecture.
//!
//! A module imports from others by paths that begin with `crate::` (or with enough `super::` to leave the module). It
//! imports other crates by paths that begin with the crate's name. Code compiled only for tests may import anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the table: a module and the paths that it may import from this crate and from other crates. A path includes
/// all paths below it.
struct Rule {
    module: &'static str,
    own: &'static [&'static str],
    others: &'static [&'static str],
}

const TABLE: &[Rule] = &[
    Rule {
        module: "protocol",
        own: &["protocol"],
        others: &["base64", "flate2", "httparse", "sha1", "simdutf8", "smallvec", "thiserror"],
    },
    Rule {
        module: "proxied",
        own: &["proxied", "config", "io", "protocol::proxy_header", "transport::Event"],
        others: &[],
    },
    Rule { module: "transport", own: &["transport", "chunk", "io", "proxied", "tls"], others: &[] },
    Rule { module: "io", own: &["io", "chunk", "sync"], others: &["io_uring", "nix"] },
    Rule {
        module: "hub",
        own: &["hub", "protocol::deflate", "protocol::frame", "chunk", "timers"],
        others: &["slab", "smallvec"],
    },
    Rule {
        module: "app",
        own: &["app", "backends", "hub", "names", "page", "protocol", "publisher", "token", "webhooks"],
        others: &[
            "base64",
            "memchr",
            "percent_encoding",
            "serde",
            "serde_json",
            "sha2",
            "simdutf8",
            "thiserror",
            "unicode_normalization",
        ],
    },
    // Public items only, as for any user of the library.
    Rule {
        module: "app::pusher",
        own: &[
            "app::pusher",
            "app::Answer",
            "app::App",
            "app::ClientId",
            "app::CloseCode",
            "app::Context",
            "app::HttpRequest",
            "app::Incoming",
            "app::Kind",
            "app::Members",
            "app::Message",
            "app::Note",
            "app::Opening",
            "app::Refusal",
            "app::Responder",
            "app::Response",
            "app::Status",
            "app::Upgrade",
            "app::UserError",
            "Publisher",
            "config::Origin",
        ],
        others: &[
            "md5",
            "percent_encoding",
            "ring",
            "serde",
            "serde_json",
            "smallvec",
            "subtle",
            "thiserror",
        ],
    },
    Rule {
        module: "publisher",
        own: &["publisher", "hub", "io::Waker", "protocol::frame", "sync"],
        others: &["oneshot", "thiserror"],
    },
    Rule {
        module: "names",
        own: &["names"],
        others: &[
            "emojis",
            "smallvec",
            "unicode_bidi",
            "unicode_joining_type",
            "unicode_normalization",
            "unicode_properties",
            "unicode_security",
        ],
    },
    Rule {
        module: "shard",
        own: &[
            "shard",
            "app",
            "chunk",
            "config",
            "hub",
            "io",
            "names",
            "protocol",
            "proxied::ProxyEvent",
            "publisher",
            "stats",
            "sync",
            "timers",
            "tls::TlsEvent",
            "token",
            "transport",
        ],
        others: &["crossbeam_channel", "percent_encoding", "sha2", "tracing"],
    },
    Rule {
        module: "admin",
        own: &[
            "admin",
            "backends",
            "config::hosts",
            "outgoing::Counts",
            "page",
            "protocol",
            "stats",
            "watch",
        ],
        others: &["base64", "nix", "percent_encoding", "prometheus_client", "ring", "slab", "tracing"],
    },
    Rule {
        module: "tls",
        own: &["tls", "chunk", "files", "io", "proxied::ProxyEvent", "transport::Event"],
        others: &["rustls", "sha2", "thiserror", "tracing", "x509_parser"],
    },
    Rule {
        module: "server",
        own: &[
            "server",
            "admin",
            "app",
            "backends",
            "config",
            "hub",
            "io",
            "outgoing",
            "protocol",
            "proxied",
            "publisher",
            "shard",
            "stats",
            "tls",
            "token",
            "transport",
            "watch",
            "webhooks",
        ],
        others: &["crossbeam_channel", "nix", "ring", "signal_hook", "thiserror", "tracing"],
    },
    Rule {
        module: "main",
        own: &["app::PusherApps", "config", "logging", "server", "service"],
        others: &["clap", "signal_hook", "tracing"],
    },
    Rule { module: "logging", own: &["config"], others: &["tracing", "tracing_subscriber"] },
    Rule {
        module: "service",
        own: &["config", "server"],
        others: &["listenfd", "nix", "sd_notify", "tracing"],
    },
    Rule { module: "lib", own: &["config", "publisher", "server"], others: &[] },
    Rule { module: "page", own: &["protocol"], others: &["base64", "sha2"] },
    Rule { module: "backends", own: &["backends"], others: &["sha2", "subtle", "tracing"] },
    Rule { module: "chunk", own: &[], others: &[] },
    Rule {
        module: "config",
        own: &[
            "config",
            "app::PusherApp",
            "app::PusherApps",
            "app::PusherEvent",
            "app::PusherWebhook",
            "backends::KeySet",
            "files",
            "names::RoomPattern",
            "outgoing::Url",
            "outgoing::certificates",
            "token::KeySet",
            "token::Keys",
            "token::RemoteKeys",
            "webhooks::WebhookEvent",
        ],
        others: &["clap", "ipnet", "nix", "rustls", "serde", "thiserror", "toml", "tracing_subscriber"],
    },
    Rule { module: "files", own: &[], others: &["nix", "thiserror"] },
    Rule { module: "sync", own: &[], others: &["loom"] },
    Rule { module: "stats", own: &[], others: &[] },
    Rule {
        module: "watch",
        own: &[
            "backends",
            "config::AdminToken",
            "config::hosts",
            "io::clock",
            "shard",
            "stats",
            "tls::Identity",
            "token::RemoteKeys",
            "webhooks::PusherWebhooks",
            "webhooks::Webhooks",
        ],
        others: &[],
    },
    Rule {
        module: "outgoing",
        own: &["outgoing"],
        others: &[
            "base64",
            "crossbeam_channel",
            "percent_encoding",
            "ring",
            "rustls",
            "rustls_native_certs",
            "thiserror",
            "tracing",
            "ureq",
        ],
    },
    Rule {
        module: "webhooks",
        own: &[
            "webhooks",
            "app::PusherApp",
            "app::PusherEvent",
            "app::PusherReports",
            "app::PusherWebhook",
            "names::RoomPattern",
            "outgoing",
        ],
        others: &["base64", "clap", "ring", "serde", "serde_json", "tracing"],
    },
    Rule { module: "timers", own: &[], others: &[] },
    Rule { module: "token", own: &["names"], others: &["base64", "ring", "serde", "serde_json"] },
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let known = crates();
    let mut wrong = Vec::new();
    let sources = sources(Path::new("src"));
    assert!(sources.len() > 50, "{} sources", sources.len());
    for path in sources {
        let text = fs::read_to_string(&path).expect("readable");
        let found = violations(&path, &text, &known);
        wrong.extend(found.into_iter().map(|import| format!("{} imports {import}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_form_of_a_forbidden_import_is_found() {
    for (path, text, import) in [
        ("src/protocol/frame.rs", "use crate::io::Slot;", "crate::io::Slot"),
        ("src/io/epoll.rs", "use crate::protocol::frame;", "crate::protocol::frame"),
        ("src/io/epoll.rs", "fn f() { tracing::info!(\"x\"); }", "tracing::info"),
        ("src/io.rs", "use super::hub::Hub;", "crate::hub::Hub"),
        ("src/io/uring/ring.rs", "use super::super::super::hub::Hub;", "crate::hub::Hub"),
        (
            "src/hub/log.rs",
            "use crate::{chunk::Span, protocol::{frame::Kind, Protocol}};",
            "crate::protocol::Protocol",
        ),
        ("src/hub.rs", "fn f(a: crate::app::App) {}", "crate::app::App"),
        ("src/hub.rs", "pub use crate::{\n    stats,\n    timers::Timers,\n};", "crate::stats"),
        ("src/stats.rs", "use super::config::Config;", "crate::config::Config"),
        ("src/chunk.rs", "use nix::libc;", "nix::libc"),
        ("src/main.rs", "use uproar::hub::Hub;", "crate::hub::Hub"),
        ("src/app/pusher.rs", "use super::timers::AppTimers;", "crate::app::timers::AppTimers"),
        ("src/app/pusher/channel.rs", "use super::super::{App, Api};", "crate::app::Api"),
        ("src/app/pusher/channel.rs", "use crate::hub::Hub;", "crate::hub::Hub"),
    ] {
        let found = violations(Path::new(path), text, &crates());
        assert_eq!(found, [import], "{path}: {text}");
    }
}

#[test]
fn comments_strings_and_test_code_are_ignored() {
    let text = "//! See crate::io.\nuse crate::chunk::Span; // not crate::io\nconst A: &str = \"crate::io\";\n\
                const B: char = '\"'; fn f<'a>(_: &'a str) {}\n/* crate::io */\n\
                #[cfg(test)]\nmod tests {\n    use crate::io::Slot;\n    fn g() { { proptest::x() } }\n}\n";
    assert_eq!(violations(Path::new("src/hub/log.rs"), text, &crates()), [""; 0]);
}

/// Returns the imports of a source file that the table does not allow, sorted and without duplicates.
fn violations(path: &Path, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let names: Vec<_> =
        path.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
    // `lib.rs` and `main.rs` define the module of their directory.
    let is_directory = ["lib", "main"].contains(&names[names.len() - 1].as_str());
    let module = &names[1..names.len() - usize::from(is_directory)];
    let is_of = |rule: &&Rule| is_below(&names[1..].join("::"), rule.module);
    let Some(rule) = TABLE.iter().filter(is_of).max_by_key(|rule| rule.module.len()) else {
        return vec![format!("what it likes: {} has no row in the table", names[1])];
    };
    let mut found: Vec<String> = Vec::new();
    let code = tokens(&without_tests(&without_words(text)));
    for import in imports(&code, module, rule.module.split("::").count(), known) {
        let allowed = match import.strip_prefix("crate::") {
            Some(own) => rule.own.iter().any(|allowed| is_below(own, allowed)),
            None => rule.others.iter().any(|allowed| is_below(&import, allowed)),
        };
        if !allowed && !found.contains(&import) {
            found.push(import);
        }
    }
    found
}

fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns the imports among the tokens of a file of `module`: paths that leave the module of its rule, which is the
/// first `ruled` names of `module`, as `crate::…`, and paths to other crates.
fn imports(tokens: &[String], module: &[String], ruled: usize, known: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 1 < tokens.len() {
        let is_start = at == 0 || tokens[at - 1] != "::";
        if is_start && tokens[at + 1] == "::" {
            let mut paths = Vec::new();
            at = path_end(tokens, at, "", &mut paths);
            found.extend(paths.iter().filter_map(|path| foreign(path, module, ruled, known)));
        } else {
            at += 1;
        }
    }
    found
}

/// Parses the path at index `at`, including the paths in its braces, and adds the result to `paths`. Returns the index
/// of the token after the path.
fn path_end(tokens: &[String], mut at: usize, before: &str, paths: &mut Vec<String>) -> usize {
    let mut path = before.to_owned();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if tokens[at] == "," { at + 1 } else { path_end(tokens, at, &path, paths) };
                }
                return at + 1;
            }
            Some(name) => path += name,
            None => return at,
        }
        at += 1;
        if tokens.get(at).is_none_or(|next| next != "::") {
            paths.push(path);
            // The new name after `as` is not part of the imported path.
            return if tokens.get(at).is_some_and(|next| next == "as") { at + 2 } else { at };
        }
        path += "::";
        at += 1;
    }
}

/// Returns `path`, from the crate's root, if it leaves the first `ruled` names of `module`, or the crate; otherwise
/// `None`.
fn foreign(path: &str, module: &[String], ruled: usize, known: &BTreeSet<String>) -> Option<String> {
    let (first, rest) = path.split_once("::")?;
    match first {
        "crate" | "uproar" => Some(format!("crate::{rest}")),
        "super" => {
            let names: Vec<&str> = path.split("::").collect();
            let ups = names.iter().take_while(|name| **name == "super").count();
            let left = &module[..module.len().saturating_sub(ups)];
            let full = left.iter().map(String::as_str).chain(names[ups..].iter().copied());
            (left.len() < ruled).then(|| format!("crate::{}", full.collect::<Vec<_>>().join("::")))
        }
        _ => known.contains(first).then(|| path.to_owned()),
    }
}

/// Splits source text into tokens: names, double colons and single other characters.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut previous = ' ';
    for char in text.chars() {
        let is_name = |char: char| char.is_alphanumeric() || char == '_';
        match tokens.last_mut() {
            Some(last) if is_name(char) && is_name(previous) => last.push(char),
            Some(last) if char == ':' && previous == ':' && last == ":" => last.push(':'),
            _ if char.is_whitespace() => {}
            _ => tokens.push(char.into()),
        }
        previous = char;
    }
    tokens
}

/// Returns source text without comments and without the contents of literals.
fn without_words(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if char == '"' {
            quoted_len(rest)
        } else if rest.starts_with("'\\") {
            // An escaped character literal, such as `'\n'`.
            3 + rest[3..].find('\'').map_or(0, |end| end + 1)
        } else if char == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(end, _)| end)
        } else {
            kept.push(char);
            rest = &rest[char.len_utf8()..];
            continue;
        };
        kept.push(' ');
        rest = &rest[skip..];
    }
    kept
}

/// Returns the length in bytes, with both quotes, of the string literal at the start of `text`.
fn quoted_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

/// Returns source text without the items after `#[cfg(test)]`. An item ends with its closing brace or a semicolon.
fn without_tests(text: &str) -> String {
    // The caller has replaced each literal by one space, so every brace is code.
    let text = text.replace("#[cfg(all(test, feature =  ))]", "#[cfg(test)]");
    let mut parts = text.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut open = 0;
        let end = part.char_indices().find(|(_, char)| match char {
            '{' => {
                open += 1;
                false
            }
            '}' => {
                open -= 1;
                open == 0
            }
            ';' => open == 0,
            _ => false,
        });
        kept.push_str(end.map_or("", |(at, _)| &part[at + 1..]));
    }
    kept
}

/// Returns the source files below `directory`, without modules that are compiled for tests only.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let for_tests = ["conformance.rs", "inspect.rs", "sim.rs", "tests.rs"];
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "conformance", "sim"].contains(&name.as_str()) {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && !for_tests.contains(&name.as_str()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the names of all dependencies in `Cargo.toml`, as they are written in Rust paths.
fn crates() -> BTreeSet<String> {
    let manifest = fs::read_to_string("Cargo.toml").expect("readable");
    let mut is_dependency = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_dependency = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| is_dependency) {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    assert!(names.contains("httparse") && names.contains("tungstenite"), "{names:?}");
    names
}
