//! No Rust: see `server.cpp` and `Cargo.toml`.
