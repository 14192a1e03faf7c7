//! An empty crate. The server is `server.cpp`; `Cargo.toml` locks the sources of the library.
