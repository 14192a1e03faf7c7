# Recipes for everyday tasks. The comment above a recipe is its help in `just --list`.

# List the recipes
default:
    @just --list

# Run the chat
run *ARGS:
    cargo run --release -- {{ARGS}}

# Run all Rust tests except those that take long
test:
    cargo test --workspace

# Simulate whole shards on a fake kernel with RUNS random seeds
sim RUNS="100000":
    UPROAR_SIM_RUNS={{RUNS}} cargo test --release --lib sim::tests::fresh_seeds -- --nocapture

# Check formatting, lints and documentation
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Run the micro-benchmarks of the protocol, compression and the hub
bench *ARGS:
    cargo bench --workspace {{ARGS}}

# Count the instructions per message of WORKLOAD in the hub (local, remote, fan-out or rooms-N); needs valgrind
instructions WORKLOAD:
    benches/instructions.sh {{WORKLOAD}}

# Run the load generator, for example `just load storm --connections 500`
load *ARGS:
    cargo run --release --package loadgen -- {{ARGS}}

# Run every attack of tests/hostile in release; FILE gets a line of JSON for each
hostile FILE="target/hostile.jsonl":
    cargo test --release --test hostile --no-run
    rm -f {{FILE}}
    UPROAR_REPORT="{{absolute_path(FILE)}}" cargo test --release --test hostile -- --include-ignored --test-threads=1 --nocapture

# Measure small GET requests beside nginx; DIRECTORY gets the figures
requests DIRECTORY:
    benches/requests/run {{DIRECTORY}}

# Measure publishing over HTTP beside nchan and the bare kernel in 14 minutes; DIRECTORY gets the figures
publish DIRECTORY:
    benches/publish/run {{DIRECTORY}}

# Measure the Pusher server beside sockudo and the bare kernel; DIRECTORY gets the figures
pusher DIRECTORY:
    benches/pusher/run {{DIRECTORY}}

# Test the page in Chromium, on both backends
browser:
    tests/browser/run

# Run Autobahn's fuzzing client with SET quick or full; needs Python 2.7
autobahn SET="full":
    tests/autobahn/run {{SET}}

# Test with independent WebSocket clients, on both backends
clients:
    tests/clients/run

# Test the examples in PHP, Node.js and Python, on both backends
backends:
    tests/backends/run

# Test with stock Pusher libraries, on both backends
pusher:
    tests/pusher/run

# Test behind Debian's nginx with the configurations in deploy, on both backends
nginx:
    tests/nginx/run

# Check the systemd units in deploy
units:
    tests/units/run

# Run the program of the container image without a container engine
container:
    tests/container/run

# Take a new screenshot of the page for the README
screenshot:
    tests/browser/run screenshot

# Check licences, sources and duplicates of the dependencies
deny:
    cargo deny check licenses bans sources

# Run the fuzz targets, all or those in TARGETS, each for SECONDS; needs a nightly compiler
fuzz SECONDS *TARGETS:
    fuzz/run {{SECONDS}} {{TARGETS}}

# Run tests under a memory checker, TOOL is valgrind, asan or miri; the last two need a nightly compiler
memory TOOL:
    tests/memory/run {{TOOL}}

# Test every interleaving of the flags that threads share
loom:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --lib sync

# Measure how 5,000 clients reconnect after a shutdown; DIRECTORY gets the figures
drain DIRECTORY ROUNDS="3":
    cargo build --release --workspace
    benches/drain/run {{DIRECTORY}} {{ROUNDS}}

# Measure what presence costs in a room of 10,000 pages; DIRECTORY gets the figures
presence DIRECTORY:
    benches/presence/run {{DIRECTORY}}

# Compare all servers in under 25 minutes; results/DATE-NAME gets the figures
compare *ARGS:
    cargo build --release --workspace
    target/release/loadgen compare --build {{ARGS}}

# Compare all servers in 3 minutes, for a first impression
compare-quick *ARGS:
    cargo build --release --workspace
    target/release/loadgen compare --build --quick --rounds 1 --duration 1s --warmup 300ms --name quick {{ARGS}}

# Update the README's table from the newest comparison in results
report *ARGS:
    cargo run --release -p loadgen --quiet -- report {{ARGS}}

# Measure what each attack costs the server, per byte that the attacker sends; DIRECTORY gets the figures
hostile-costs DIRECTORY:
    cargo build --release
    benches/hostile/run {{DIRECTORY}}

# Measure WHAT grows with many clients: leaving, subscribers or workers; results/DATE-WHAT gets the figures
scale WHAT:
    benches/scale/run {{WHAT}}

# Run everything that CI runs
ci:
    bash .ci/run
