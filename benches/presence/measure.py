"""Measures what presence costs the server in a room of many pages while clients join and leave.

Modes: "presence" has pages that get the presence of their room, "who" has pages that ask with /who every 20 seconds, and "none"
has the same connections without either. Each round runs every mode on both backends. Every page reads all that it gets. Some
pages, the witnesses, also check it: each must have heard the latest count of members at the end.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import select
import socket
import statistics
import struct
import subprocess
import sys
import time

BACKENDS = ("io-uring", "epoll")
QUERIES = {"presence": "?format=json&presence=1", "who": "?format=json", "none": "?format=json"}
ROOM = "/room/crowd"
WHO_SECONDS = 20
WITNESSES = 10
# Longest wait for something to happen, in seconds.
PATIENCE = 120
# A text frame with /who, masked with zeros.
WHO = b"\x81\x84\0\0\0\0/who"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/presence/run", description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--server", required=True, metavar="PROGRAM")
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--changes", type=float, default=10, help="clients that join, and that leave, per second")
    parser.add_argument("--seconds", type=float, default=20, help="length of the measured window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode", action="append", choices=list(QUERIES), help="all by default")
    return parser.parse_args()


class Server:
    """A running chat with one worker on the first core."""

    def __init__(self, program, backend):
        options = ["--workers", "1", "--backend", backend, "--ping-seconds", "600", "--log", "warn"]
        options += ["--listen", "127.0.0.1:0", "--drain-seconds", "0"]
        self.process = subprocess.Popen(["taskset", "-c", "0", program, *options], stdout=subprocess.PIPE, text=True)
        self.port = int(re.search(r"listening on \S*:(\d+) ", self.process.stdout.readline()).group(1))

    def cpu_ns(self):
        """CPU time of all threads, in nanoseconds."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


class Clients:
    """Connections to the server. All that arrives is read; that of witnesses is kept."""

    def __init__(self, port):
        self.port = port
        self.epoll = select.epoll()
        self.sockets = {}
        self.witnesses = {}
        self.bytes = 0
        # When the first change after the last update was made, and how long each update came after such a change.
        self.changed = None
        self.delays = []

    def open(self, path, is_witness=False):
        """Opens a WebSocket. Returns its descriptor. The upgrade is not awaited."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        client.setblocking(False)
        self.sockets[client.fileno()] = client
        if is_witness:
            self.witnesses[client.fileno()] = Witness()
        self.epoll.register(client, select.EPOLLIN)
        return client.fileno()

    def close(self, descriptor):
        self.epoll.unregister(descriptor)
        self.sockets.pop(descriptor).close()

    def read(self, seconds):
        """Reads what arrives, for at most so many seconds until the first bytes."""
        for descriptor, _ in self.epoll.poll(max(seconds, 0), 4096):
            try:
                data = self.sockets[descriptor].recv(65_536)
            except (BlockingIOError, KeyError):
                continue
            if not data:
                sys.exit("the server closed a connection")
            self.bytes += len(data)
            if descriptor in self.witnesses:
                witness = self.witnesses[descriptor]
                updates = witness.updates
                witness.take(data)
                # The first page is the last one of the room to which an update is sent.
                if witness.updates > updates and descriptor == next(iter(self.witnesses)) and self.changed:
                    self.delays.append(time.monotonic() - self.changed)
                    self.changed = None


class Witness:
    """A page that checks the presence of its room."""

    def __init__(self):
        self.data = b""
        self.is_open = False
        self.count = None
        self.updates = 0

    def take(self, data):
        self.data += data
        if not self.is_open:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                sys.exit(f"no upgrade: {head.decode()}")
            self.data, self.is_open = rest, True
        while (frame := self.next_frame()) is not None:
            if frame[:1] == b"{":
                self.heed(json.loads(frame))

    def next_frame(self):
        if len(self.data) < 2:
            return None
        length, start = self.data[1], 2
        if length == 126:
            length, start = struct.unpack_from("!H", self.data.ljust(4, b"\0"), 2)[0], 4
        elif length == 127:
            sys.exit("a frame of more than 65,535 bytes")
        if len(self.data) < start + length:
            return None
        frame, self.data = self.data[start : start + length], self.data[start + length :]
        return frame

    def heed(self, event):
        if event["event"] in ("present", "presence"):
            self.count = event["count"]
            self.updates += event["event"] == "presence"


def until(clients, what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        clients.read(0.05)


def measure(arguments, backend, mode):
    server = Server(arguments.server, backend)
    try:
        return measure_with(server, arguments, backend, mode)
    finally:
        server.stop()


def measure_with(server, arguments, backend, mode):
    clients = Clients(server.port)
    path = ROOM + QUERIES[mode]
    pages = []
    for number in range(arguments.pages):
        pages.append(clients.open(path, is_witness=number < WITNESSES))
        if number % 100 == 0:
            clients.read(0)
    guests = [clients.open(ROOM) for _ in range(50)]
    members = arguments.pages + len(guests)
    if mode == "presence":
        until(clients, "all members are counted", lambda: all(w.count == members for w in clients.witnesses.values()))
    settle = time.monotonic() + 3
    while time.monotonic() < settle:
        clients.read(0.05)

    before = [witness.updates for witness in clients.witnesses.values()]
    begin, cpu, received = time.monotonic(), server.cpu_ns(), clients.bytes
    own = time.process_time()
    clients.changed, clients.delays = None, []
    changes = asked = 0
    while (elapsed := time.monotonic() - begin) < arguments.seconds:
        if changes < elapsed * arguments.changes * 2:
            # Ten clients join, then ten leave. With a constant number of members there would be nothing to tell in a large room.
            if changes // 10 % 2 == 0:
                guests.append(clients.open(ROOM))
            else:
                clients.close(guests.pop(0))
            changes += 1
            clients.changed = clients.changed or time.monotonic()
        if mode == "who":
            while asked < elapsed * arguments.pages / WHO_SECONDS:
                clients.sockets[pages[asked % len(pages)]].send(WHO)
                asked += 1
        clients.read(0.01)
    elapsed, cpu = time.monotonic() - begin, server.cpu_ns() - cpu
    result = {
        "backend": backend,
        "mode": mode,
        "pages": arguments.pages,
        "seconds": elapsed,
        "changes": changes,
        "server_cpu_ms_per_second": cpu / 1e6 / elapsed,
        "client_cpu_share": (time.process_time() - own) / elapsed,
        "received_bytes_per_second": (clients.bytes - received) / elapsed,
    }
    if mode == "presence":
        members = arguments.pages + len(guests)
        until(clients, "all hear the last change", lambda: all(w.count == members for w in clients.witnesses.values()))
        updates = [w.updates - old for w, old in zip(clients.witnesses.values(), before)]
        delays = sorted(clients.delays)
        result["delay_ms"] = {"median": statistics.median(delays) * 1e3, "max": delays[-1] * 1e3}
        result["updates_per_second"] = statistics.mean(updates) / elapsed
        result["server_us_per_update_and_page"] = cpu / 1e3 / statistics.mean(updates) / arguments.pages
    for client in clients.sockets.values():
        client.close()
    return result


def summarize(results):
    lines = [
        "| mode | backend | server CPU, ms a second | spread | received, MB a second | updates a second | delay, ms: median, longest | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode in QUERIES:
        for backend in BACKENDS:
            runs = [result for result in results if (result["mode"], result["backend"]) == (mode, backend)]
            if not runs:
                continue
            cpu = [run["server_cpu_ms_per_second"] for run in runs]
            received = statistics.median(run["received_bytes_per_second"] for run in runs) / 1e6
            updates = statistics.median(run.get("updates_per_second", 0) for run in runs)
            delays = [run["delay_ms"] for run in runs if "delay_ms" in run]
            delay = "-"
            if delays:
                longest = max(delay["max"] for delay in delays)
                delay = f"{statistics.median(delay['median'] for delay in delays):.0f}, {longest:.0f}"
            lines.append(
                f"| {mode} | {backend} | {statistics.median(cpu):.1f} | {min(cpu):.1f} to {max(cpu):.1f} | {received:.2f} "
                f"| {updates:.2f} | {delay} | {len(runs)} |"
            )
    return "\n".join(lines)


def main():
    arguments = parse_arguments()
    modes = arguments.mode or list(QUERIES)
    results = []
    with open(arguments.directory / "results.jsonl", "w", encoding="utf-8") as file:
        about = {"kernel": platform.release(), "load": os.getloadavg(), "arguments": {**vars(arguments), "directory": None, "server": None}}
        file.write(json.dumps(about) + "\n")
        for round_number in range(arguments.rounds):
            runs = [(mode, backend) for mode in modes for backend in BACKENDS]
            # Every second round runs in reverse, so that nothing is always first.
            for mode, backend in runs if round_number % 2 == 0 else reversed(runs):
                result = measure(arguments, backend, mode)
                print(json.dumps(result), flush=True)
                file.write(json.dumps(result) + "\n")
                results.append(result)
    summary = summarize(results)
    (arguments.directory / "summary.md").write_text(summary + "\n", encoding="utf-8")
    print(summary)


main()
