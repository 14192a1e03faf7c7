//! The settings file: its precedence, its errors, and the output of `uproar check`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::support::process::{Process, expect_start_failure, run_to_end, settings_file, uproar};
use crate::support::tls::{Identity, arg};

/// Runs `uproar check`. Returns each printed key with its value and the value's source.
fn check(command: &mut Command) -> BTreeMap<String, (String, String)> {
    let output = run_to_end(command);
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let (settings, limit): (Vec<_>, Vec<_>) = stdout.lines().partition(|line| !line.starts_with("# The "));
    assert!(limit.len() == 1 && limit[0].starts_with("# The memory limit is "), "{limit:?}");
    let settings = settings.into_iter().map(|line| {
        let (setting, origin) = line.rsplit_once(" # ").expect(line);
        let (key, value) = setting.split_once(" = ").unwrap_or((setting, ""));
        (key.trim().into(), (value.trim().into(), origin.into()))
    });
    settings.collect()
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
    let text = "app = \"relay\"\nworkers = 0x2\nlog = \"debug\"\nmax-message = 1_000\nping-seconds = 0.5\n";
    let path = settings_file("precedence", text);
    let args = ["check", "--config", &path, "--app=echo", "--lag-policy", "skip"];
    let mut command = uproar(&args);
    command.envs([("UPROAR_APP", "chat"), ("UPROAR_WORKERS", "3"), ("UPROAR_BYTE_RATE", "7")]);
    let settings = check(&mut command);
    for (key, value, origin) in [
        ("app", "\"echo\"", "--app"),
        ("lag-policy", "\"skip\"", "--lag-policy"),
        ("workers", "3", "UPROAR_WORKERS"),
        ("byte-rate", "7", "UPROAR_BYTE_RATE"),
        ("log", "\"debug\"", &format!("{path}:3")),
        ("max-message", "1000", &format!("{path}:4")),
        ("ping-seconds", "0.5", &format!("{path}:5")),
        ("backend", "\"auto\"", "default"),
        ("# message-rate is not set", "", "default"),
    ] {
        assert_eq!(settings[key], (value.into(), origin.into()), "{key}");
    }
}

#[test]
fn the_server_uses_the_settings_file() {
    let path =
        settings_file("run", "listen = [\"127.0.0.1:0\", \"[::1]:0\"]\napp = \"relay\"\nworkers = 3\n");
    let by_flag = Process::run(&mut uproar(&["serve", "--backend=epoll", "--config", &path]));
    let by_variable = Process::run(uproar(&["--backend=epoll"]).env("UPROAR_CONFIG", &path));
    for server in [by_flag, by_variable] {
        assert!(
            server.ready_line.ends_with(" (app relay, backend epoll, workers 3)\n"),
            "{}",
            server.ready_line
        );
    }
}

#[test]
fn without_the_option_no_settings_file_is_read() {
    let path = settings_file("unasked", "workers = 77\n");
    let directory = path.strip_suffix("uproar.toml").expect("its directory");
    let settings = check(uproar(&["check"]).current_dir(directory));
    assert_eq!(settings["# workers is not set"].1, "default");
}

#[test]
fn an_empty_file_leaves_all_defaults() {
    for text in ["", "\n# Nothing.\n", "\u{feff}# Behind a byte order mark.\r\n"] {
        let path = settings_file("empty", text);
        let mut settings = check(&mut uproar(&["check", "--config", &path]));
        assert!(settings.values().all(|(_, origin)| origin == "default"), "{settings:?}");
        settings.retain(|key, _| !key.starts_with('#'));
        assert_eq!(settings["max-message"].0, "1048576");
    }
}

#[test]
fn the_output_of_check_is_a_settings_file_with_the_same_settings() {
    let args = ["check", "--listen=127.0.0.1:1,[::1]:2", "--message-rate=+5", "--ping-seconds=.5"];
    let printed = run_to_end(uproar(&args).env("UPROAR_LOG", "[{x=\"y\"}]=info")).stdout;
    let path = settings_file("again", &printed);
    let again = run_to_end(&mut uproar(&["check", "--config", &path])).stdout;
    let values = |text: Vec<u8>| {
        let text = String::from_utf8(text).expect("text");
        text.lines().map(|line| line.rsplit_once('#').expect(line).0.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(again), values(printed));
}

#[test]
fn errors_name_the_line_the_key_and_a_remedy() {
    for (text, parts) in [
        (
            "app = \"echo\"\nmax-mesage = 1\n",
            &[":2: max-mesage: no such key", "did you mean max-message?"][..],
        ),
        ("max_message = 1\n", &[":1: max_message: no such key", "did you mean max-message?"]),
        ("config = \"x\"\n", &[":1: config: no such key", "--help"]),
        ("receive-buffers = 8\n", &[":1: receive-buffers: no such key", "--help"]),
        ("help = 1\n", &[":1: help: no such key", "--help"]),
        ("\n[limits]\nmax-message = 1\n", &[":2: limits: no such key", "without [sections]"]),
        ("\"a\\nb\" = 1\n", &[":1: a b: no such key"]),
        (
            "max-message = \"big\"\n",
            &[":1: max-message: \"big\": expected a number, without quotes", "1048576"],
        ),
        ("max-message = [1]\n", &[":1: max-message: [1]: expected a number, without quotes"]),
        ("max-message = 1.5\n", &[":1: max-message: 1.5: expected a whole number from 1 to 1073741824"]),
        ("max-message.x = 1\n", &[":1: max-message", "expected a number"]),
        (
            "max-connections = 99999999999999999999999999999999999999999\n",
            &[":1: max-connections", "4294967295"],
        ),
        (
            "ping-seconds = 1e400\n",
            &[":1: ping-seconds: 1e400: expected seconds from 0 to 1000000, like 10 or 0.5"],
        ),
        ("app = 3\n", &[":1: app: 3: expected text in quotes, for instance \"chat\""]),
        ("app = true\n", &[":1: app: true: expected text in quotes"]),
        ("app = 1979-05-27\n", &[":1: app: 1979-05-27: expected text in quotes"]),
        ("app = \"\"\n", &[":1: app: \"\": expected one of chat, relay, echo"]),
        ("app = \"\"\"\nchat\n\"\"\"\n", &[":1: app: ", "expected one of chat, relay, echo"]),
        ("listen = []\n", &[":1: listen: []: expected text in quotes, or a list"]),
        ("listen = [\"127.0.0.1:0\", 8000]\n", &[":1: listen: ", "expected text in quotes, or a list"]),
        (
            "listen = [\"127.0.0.1:0\",\n\"x\"]\n",
            &[":1: listen: [\"127.0.0.1:0\", \"x\"]: ", "like 127.0.0.1:8000"],
        ),
        ("app = \"echo\"\n\napp = \"relay\"\n", &[":3: app: duplicate key; leave one"]),
        ("app\n", &[":1: app: ", "expected lines like"]),
        ("app = \"echo\n", &[":1: app: ", "expected lines like"]),
        (
            "lag-window = 4096\n\nhistory-bytes = 4096\n",
            &["--history-bytes 4096", "lower --history-bytes", "uproar.toml:3", "uproar.toml:1"],
        ),
        ("listen = [\"0.0.0.0:1\", \"127.0.0.1:1\"]\n", &["overlap", "uproar.toml:1"]),
    ] {
        let path = settings_file("wrong", text);
        expect_start_failure(&mut uproar(&["check", "--config", &path]), parts);
        expect_start_failure(&mut uproar(&["--config", &path]), parts);
    }
}

#[test]
fn an_overridden_value_in_the_file_is_still_checked() {
    let path = settings_file("beaten", "workers = 0\n");
    expect_start_failure(
        uproar(&["--config", &path, "--workers=1"]).env("UPROAR_WORKERS", "2"),
        &["uproar.toml:1: workers: 0"],
    );
}

#[test]
fn a_file_that_is_not_utf_8_is_refused() {
    let path = settings_file("latin1", b"# one\nlog = \"caf\xe9\"\n");
    expect_start_failure(&mut uproar(&["check", "--config", &path]), &["uproar.toml:2: not UTF-8"]);
}

/// Tests the example settings file as it is, and with its optional settings enabled.
#[test]
fn the_example_settings_file_is_valid_and_has_every_key() {
    const EXAMPLE: &str = "deploy/uproar.toml";
    let text = std::fs::read_to_string(EXAMPLE).expect("the file exists");
    let known: BTreeSet<_> = check(&mut uproar(&["check", "--config", EXAMPLE])).into_keys().collect();
    assert!(known.contains("# workers is not set") && known.contains("max-message"), "{known:?}");
    // In the example, comments begin with `# `. Disabled settings begin with `#` and no space.
    let chosen = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(char::is_alphabetic) => setting,
        _ => line,
    });
    // Replace the example's paths with existing files, and add a TLS listener.
    let identity = Identity::new();
    let text = chosen.collect::<Vec<_>>().join("\n");
    let text = text.replace("/etc/uproar/fullchain.pem", arg(&identity.cert()));
    let text = text.replace("/etc/uproar/privkey.pem", arg(&identity.key()));
    let text = text.replace("\nlisten = [", "\nlisten = [\"tls:0.0.0.0:8443\", ");
    let text = text.replace("/etc/uproar/token-secret", &settings_file("example secret", "x".repeat(32)));
    let keys = format!("php publish {}", "x".repeat(32));
    let text = text.replace("/etc/uproar/api-keys", &settings_file("example keys", keys));
    // Only a Pusher server has Pusher applications.
    let text = text.replace("app = \"chat\"", "app = \"pusher\"");
    let text = text.replace("/etc/uproar/pusher-apps.toml", "tests/files/pusher-apps.toml");
    let text = text.replace("/etc/uproar/jwks.json", "tests/files/jwks.json");
    let text = text.replace("/etc/uproar/admin-token", "tests/files/admin-token");
    let text =
        text.replace("/etc/uproar/webhook-secret", &settings_file("example webhook secret", "x".repeat(32)));
    let text = text.replace("/etc/uproar/ca.pem", "tests/files/ca.pem");
    let path = settings_file("example", text);
    for (key, (_, origin)) in check(&mut uproar(&["check", "--config", &path])) {
        assert!(origin.starts_with(&path), "{EXAMPLE} has no line for {key}");
    }
}
