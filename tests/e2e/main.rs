//! The server from outside, on both backends: what its users and their clients rely on.
//!
//! Well-behaved clients are tungstenite's, rude ones write their bytes themselves. Nothing of the server's own
//! frame code is used, so that the two sides cannot agree on a mistake.

#[macro_use]
#[allow(dead_code, reason = "the other suites use what this one does not")]
mod support;

mod admin;
mod bad_options;
mod certificates;
mod chat;
mod compression;
mod config_file;
mod descriptors;
mod endings;
mod frames;
mod handshake;
mod lag;
mod limits;
mod logs;
mod origins;
mod panics;
mod process;
mod proxies;
mod rates;
mod relay;
mod reload;
mod sandbox;
mod service;
mod takeover;
mod timeouts;
mod tls;
mod tokens;
mod unix_socket;
