//! Fuzz target: a command line, one argument a line. Accepted settings must be within their documented bounds.
#![no_main]

use clap::Parser;
use uproar::Options;
use uproar::config::Cli;

libfuzzer_sys::fuzz_target!(|input: &str| {
    let arguments = ["uproar"].into_iter().chain(input.split('\n'));
    let Ok(config) = Cli::try_parse_from(arguments).map(Cli::into_config) else { return };
    assert!((1..=1024).contains(&Options::from(&config).worker_count()), "{config:?}");
    assert!((1..=1 << 30).contains(&config.max_message), "{config:?}");
    assert!(!config.ping_seconds.is_zero() && !config.handshake_seconds.is_zero(), "{config:?}");
    if let Err(conflict) = config.check() {
        let line = conflict.to_string();
        assert!(line.contains("--") && !line.contains('\n'), "{line}");
    }
});
