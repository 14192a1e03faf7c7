//! Hostile clients next to well-behaved ones, on both backends.
//!
//! Each test makes one attack on a chat in which `chat_users::USERS` users talk. It asserts that each user receives
//! every message of its room once and in order. The delivery times before and during the attack are printed and not
//! asserted. With `UPROAR_REPORT=FILE` they are also appended to the file as JSON. `README.md` in this directory lists
//! the attacks.

#[macro_use]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/support/mod.rs"]
mod support;

/// Makes two ignored tests of each listed attack, one for each backend. These attacks take seconds: `just hostile` and
/// CI run the tests.
macro_rules! slowly_on_both_backends {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] #[ignore = "takes seconds; run: just hostile"]
            fn $name() { super::$name(uproar::config::BackendName::IoUring); })+
        }
        mod epoll {
            $(#[test] #[ignore = "takes seconds; run: just hostile"]
            fn $name() { super::$name(uproar::config::BackendName::Epoll); })+
        }
    };
}

mod chat_users;
mod connections;
mod floods;
mod frames;
mod harness;
mod memory;
mod pusher;
mod readers;
mod readme;
mod requests;
mod resources;
mod rooms;
mod storms;
mod work;
