//! A WebSocket chat and broadcast server for Linux: thread per core, on io_uring with an epoll twin.
//!
//! `ARCHITECTURE.md` is the map of this crate.

pub mod chunk;
pub mod io;
pub mod protocol;
