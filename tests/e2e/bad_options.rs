//! Invalid option values and unknown option names. Each is refused or causes a warning, with its source and a remedy.

use std::collections::BTreeSet;

use crate::support::process::{Process, expect_start_failure, run_to_end, settings_file, uproar};
use crate::support::wait_until;

/// Each option of the server with some invalid values.
const BAD: &[(&str, &[&str])] = &[
    ("--config", &["/nowhere/uproar.toml", "/", "/dev/zero", "/proc/self/mem"]),
    (
        "--listen",
        &["8000", "localhost:8000", "127.0.0.1:70000", "127.0.0.1", "/run/uproar.sock", "unix:", "tls:8443"],
    ),
    ("--tls-cert", &["/nowhere/cert.pem", "/"]),
    ("--tls-key", &["/nowhere/key.pem", "/"]),
    ("--app", &["game"]),
    ("--takeover", &["perhaps"]),
    ("--backend", &["kqueue"]),
    ("--workers", &["0", "1025", "many", "-1"]),
    ("--max-connections", &["-1", "x", "4294967296"]),
    ("--max-connections-per-ip", &["-1", "x"]),
    ("--connection-rate", &["-1", "x", "4294967296"]),
    ("--max-handshakes", &["-1", "x"]),
    (
        "--allowed-origins",
        &[
            "example.org",
            "https://",
            "https://a/b",
            "https://a/",
            "https://*a.org",
            "https://a:x",
            "about:blank",
        ],
    ),
    ("--server-names", &["https://example.org", "example.org:80", "*example.org", "a/b"]),
    ("--trusted-proxies", &["proxy.example", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.0/104", "*"]),
    ("--proxy-protocol", &["maybe", "1", "v2"]),
    ("--auth-hmac-secret-file", &["/nowhere/secret", "/", "/dev/null", "/dev/zero"]),
    ("--api-keys", &["/nowhere/keys", "/", "/dev/null", "/dev/zero"]),
    ("--pusher-apps", &["/nowhere/apps", "/", "/dev/null", "/dev/zero", "LICENSE-MIT"]),
    ("--webhook", &["example.org", "ftp://example.org/", "https://", "https://example.org/#x", ""]),
    ("--webhook-secret-file", &["/nowhere/secret", "/", "/dev/null", "/dev/zero"]),
    ("--webhook-events", &["message", "all", ""]),
    ("--webhook-messages", &["a/b", "", "two  spaces"]),
    ("--ca-file", &["/nowhere/ca.pem", "/", "/dev/null", "/dev/zero", "LICENSE-MIT"]),
    ("--auth-issuer", &[""]),
    ("--auth-audience", &[""]),
    ("--auth-jwks", &["/nowhere/keys", "/", "/dev/null", "/dev/zero", "http://example.org/jwks"]),
    ("--max-message", &["0", "1073741825", "1M"]),
    ("--max-request-body", &["-1", "1073741825", "1M"]),
    ("--max-private-message", &["0", "-1", "8K"]),
    ("--message-rate", &["-1", "x", "4294967296"]),
    ("--byte-rate", &["-1", "64K"]),
    ("--max-rooms-per-connection", &["0", "1000001"]),
    ("--lag-window", &["0", "1023", "1073741825"]),
    ("--lag-policy", &["forgive"]),
    ("--compression", &["gzip", "on"]),
    ("--compression-threshold", &["-1", "1K"]),
    ("--context-memory", &["-1", "64M", "4294967296"]),
    ("--history-bytes", &["-1", "64K", "524289"]),
    ("--history-seconds", &["-1", "soon", "nan", "inf", "1e9"]),
    ("--session-seconds", &["-1", "soon", "nan", "inf", "1e9"]),
    ("--history-memory", &["-1", "x"]),
    ("--memory-limit", &["-1", "1G", "50%"]),
    ("--message-seconds", &["0", "-1", "soon"]),
    ("--handshake-seconds", &["0", "-1", "0.0001"]),
    ("--keep-alive-seconds", &["-1", "x"]),
    ("--ack-interval", &["0", "x"]),
    ("--max-sessions", &["-1", "x", "4294967296"]),
    ("--ping-seconds", &["0", "x"]),
    ("--pong-seconds", &["0", "x"]),
    ("--close-seconds", &["0", "x"]),
    ("--drain-delay", &["-1", "x"]),
    ("--drain-seconds", &["-1", "x"]),
    ("--admin", &["9100", "localhost:9100", "127.0.0.1:70000"]),
    ("--admin-token-file", &["/nowhere/token", "/", "/dev/null", "/dev/zero"]),
    ("--log-format", &["xml", ""]),
    ("--log", &["uproar=loud", "=,="]),
];

#[test]
fn every_option_refuses_invalid_values() {
    for (option, values) in BAD {
        for value in *values {
            let argument = format!("{option}={value}");
            expect_start_failure(&mut uproar(&[&argument]), &[option, value]);
            let name = format!("UPROAR_{}", option[2..].to_uppercase().replace('-', "_"));
            // The error names the environment variable instead of the command-line flag.
            let variable = format!(" {name}");
            let parts = if *option == "--config" { [*option, value] } else { [&*variable, value] };
            expect_start_failure(uproar(&[]).env(&name, value), &parts);
            expect_start_failure(uproar(&["serve"]).env(&name, value), &parts);
        }
    }
}

/// Tests each invalid option value in a settings file, with and without quotes.
#[test]
fn every_key_of_the_settings_file_refuses_invalid_values() {
    let path = settings_file("bad values", "");
    for (option, values) in &BAD[1..] {
        let key = &option[2..];
        for value in *values {
            for value in [format!("\"{value}\""), (*value).into()] {
                settings_file("bad values", format!("# One line before it.\n{key} = {value}\n"));
                expect_start_failure(&mut uproar(&["check", "--config", &path]), &["uproar.toml:2", key]);
            }
        }
    }
}

/// Checks that each option of the help has a row in [`BAD`].
#[test]
fn every_option_is_in_the_table_of_invalid_values() {
    let help = run_to_end(&mut uproar(&["--help"]));
    let text = String::from_utf8(help.stdout).expect("text");
    let named = text.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let names: BTreeSet<_> = named.filter_map(|rest| rest.split_whitespace().next()).collect();
    let known: BTreeSet<_> = BAD.iter().map(|(option, _)| &option[2..]).collect();
    assert_eq!(names, known);
}

#[test]
fn unknown_words_are_refused_with_a_hint() {
    expect_start_failure(&mut uproar(&["--wrokers=2"]), &["--wrokers", "'--workers'", "--help"]);
    expect_start_failure(&mut uproar(&["--app=chatt"]), &["chatt", "chat, relay, echo"]);
    expect_start_failure(&mut uproar(&["dance"]), &["dance", "--help"]);
    for (flag, hint) in [
        ("--port=8000", "did you mean --listen 127.0.0.1:8000?"),
        ("--port", "did you mean --listen 127.0.0.1:8000?"),
        ("-p", "did you mean --listen 127.0.0.1:8000?"),
        ("--host", "did you mean --listen"),
        ("--threads=2", "did you mean --workers?"),
        ("--verbose", "did you mean --log debug?"),
        ("--cert=x", "did you mean --tls-cert?"),
    ] {
        expect_start_failure(
            &mut uproar(&[flag]),
            &[flag.split('=').next().expect("a flag"), hint, "--help"],
        );
        expect_start_failure(&mut uproar(&["check", flag]), &[hint]);
    }
    let path = settings_file("port key", "port = 8000\n");
    expect_start_failure(
        &mut uproar(&["--config", &path]),
        &["uproar.toml:1: port: no such key; did you mean listen?"],
    );
}

#[test]
fn an_unknown_variable_causes_a_warning_with_a_hint() {
    let server = Process::run(uproar(&["--listen=127.0.0.1:0"]).env("UPROAR_LISTN", "127.0.0.1:1"));
    let warning = "UPROAR_LISTN belongs to no option and is ignored; did you mean UPROAR_LISTEN?";
    wait_until("the log warns", || server.log().contains(warning));
    assert!(server.log().contains("WARN"), "{}", server.log());
    let checked = run_to_end(uproar(&["check"]).env("UPROAR_MAX_MESAGE", "5"));
    let said = String::from_utf8(checked.stderr).expect("text");
    assert!(checked.status.success() && said.contains("did you mean UPROAR_MAX_MESSAGE?"), "{said}");
    let quiet =
        run_to_end(uproar(&["check"]).env("UPROAR_SERVICE_HOST", "10.0.0.1").env("UPROAR_LOG", "warn"));
    assert_eq!(String::from_utf8(quiet.stderr).expect("text"), "");
}

#[test]
fn a_connection_limit_above_the_descriptor_limit_is_lowered_with_a_warning() {
    let args = ["--max-connections=5000", "--workers=1", "--backend=epoll"];
    let server = Process::start_with_descriptors(64, &args);
    wait_until("the log tells the limit", || server.log().contains("room for "));
    let log = server.log();
    let limit = log.split("the limit is ").nth(1).and_then(|rest| rest.split(';').next()).expect("a warning");
    assert!(limit.parse::<u32>().is_ok_and(|limit| limit < 64), "{log}");
    assert!(log.contains(&format!("room for {limit} connections")), "{log}");
    assert!(log.contains("--max-connections 5000") && log.contains("ulimit -Hn"), "{log}");
}

#[test]
fn an_unreadable_settings_file_is_refused_with_the_reason() {
    for (path, why) in [
        ("/nowhere/uproar.toml", "no such file; check the path"),
        ("/", "this is a directory; name the file in it"),
        ("/dev/zero", "more than 1048576 bytes"),
    ] {
        expect_start_failure(&mut uproar(&["--config", path]), &["--config", path, why]);
    }
    let wide: Vec<u8> = "\u{feff}app = \"echo\"\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    expect_start_failure(
        &mut uproar(&["--config", &settings_file("wide", wide)]),
        &["UTF-16", "save it as UTF-8"],
    );
}

#[test]
fn contradictory_options_are_refused_with_a_remedy() {
    let parts = ["--history-bytes 4096", "--lag-window 4096", "lower --history-bytes or raise --lag-window"];
    expect_start_failure(&mut uproar(&["--history-bytes=4096", "--lag-window=4096"]), &parts);
    for (first, second) in
        [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("127.0.0.1:1", "[::]:1")]
    {
        let parts = [first, second, "overlap", "leave one of them out"];
        expect_start_failure(&mut uproar(&["--listen", first, "--listen", second]), &parts);
    }
}
