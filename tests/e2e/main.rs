//! The server from outside, on both backends: what its users and their clients rely on.
//!
//! Well-behaved clients are tungstenite's, rude ones write their bytes themselves. Nothing of the server's own
//! frame code is used, so that the two sides cannot agree on a mistake.

/// Makes each test of the module one for io_uring and one for epoll. Where io_uring is not to be had, its tests
/// fail: the backend must not go untested unnoticed.
macro_rules! on_both_backends {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(uproar::config::BackendName::IoUring); })+
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(uproar::config::BackendName::Epoll); })+
        }
    };
}

mod admin;
mod bad_options;
mod chat;
mod compression;
mod config_file;
mod descriptors;
mod endings;
mod frames;
mod handshake;
mod lag;
mod limits;
mod origins;
mod panics;
mod process;
mod rates;
mod relay;
mod reload;
#[allow(dead_code, reason = "the tests of hostile clients use what these do not")]
mod support;
mod timeouts;
