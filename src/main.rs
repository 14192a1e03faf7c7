//! The `uproar` server.
fn main() {}
