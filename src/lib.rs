//! A WebSocket chat and broadcast server for Linux: thread per core, on io_uring with an epoll twin.
//!
//! `ARCHITECTURE.md` is the map of this crate.

mod admin;
pub mod app;
pub mod chunk;
pub mod config;
pub mod hub;
pub mod io;
mod page;
pub mod protocol;
mod proxied;
pub mod server;
mod shard;
#[cfg(test)]
mod sim;
pub mod stats;
mod sync;
pub mod timers;
mod tls;
mod token;
