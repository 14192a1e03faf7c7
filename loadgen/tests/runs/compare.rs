//! Tests of `loadgen compare` from end to end, and of the results table of the README.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;

use serde_json::{Value, json};

use crate::server::{Fault, Mode, PROGRAM, serve, serve_on};
use crate::tls::serve_with_files;

/// Environment variables of [`a_server_process`]: listen address, mode, fault, and with TLS the certificate and key.
const LISTEN: &str = "TEST_SERVER_LISTEN";
const APP: &str = "TEST_SERVER_APP";
const FAULT: &str = "TEST_SERVER_FAULT";
const CERT: &str = "TEST_SERVER_CERT";
const KEY: &str = "TEST_SERVER_KEY";

/// A server process for other tests, which set its environment variables and start it.
#[test]
#[ignore = "it is the server of another test"]
fn a_server_process() {
    let Ok(address) = env::var(LISTEN) else { return };
    let is = |variable, value| env::var(variable).is_ok_and(|set| set == value);
    let listener = TcpListener::bind(&address).expect("the address is free");
    let mode = if is(APP, "echo") { Mode::Echo } else { Mode::Relay };
    let fault = if is(FAULT, "drop") { Fault::Drop } else { Fault::None };
    match (env::var_os(CERT), env::var_os(KEY)) {
        (Some(cert), Some(key)) => {
            serve_with_files(listener, serve(mode, fault), cert.as_ref(), key.as_ref());
        }
        _ => serve_on(listener, mode, fault),
    }
    println!("\nlistening on {address}");
    loop {
        thread::park();
    }
}

/// Returns the command that starts the server process [`a_server_process`], and the server's listen address.
pub(crate) fn own_server_command(app: &str) -> (Command, SocketAddr) {
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
    let mut command = Command::new(env::current_exe().expect("the test has a program"));
    command.args(["--exact", "compare::a_server_process", "--ignored", "--nocapture"]);
    command.env(LISTEN, address.to_string()).env(APP, app);
    (command, address)
}

/// Waits until the server process prints that it listens.
pub(crate) fn read_address(server: &mut Child) {
    let mut lines = BufReader::new(server.stdout.take().expect("it is a pipe")).lines();
    let found = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("listening on"));
    assert!(found, "the server ended before it listened");
    // Reads the server's further output, because the server blocks while its pipe is full.
    thread::spawn(move || lines.for_each(drop));
}

fn server(name: &str, fault: &str, apps: &[&str]) -> Value {
    let program = env::current_exe().expect("the test has a program");
    let test = ["--exact", "compare::a_server_process", "--ignored", "--nocapture"];
    let mut command = vec!["env".to_owned(), format!("{LISTEN}={{listen}}"), format!("{APP}={{app}}")];
    command.extend([format!("{FAULT}={fault}"), program.to_string_lossy().into_owned()]);
    command.extend(test.map(str::to_owned));
    json!({"name": name, "version": "1", "command": command, "apps": apps, "build": "", "notes": "a test"})
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("the program can be started")
}

/// Creates an empty directory for the test `name`.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the directory of temporary files can be written");
    path
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the directory of temporary files can be written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_comparison_writes_results_and_the_readme_table() {
    let home = directory("compare");
    let absent = json!({
        "name": "absent", "version": "1", "command": ["/no/such/program", "{listen}"], "apps": ["echo"],
        "build": "make absent",
    });
    let both = ["echo", "relay"];
    let servers =
        [server("one", "", &both), server("two", "", &both), server("lossy", "drop", &["echo"]), absent];
    let file = home.join("servers.json");
    write(&file, &json!({ "servers": servers }).to_string());
    let [file, results] = [file, home.join("results")].map(|path| path.to_string_lossy().into_owned());
    let output = run(&[
        "compare",
        "--servers-file",
        &file,
        "--results",
        &results,
        "--name",
        "test",
        // With 8 connections, the first messages of an echo run include the seventh message, which one server drops.
        "--connections",
        "8",
        "--rounds",
        "1",
        "--duration",
        "600ms",
        "--warmup",
        "0",
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("14 runs, about"), "{said}");

    let made = fs::read_dir(&results).expect("it was made").flatten().next().expect("there is one").path();
    let raw = read(&made.join("raw.jsonl"));
    let records: Vec<Value> =
        raw.lines().map(|line| serde_json::from_str(line).expect("each line is a run")).collect();
    assert_eq!(records.len(), 14);
    let passed = |name: &str, kind: &str| {
        let wanted = |record: &&Value| record["server"] == name && record["kind"] == kind;
        records.iter().find(wanted).map(|record| record["outcome"]["passed"].clone())
    };
    for kind in ["echo", "broadcast", "storm", "idle", "connect"] {
        assert_eq!(
            (passed("one", kind), passed("two", kind)),
            (Some(true.into()), Some(true.into())),
            "{kind}"
        );
    }
    assert_eq!(passed("lossy", "echo"), Some(false.into()));
    assert_eq!(passed("absent", "echo"), Some(Value::Null));

    check_files(&made);
    check_report(&home, &results);
}

/// Adds the paths of a certificate and a key to a server's entry in the servers file.
fn with_tls(mut server: Value, cert: &str, key: &str) -> Value {
    let command = server["command"].as_array_mut().expect("it is a list");
    command.splice(1..1, [format!("{CERT}={cert}").into(), format!("{KEY}={key}").into()]);
    server["tls"] = true.into();
    server
}

#[test]
fn servers_with_tls_are_compared_with_plain_ones() {
    let home = directory("compare-tls");
    let echo = ["echo"];
    let servers = [
        server("plain", "", &echo),
        with_tls(server("tls", "", &echo), "{cert}", "{key}"),
        with_tls(server("tls-rsa", "", &echo), "{rsa-cert}", "{rsa-key}"),
    ];
    let file = home.join("servers.json");
    write(&file, &json!({ "servers": servers }).to_string());
    let results = home.join("results");
    let [file, results] = [file, results].map(|path| path.to_string_lossy().into_owned());
    let common =
        ["compare", "--servers-file", &file, "--results", &results, "--rounds", "1", "--scenarios", "echo"];
    let times = ["--connections", "3", "--duration", "300ms", "--warmup", "0"];
    let made = |name: &str, chosen: &[&str]| {
        let output = run(&[&common[..], &times, &["--name", name], chosen].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let directories = fs::read_dir(&results).expect("it was made").flatten().map(|entry| entry.path());
        let made = directories.into_iter().find(|path| path.to_string_lossy().ends_with(name));
        let made = made.expect("the directory ends with the name");
        assert!(!made.join("certificates").exists(), "the keys are removed");
        let raw = read(&made.join("raw.jsonl"));
        let record = |line| serde_json::from_str::<Value>(line).expect("each line is a run");
        let records: Vec<Value> = raw.lines().map(record).collect();
        for record in &records {
            assert_eq!(record["outcome"]["passed"], true, "{record}");
        }
        let urls = records.iter().map(|record| record["outcome"]["options"]["url"].as_str().unwrap_or(""));
        urls.map(|url| url.split(':').next().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(made("usual", &[]), ["ws"]);
    assert_eq!(made("everything", &["--tls"]), ["ws", "wss", "wss"]);
    assert_eq!(made("named", &["--servers", "tls-rsa,plain"]), ["wss", "ws"]);
}

/// Checks all files of a comparison except the raw data.
fn check_files(made: &Path) {
    let summary = read(&made.join("summary.md"));
    assert!(summary.contains("- lossy: failed: 1 messages lost"), "{summary}");
    assert!(summary.contains("make absent"), "{summary}");
    for name in ["storm-cost", "storm-deliveries", "memory", "echo-8-latency", "broadcast-8-latency"] {
        assert!(read(&made.join(format!("{name}.svg"))).contains("two"), "{name}");
    }
    assert!(read(&made.join("echo-8-one.hgrm")).contains("Percentile"));
    let environment: Value = serde_json::from_str(&read(&made.join("env.json"))).expect("it is JSON");
    assert!(environment["finished"].is_string() && environment["servers"][0]["notes"] == "a test");
    assert!(environment["kernel"] != "unknown");
}

/// Checks that `loadgen report` writes a comparison's figures into a README, and finds a changed figure.
fn check_report(home: &Path, results: &str) {
    let readme = home.join("README.md");
    write(&readme, "before\n<!-- results: begin -->\n<!-- results: end -->\nafter\n");
    let readme_path = readme.to_string_lossy();
    let report = ["report", "--results", results, "--readme", &readme_path];
    let check = [&report[..], &["--check"]].concat();
    assert_eq!(run(&check).status.code(), Some(1), "an empty place has no figures");
    assert!(run(&report).status.success() && run(&check).status.success());
    let text = read(&readme);
    assert!(
        text.starts_with("before\n") && text.contains("| one 1 |") && text.ends_with("\nafter\n"),
        "{text}"
    );

    // Changes one digit of one figure in the README.
    let at = text.find("| one 1 |").expect("it has a row") + "| one 1 | ".len();
    let digit = if text[at..].starts_with('7') { "8" } else { "7" };
    write(&readme, &format!("{}{digit}{}", &text[..at], &text[at + 1..]));
    let output = run(&check);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run `loadgen report`"));
}

#[test]
fn the_table_of_this_readme_matches_the_raw_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(PROGRAM).args(["report", "--check"]).current_dir(root).output();
    let output = output.expect("the program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
