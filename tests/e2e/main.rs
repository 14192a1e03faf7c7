//! End-to-end tests: the server over real sockets, most of them on both backends.
//!
//! Well-behaved clients are tungstenite's. Clients that break the protocol write their own bytes. No client uses the
//! server's frame code, so that client and server cannot share a bug.

#[macro_use]
#[allow(dead_code, reason = "the suites hostile and costs use the rest")]
mod support;

mod admin;
mod admin_token;
mod api;
mod api_lists;
mod api_users;
mod bad_options;
mod certificates;
mod chat;
mod compression;
mod config_file;
mod deferred;
mod descriptors;
mod endings;
mod frames;
mod handshake;
mod http;
mod jwks_url;
mod lag;
mod limits;
mod logs;
mod origins;
mod panics;
mod pauses;
mod presence;
mod process;
mod proxies;
mod publisher;
mod pusher;
mod rates;
mod relay;
mod reload;
mod restart;
mod rooms;
mod sandbox;
mod service;
mod sessions;
mod structured;
mod takeover;
mod timeouts;
mod timers;
mod tls;
mod tokens;
mod unix_socket;
mod users;
mod webhooks;
