//! Tests of helper processes when descriptors are short, and of signals.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};

use crate::server::{Fault, Mode, PROGRAM, finish, prepare, serve};

/// Returns a command that runs loadgen with a limit of 550 descriptors. Loadgen reserves 500 descriptors for other uses
/// than connections.
pub(crate) fn with_few_descriptors() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 550; exec \"$0\" \"$@\"", PROGRAM]);
    command
}

#[test]
fn helper_processes_share_the_connections_and_their_results_add_up() {
    let broadcast = "broadcast -c 120 --publishers 4 --rate 40 --duration 500ms --quiet";
    let address = serve(Mode::Relay, Fault::None);
    let (output, figures) = finish("helpers", prepare(with_few_descriptors(), address, "helpers", broadcast));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(figures["generator"].as_array().map(Vec::len), Some(3));
    assert_eq!(figures["connections"]["opened"], 120);
    assert_eq!(figures["messages"]["received"], 20 * 120);
    assert_eq!(figures["one_order"], true);

    let address = serve(Mode::Relay, Fault::Duplicate);
    let (output, figures) = finish("helpers", prepare(with_few_descriptors(), address, "helpers", broadcast));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(figures["messages"]["duplicated"], 120);
}

/// Reads loadgen's progress lines until a line contains `word`.
fn wait_for(run: &mut Child, word: &str) {
    let lines = BufReader::new(run.stderr.take().expect("it is a pipe")).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(word));
    assert!(found, "the run ended without `{word}`");
}

#[test]
fn an_interrupt_ends_a_run_with_the_figures_so_far() {
    for few in [false, true] {
        let command = if few { with_few_descriptors() } else { Command::new(PROGRAM) };
        let address = serve(Mode::Relay, Fault::None);
        let arguments = "broadcast -c 60 --rate 40 --duration 1h";
        let mut run = prepare(command, address, "interrupt", arguments);
        wait_for(&mut run, "p99");
        let pid = run.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().is_ok_and(|status| status.success()));
        let (output, figures) = finish("interrupt", run);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(figures["interrupted"], true);
        let messages = &figures["messages"];
        assert!(messages["sent"].as_u64() >= Some(1), "{messages}");
        assert_eq!(messages["received"].as_u64(), messages["sent"].as_u64().map(|sent| sent * 60));
    }
}
