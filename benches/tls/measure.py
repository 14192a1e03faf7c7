"""What TLS costs the server: memory of an idle connection, CPU time of a connection made and of a message echoed.

    measure.py UPROAR [CONNECTIONS]

Runs the server (a release build) with one worker for each backend, with plain connections and with both versions of TLS,
an ECDSA and an RSA key; prints one line of JSON for each.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time

BINARY = sys.argv[1]
CONNECTIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
WARM_UP, MESSAGES, PAYLOAD = 100, 20_000, 100
SETTLE_SECONDS = 3
KEYS = {"ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["rsa:2048"]}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A masked binary frame, with a mask of zeros.
FRAME = bytes([0x82, 0x80 | PAYLOAD, 0, 0, 0, 0]) + bytes(PAYLOAD)
ECHOED_LEN = 2 + PAYLOAD


def make_identity(directory, kind):
    cert, key = (os.path.join(directory, f"{kind}-{name}.pem") for name in ("cert", "key"))
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert, "-newkey", *KEYS[kind]]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return cert, key


class Server:
    def __init__(self, backend, identity):
        listen = ["--listen", "127.0.0.1:0"]
        if identity:
            listen = ["--listen", "tls:127.0.0.1:0", "--tls-cert", identity[0], "--tls-key", identity[1]]
        command = [BINARY, *listen, "--app", "echo", "--workers", "1", "--backend", backend]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(re.search(r":(\d+) ", self.process.stdout.readline()).group(1))
        self.proc = f"/proc/{self.process.pid}"

    def private_bytes(self):
        with open(f"{self.proc}/smaps_rollup", encoding="ascii") as file:
            return 1024 * sum(int(kib) for kib in re.findall(r"Private_(?:Clean|Dirty):\s+(\d+)", file.read()))

    def cpu_us(self):
        with open(f"{self.proc}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000 / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.kill()
        self.process.wait()


def read_until(stream, is_enough):
    got = b""
    while not is_enough(got):
        got += stream.recv(4096)
    return got


def connect(server, context):
    stream = socket.create_connection(("127.0.0.1", server.port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context:
        stream = context.wrap_socket(stream, server_hostname="localhost")
    stream.sendall(REQUEST)
    read_until(stream, lambda got: got.endswith(b"\r\n\r\n"))
    return stream


def measure(backend, version, kind, identity):
    context = None
    if identity:
        context = ssl.create_default_context(cafile=identity[0])
        context.minimum_version = context.maximum_version = VERSIONS[version]
    server = Server(backend, identity)
    try:
        streams = [connect(server, context) for _ in range(WARM_UP)]
        time.sleep(SETTLE_SECONDS)
        memory, cpu = server.private_bytes(), server.cpu_us()
        streams += [connect(server, context) for _ in range(CONNECTIONS)]
        cpu_a_connection = (server.cpu_us() - cpu) / CONNECTIONS
        time.sleep(SETTLE_SECONDS)
        memory_a_connection = (server.private_bytes() - memory) / CONNECTIONS
        cpu = server.cpu_us()
        for _ in range(MESSAGES):
            streams[0].sendall(FRAME)
            read_until(streams[0], lambda got: len(got) == ECHOED_LEN)
        cpu_a_message = (server.cpu_us() - cpu) / MESSAGES
    finally:
        server.stop()
    figures = {"backend": backend, "tls": version, "key": kind, "connections": CONNECTIONS}
    figures["private_bytes_a_connection"] = round(memory_a_connection)
    figures["cpu_us_a_connection"] = round(cpu_a_connection)
    figures["cpu_us_a_message"] = round(cpu_a_message, 1)
    print(json.dumps(figures), flush=True)


def main():
    with tempfile.TemporaryDirectory() as directory:
        identities = {kind: make_identity(directory, kind) for kind in KEYS}
        for backend in ("epoll", "io-uring"):
            measure(backend, None, None, None)
            for version in VERSIONS:
                for kind, identity in identities.items():
                    measure(backend, version, kind, identity)


if __name__ == "__main__":
    main()
