//! An empty crate. The uWebSockets server is `server.cpp`; `Cargo.toml` locks the sources of the library.
