"""What clients of uproar see when nginx is in front of it: check.py CHECK PORT PATH. Nothing but Python itself."""
import base64
import os
import socket
import struct
import sys

PATIENCE = 20
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Client:
    """A connection that has asked for a WebSocket, or for a page, from an address of its own."""

    def __init__(self, path, source, headers=(), upgrade=True):
        self.socket = socket.create_connection(("127.0.0.1", PORT), PATIENCE, (source, 0))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{PORT}", *headers]
        if upgrade:
            key = base64.b64encode(os.urandom(16)).decode()
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        else:
            lines.append("Connection: close")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.file = self.socket.makefile("rb")
        head = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            head.append(line.decode().strip())
        self.status = int(head[0].split()[1])

    def frame(self):
        """Opcode and payload; None at the end of the stream."""
        head = self.file.read(2)
        if not head:
            return None
        length = head[1]
        if length == 126:
            length = struct.unpack(">H", self.file.read(2))[0]
        assert length < 65536, length
        return head[0] & 15, self.file.read(length)

    def send(self, opcode, payload):
        assert len(payload) < 126
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    def line(self):
        """The next message; pings are answered meanwhile."""
        while True:
            opcode, payload = self.frame()
            if opcode == TEXT:
                return payload.decode()
            assert opcode == PING, opcode
            self.send(PONG, payload)

    def close(self):
        self.file.close()
        self.socket.close()


def opened(source, headers=()):
    client = Client(PATH, source, headers)
    assert client.status == 101, client.status
    assert client.line().startswith("* welcome to "), "a welcome comes first"
    return client


def chat():
    """Two talk, and each address has its own limit, which is 2, whatever it says of itself."""
    ada, bob = opened("127.0.0.2"), opened("127.0.0.3")
    ada.send(TEXT, b"hello from afar")
    for client in (ada, bob):
        assert client.line().endswith(": hello from afar")
    second = opened("127.0.0.2")
    for headers in (), ["X-Forwarded-For: 198.51.100.1"], ["Forwarded: for=198.51.100.1"]:
        refused = Client(PATH, "127.0.0.2", headers)
        assert refused.status == 429, f"{headers}: {refused.status}"
        refused.close()
    for client in (opened("127.0.0.3"), second, ada, bob):
        client.close()


def silence():
    """One that says nothing but pongs outlives nginx's time-out: pings come more often."""
    client, pings = opened("127.0.0.4"), 0
    while pings < PINGS:
        opcode, payload = client.frame()
        assert opcode == PING, opcode
        pings += 1
        client.send(PONG, payload)
    client.send(TEXT, b"still here")
    assert client.line().endswith(": still here")
    client.close()


def no_pings():
    """Without them nginx ends it, so the time-out is there."""
    client = opened("127.0.0.5")
    assert client.frame() is None
    client.close()


def page():
    client = Client(PATH, "127.0.0.6", upgrade=False)
    text = client.file.read().decode()
    assert client.status == 200 and "new WebSocket(socketUrl())" in text, client.status
    client.close()
    bare = Client(PATH.rstrip("/"), "127.0.0.6", upgrade=False)
    assert bare.status == 308, bare.status
    bare.close()


CHECK, PORT, PATH = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# How many at 0.4 s are more than nginx's 2 s.
PINGS = 6
{"chat": chat, "silence": silence, "no-pings": no_pings, "page": page}[CHECK]()
print(f"    {CHECK}: as it should be")
