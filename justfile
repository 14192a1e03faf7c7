# The recipes that people use; `just` alone lists them.

default:
    @just --list

# The chat, on its defaults
run *ARGS:
    cargo run --release -- {{ARGS}}

# Everything that is tested in Rust
test:
    cargo test --workspace

# Formatting, lints, documentation
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Micro-benchmarks of the protocol and the hub
bench *ARGS:
    cargo bench --workspace {{ARGS}}

# The load generator, e.g. `just load storm --connections 500`
load *ARGS:
    cargo run --release --package loadgen -- {{ARGS}}

# The page in a real Chromium, on both backends
browser:
    tests/browser/run

# A new picture of the page for the README
screenshot:
    tests/browser/run screenshot

# Licences, sources and duplicates of the dependencies
deny:
    cargo deny check licenses bans sources

# All that CI does
ci:
    bash .ci/run
