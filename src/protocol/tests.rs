//! Tests of the whole protocol; each module tests its own parts.

pub(super) mod naive;

use proptest::test_runner::Config;

/// Miri is some hundred times slower, and has no working directory to write failures to.
pub(super) fn config(cases: u32) -> Config {
    Config { cases: if cfg!(miri) { 4 } else { cases }, failure_persistence: None, ..Config::default() }
}
