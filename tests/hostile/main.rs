//! Hostile clients beside well-behaved ones, on both backends.
//!
//! Each test is one attack on a chat in which 200 people talk. That each of them hears everything, once and in
//! order, is asserted; how long it took with and without the attack is only reported: on the output, and as lines
//! of JSON in the file that `UPROAR_REPORT` names. `README.md` beside this file is the table of attacks.

#[macro_use]
#[allow(dead_code, reason = "the end-to-end tests use what these do not")]
#[path = "../e2e/support/mod.rs"]
mod support;

/// As `on_both_backends`, for attacks that take seconds: `just hostile` runs them, `cargo test` alone does not.
macro_rules! at_length_on_both_backends {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] #[ignore = "it takes seconds; run: just hostile"]
            fn $name() { super::$name(uproar::config::BackendName::IoUring); })+
        }
        mod epoll {
            $(#[test] #[ignore = "it takes seconds; run: just hostile"]
            fn $name() { super::$name(uproar::config::BackendName::Epoll); })+
        }
    };
}

mod chatters;
mod connections;
mod floods;
mod frames;
mod readers;
mod resources;
mod rooms;
mod scene;
