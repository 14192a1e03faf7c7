# Functions of the scripts tests/*/run, fuzz/run and .ci/run. Source this file; it changes to the repository's
# root. shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD
export PATH="$PATH:/usr/sbin:/sbin"

# Cargo's target directory as an absolute path, so that it stays valid after `cd`.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
mkdir -p "$target"
export CARGO_TARGET_DIR="$target"

fail() { # MESSAGE…
    echo "$0: $*" >&2
    exit 1
}

# Installs Debian packages. Scripts that run at the same time wait for each other.
apt_install() { # PACKAGE…
    flock "${TMPDIR:-/tmp}/uproar-apt.lock" sh -ec '
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"
    ' apt_install "$@"
}

# Installs a command that is missing.
need() { # COMMAND PACKAGE…
    command -v "$1" >/dev/null || apt_install "${@:2}"
    command -v "$1" >/dev/null || fail "$1 is missing although apt-get has installed ${*:2}"
}

# Builds the release program, unless SERVER_BIN names one. Sets `binary`.
build_server() {
    binary=${SERVER_BIN:-$target/release/uproar}
    [ -n "${SERVER_BIN:-}" ] || cargo build --release --locked --quiet --bin uproar
}

# Retries a command for up to 30 seconds.
wait_for() { # WHAT COMMAND…
    local try
    for try in $(seq 300); do
        if "${@:2}" 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "timed out after $try tries: $1" >&2
    return 1
}

# Processes that `stop_processes` ends. Add the id of everything that runs in the background.
processes=()

# Starts the server and waits until it listens. Sets `server`, its process id, and `address`, its first listener.
start_server() { # LOG OPTION…
    rm -f "$1"
    "$binary" "${@:2}" >"$1" 2>&1 &
    server=$!
    processes+=("$server")
    if ! wait_for "no server listens" grep -q '^listening on ' "$1"; then
        cat "$1" >&2
        return 1
    fi
    address=$(sed -n 's/^listening on \(tls:\)\?\([^ ]*\) .*/\2/p' "$1" | head -n 1)
}

# Ends all background processes. Fails when a server did not exit with 0.
stop_processes() {
    local process status=0
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    for process in "${processes[@]}"; do wait "$process" || status=1; done
    processes=()
    return "$status"
}

# Prints a TCP port on which nothing listens. Needs python3.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Succeeds if something listens on a local TCP port.
connects() { # PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$1")
}

# Writes a self-signed certificate for localhost: cert.pem and key.pem.
make_certificate() { # DIRECTORY
    need openssl openssl
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$1/key.pem" -out "$1/cert.pem" 2>/dev/null
}
