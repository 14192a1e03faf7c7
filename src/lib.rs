//! A WebSocket chat and broadcast server for Linux: thread per core, on io_uring with an epoll twin.
//!
//! `ARCHITECTURE.md` is the map of this crate.

// The features that are off leave code without a caller. The workspace's own checks have them all on.
#![cfg_attr(
    not(all(feature = "admin", feature = "internals")),
    allow(dead_code, unfulfilled_lint_expectations, unreachable_pub, unused_imports)
)]

#[cfg(feature = "admin")]
mod admin;
pub mod app;
#[cfg(not(feature = "internals"))]
mod chunk;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod chunk;
pub mod config;
#[cfg(not(feature = "internals"))]
mod hub;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod hub;
#[cfg(not(feature = "internals"))]
mod io;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod io;
mod names;
mod page;
#[cfg(not(feature = "internals"))]
mod protocol;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod protocol;
mod proxied;
pub mod server;
mod shard;
#[cfg(test)]
mod sim;
#[cfg(not(feature = "internals"))]
mod stats;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod stats;
mod sync;
#[cfg(not(feature = "internals"))]
mod timers;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod timers;
mod tls;
mod token;
mod transport;
mod watch;

pub use config::{Endpoint, Options};
pub use server::Server;
