//! What a command line and a file come to.

use super::*;

#[test]
fn the_default_is_what_an_empty_command_line_gives() {
    let parsed = Cli::parse_from(["uproar"]).into_config();
    assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    let served = Cli::parse_from(["uproar", "serve"]).into_config();
    assert_eq!(format!("{served:?}"), format!("{parsed:?}"));
}

#[test]
fn several_addresses_can_be_given_in_both_ways() {
    let args = ["uproar", "--listen", "127.0.0.1:1", "--listen", "[::1]:2,127.0.0.1:3"];
    let ports: Vec<u16> = Cli::parse_from(args).into_config().listen.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [1, 2, 3]);
}

#[test]
fn a_history_that_makes_newcomers_lag_is_refused() {
    let config = Config { history_bytes: 1024, lag_window: 1024, ..Config::default() };
    assert!(config.check().is_err_and(|line| line.to_string().contains("--history-bytes 1024")));
}
