"""Measures the server's CPU time for a ping and its pong, and the memory of idle connections.

Each round runs every server on both backends, one after the other. `loadgen idle` holds the connections and answers the
pings. During the measured window the server sends nothing but pings, so its counter of sends counts them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request

BACKENDS = ("io-uring", "epoll")
# Longest wait for something to happen, in seconds.
PATIENCE = 300


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/idle/run", description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--server", action="append", required=True, metavar="NAME=PROGRAM")
    parser.add_argument("--loadgen", required=True)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--ping-seconds", type=float, default=0.25, help="time between two pings of a connection")
    parser.add_argument("--seconds", type=float, default=20, help="length of the measured window")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def wait_until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        time.sleep(0.1)


class Server:
    """A running server with one worker, in relay mode."""

    def __init__(self, program, backend, ping_seconds):
        options = ["--app", "relay", "--workers", "1", "--backend", backend, "--ping-seconds", str(ping_seconds)]
        # A pong that comes late on a busy machine must not close its connection.
        options += ["--pong-seconds", "60", "--log", "warn", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True)
        lines = [self.process.stdout.readline() for _ in range(2)]
        self.port = int(re.search(r"listening on \S*:(\d+) ", "".join(lines)).group(1))
        self.metrics_url = re.search(r"admin on (http://[^/]*)/", "".join(lines)).group(1) + "/metrics"

    def metric(self, pattern):
        with urllib.request.urlopen(self.metrics_url, timeout=60) as response:
            text = response.read().decode()
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))

    def open_connections(self):
        return self.metric(r'uproar_connections\{[^}]*state="open"[^}]*\}')

    def worker_ns(self):
        """CPU time of the worker's thread, in nanoseconds."""
        tasks = f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm", encoding="ascii") as file:
                if not file.read().startswith("worker-"):
                    continue
            with open(f"{tasks}/{task}/schedstat", encoding="ascii") as file:
                return int(file.read().split()[0])
        sys.exit("the server has no worker")

    def sample(self):
        return {
            "seconds": time.monotonic(),
            "worker_ns": self.worker_ns(),
            "sends": self.metric(r"uproar_sends_total\{[^}]*\}"),
            "turns": self.metric(r"uproar_turns_total\{[^}]*\}"),
        }

    def stop(self):
        self.process.kill()
        self.process.wait()


def measure(arguments, name, program, backend, number):
    server = Server(program, backend, arguments.ping_seconds)
    figures = os.path.join(arguments.directory, f"{number}-{name}-{backend}.json")
    # loadgen measures memory during its own window, which must be longer than the window of this script.
    duration = arguments.seconds + 3 * arguments.ping_seconds + 20
    command = [arguments.loadgen, "idle", "--connections", str(arguments.connections), "--duration", f"{duration}s"]
    # Long timeouts do not affect the result, because only the window is measured.
    command += ["--connect-timeout", "60s", "--grace", "60s"]
    command += ["--url", f"ws://127.0.0.1:{server.port}/room/bench", "--json", figures]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_until("all connections are open", lambda: server.open_connections() == arguments.connections)
        # After this wait every connection has been pinged.
        time.sleep(2 * arguments.ping_seconds)
        before = server.sample()
        time.sleep(arguments.seconds)
        after = server.sample()
        if server.open_connections() != arguments.connections:
            sys.exit("connections were closed during the measurement")
        output = load.communicate(timeout=PATIENCE)[0]
        if load.returncode != 0:
            sys.exit(f"loadgen failed:\n{output}")
    finally:
        load.kill()
        server.stop()
    kernel = re.search(r"kernel (\d+) for both ends", output)
    delta = {key: after[key] - before[key] for key in before}
    return {
        "round": number,
        "server": name,
        "backend": backend,
        "connections": arguments.connections,
        "ping_seconds": arguments.ping_seconds,
        "window_seconds": round(delta["seconds"], 3),
        "pings": int(delta["sends"]),
        "turns": int(delta["turns"]),
        "worker_us": round(delta["worker_ns"] / 1000),
        "us_a_ping": round(delta["worker_ns"] / 1000 / delta["sends"], 2),
        "us_a_connection_and_second": round(
            delta["worker_ns"] / 1000 / delta["seconds"] / arguments.connections, 3
        ),
        "kernel_bytes_of_both_ends": int(kernel.group(1)) if kernel else None,
    }


def describe_machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = re.findall(r"model name\s*:\s*(.*)", file.read())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return f"Kernel {os.uname().release}, {len(models)} × {models[0] if models else 'unknown'}, commit {commit}."


def summarise(arguments, results):
    chosen = f"{arguments.connections:,} connections, a ping every {arguments.ping_seconds} s, {arguments.seconds:g} s a round."
    lines = ["# Idle connections", "", describe_machine(), "", chosen, ""]
    lines += ["Medians of the rounds; the ranges are in brackets.", ""]
    lines += ["| server | backend | µs a ping and pong | pings a turn | kernel bytes of both ends |"]
    lines += ["|---|---|---|---|---|"]
    for name, backend in dict.fromkeys((result["server"], result["backend"]) for result in results):
        own = [result for result in results if (result["server"], result["backend"]) == (name, backend)]
        costs = [result["us_a_ping"] for result in own]
        batches = [result["pings"] / result["turns"] for result in own]
        kernel = [result["kernel_bytes_of_both_ends"] for result in own if result["kernel_bytes_of_both_ends"]]
        cells = [name, backend, f"{statistics.median(costs):.2f} ({min(costs)}–{max(costs)})"]
        cells += [f"{statistics.median(batches):.1f}", f"{statistics.median(kernel):.0f}" if kernel else "unknown"]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    with open(os.path.join(arguments.directory, "summary.md"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text)


def main():
    arguments = parse_arguments()
    servers = [server.split("=", 1) for server in arguments.server]
    results = []
    with open(os.path.join(arguments.directory, "results.jsonl"), "w", encoding="utf-8") as file:
        for number in range(1, arguments.rounds + 1):
            for backend in BACKENDS:
                for name, program in servers:
                    result = measure(arguments, name, program, backend, number)
                    results.append(result)
                    print(json.dumps(result), file=file, flush=True)
                    print(json.dumps(result), flush=True)
    summarise(arguments, results)


if __name__ == "__main__":
    main()
