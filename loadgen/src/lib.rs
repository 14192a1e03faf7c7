//! A load generator for WebSocket servers that checks every message it gets back.

pub mod ws;
