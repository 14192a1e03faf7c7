//! Every option refuses what it cannot be, and says what it wants.

use std::collections::BTreeSet;

use crate::support::process::{expect_start_failure, run_to_end, settings_file, uproar};

/// Options with values that they refuse.
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
    ("--max-handshakes", &["-1", "x"]),
    ("--allowed-origins", &["example.org", "ftp://x", "https://", "https://a/b", "https://*a.org"]),
    ("--trusted-proxies", &["proxy.example", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.0/104", "*"]),
    ("--proxy-protocol", &["maybe", "1", "v2"]),
    ("--auth-hmac-secret-file", &["/nowhere/secret", "/", "/dev/null", "/dev/zero"]),
    ("--max-message", &["0", "1073741825", "1M"]),
    ("--message-rate", &["-1", "x", "4294967296"]),
    ("--byte-rate", &["-1", "64K"]),
    ("--lag-window", &["0", "1023", "1073741825"]),
    ("--lag-policy", &["forgive"]),
    ("--compression", &["gzip", "on"]),
    ("--compression-threshold", &["-1", "1K"]),
    ("--context-memory", &["-1", "64M", "4294967296"]),
    ("--history-bytes", &["-1", "64K", "524289"]),
    ("--history-seconds", &["-1", "soon", "nan", "inf", "1e9"]),
    ("--history-memory", &["-1", "x"]),
    ("--handshake-seconds", &["0", "-1", "0.0001"]),
    ("--ping-seconds", &["0", "x"]),
    ("--pong-seconds", &["0", "x"]),
    ("--close-seconds", &["0", "x"]),
    ("--drain-delay", &["-1", "x"]),
    ("--drain-seconds", &["-1", "x"]),
    ("--admin", &["9100", "localhost:9100", "127.0.0.1:70000"]),
    ("--log-format", &["xml", ""]),
    ("--log", &["uproar=loud", "=,="]),
];

#[test]
fn every_option_refuses_bad_values() {
    for (option, values) in BAD {
        for value in *values {
            let argument = format!("{option}={value}");
            expect_start_failure(&mut uproar(&[&argument]), &[option, value]);
            let name = format!("UPROAR_{}", option[2..].to_uppercase().replace('-', "_"));
            expect_start_failure(uproar(&[]).env(name, value), &[option, value]);
        }
    }
}

/// The same values in a file, each with quotes and without: a number with quotes is as wrong as a word without.
#[test]
fn every_key_of_the_file_refuses_bad_values() {
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

/// Whoever adds an option gives it a row above.
#[test]
fn every_option_is_in_the_table() {
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
}

#[test]
fn what_cannot_be_together_is_refused_with_a_way_out() {
    let parts = ["--history-bytes 4096", "--lag-window 4096", "lower the one or raise the other"];
    expect_start_failure(&mut uproar(&["--history-bytes=4096", "--lag-window=4096"]), &parts);
    for (first, second) in
        [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("127.0.0.1:1", "[::]:1")]
    {
        let parts = [first, second, "overlap", "leave one of them out"];
        expect_start_failure(&mut uproar(&["--listen", first, "--listen", second]), &parts);
    }
}
