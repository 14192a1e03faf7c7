# The recipes that people use; `just` alone lists them.

default:
    @just --list

# The chat, on its defaults
run *ARGS:
    cargo run --release -- {{ARGS}}

# Everything that is tested in Rust
test:
    cargo test --workspace

# Whole shards on a simulated kernel: so many fresh seeds
sim RUNS="100000":
    UPROAR_SIM_RUNS={{RUNS}} cargo test --release --lib sim::tests::fresh_seeds -- --nocapture

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

# Every attack beside 200 people who talk, in release; FILE gets a line of JSON for each
hostile FILE="target/hostile.jsonl":
    cargo test --release --test hostile --no-run
    rm -f {{FILE}}
    UPROAR_REPORT="{{absolute_path(FILE)}}" cargo test --release --test hostile -- --include-ignored --test-threads=1 --nocapture

# The page in a real Chromium, on both backends
browser:
    tests/browser/run

# Autobahn's fuzzing client, all 517 cases, on both backends (needs Python 2.7)
autobahn SET="full":
    tests/autobahn/run {{SET}}

# Real clients from the package registries, on both backends
clients:
    tests/clients/run

# Debian's nginx in front of the server, as deploy/nginx.conf has it, on both backends
nginx:
    tests/nginx/run

# The units of systemd in deploy
units:
    tests/units/run

# The program of the container, without an engine
container:
    tests/container/run

# A new picture of the page for the README
screenshot:
    tests/browser/run screenshot

# Licences, sources and duplicates of the dependencies
deny:
    cargo deny check licenses bans sources

# Fuzzes each target for so many seconds, two at a time; needs a nightly compiler
fuzz SECONDS *TARGETS:
    fuzz/run {{SECONDS}} {{TARGETS}}

# Memory checkers: valgrind, asan or miri
memory TOOL:
    tests/memory/run {{TOOL}}

# Every interleaving of the flags that threads meet on
loom:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib sync

# How a crowd comes back when its server ends; DIRECTORY gets the figures
drain DIRECTORY ROUNDS="3":
    cargo build --release --workspace
    benches/drain/run {{DIRECTORY}} {{ROUNDS}}

# All servers side by side, under 25 minutes; results/DATE-NAME gets the figures
compare *ARGS:
    cargo build --release --workspace
    target/release/loadgen compare --build {{ARGS}}

# The same in 3 minutes, for a first look
compare-quick *ARGS:
    cargo build --release --workspace
    target/release/loadgen compare --build --quick --rounds 1 --duration 1s --warmup 300ms --name quick {{ARGS}}

# The README's table from the newest results
report *ARGS:
    cargo run --release -p loadgen --quiet -- report {{ARGS}}

# All that CI does
ci:
    bash .ci/run

# What takes a crowd: leaving, subscribers or workers; figures go to results/.
scale WHAT:
    benches/scale/run {{WHAT}}
