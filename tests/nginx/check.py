"""Checks of clients that connect through nginx: check.py CHECK PORT PATH. Uses Python's standard library only."""
import base64
import os
import socket
import struct
import sys

TIMEOUT_SECONDS = 20
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Client:
    """A connection from its own address that has requested a WebSocket or a page."""

    def __init__(self, path, source, headers=(), upgrade=True):
        self.socket = socket.create_connection(("127.0.0.1", PORT), TIMEOUT_SECONDS, (source, 0))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{PORT}", *headers]
        if upgrade:
            key = base64.b64encode(os.urandom(16)).decode()
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines.append(f"Sec-WebSocket-Key: {key}")
        else:
            lines.append("Connection: close")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.file = self.socket.makefile("rb")
        head = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            head.append(line.decode().strip())
        self.status = int(head[0].split()[1])

    def receive_frame(self):
        """Returns opcode and payload; None at the end of the stream."""
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

    def receive_text(self):
        """Returns the next message and answers pings before it."""
        while True:
            opcode, payload = self.receive_frame()
            if opcode == TEXT:
                return payload.decode()
            assert opcode == PING, opcode
            self.send(PONG, payload)

    def close(self):
        self.file.close()
        self.socket.close()


def open_chat(source, headers=()):
    client = Client(PATH, source, headers)
    assert client.status == 101, client.status
    assert client.receive_text().startswith("* welcome to "), "the welcome must come first"
    return client


def chat():
    """Two users talk. Each address has its own limit of 2 connections, whatever forwarding headers the client sends."""
    ada, bob = open_chat("127.0.0.2"), open_chat("127.0.0.3")
    ada.send(TEXT, b"hello from afar")
    for client in (ada, bob):
        assert client.receive_text().endswith(": hello from afar")
    second = open_chat("127.0.0.2")
    for headers in (), ["X-Forwarded-For: 198.51.100.1"], ["Forwarded: for=198.51.100.1"]:
        refused = Client(PATH, "127.0.0.2", headers)
        assert refused.status == 429, f"{headers}: {refused.status}"
        refused.close()
    for client in (open_chat("127.0.0.3"), second, ada, bob):
        client.close()


def session():
    """A client that is cut off, with a close of TCP or silently, gets every line in order when it returns."""
    speaker, silent, expected, said = open_chat("127.0.0.7"), [], 0, 0
    name = os.urandom(16).hex()

    def say():
        nonlocal said
        speaker.send(TEXT, str(said).encode())
        said += 1
        while not speaker.receive_text().endswith(f": {said - 1}"):
            pass

    for cut in range(12):
        # Another address each time, because a silent connection counts until the server gives it up.
        listener = Client(f"{PATH}?session={name}", f"127.0.1.{cut + 1}")
        assert listener.status == 101, listener.status
        say()
        numbers = []
        while not numbers or numbers[-1] != said - 1:
            text = listener.receive_text()
            if text.split(": ")[-1].isdigit():
                numbers.append(int(text.split(": ")[-1]))
        assert numbers == list(range(numbers[0], said)) and numbers[0] <= expected, (cut, numbers, expected)
        expected = said
        if cut % 2:
            silent.append(listener)
        else:
            listener.close()
        say()
        say()
    for client in (speaker, *silent):
        client.close()


def silence():
    """A client that sends only pongs outlives nginx's timeout, since pings come more often."""
    client, pings = open_chat("127.0.0.4"), 0
    while pings < PINGS:
        opcode, payload = client.receive_frame()
        assert opcode == PING, opcode
        pings += 1
        client.send(PONG, payload)
    client.send(TEXT, b"still here")
    assert client.receive_text().endswith(": still here")
    client.close()


def no_pings():
    """Without pings nginx closes the connection, so its timeout works."""
    client = open_chat("127.0.0.5")
    assert client.receive_frame() is None
    client.close()


def page():
    """The page is served below a prefix; the prefix without its slash redirects."""
    client = Client(PATH, "127.0.0.6", upgrade=False)
    text = client.file.read().decode()
    assert client.status == 200 and "new WebSocket(socketUrl())" in text, client.status
    client.close()
    bare = Client(PATH.rstrip("/"), "127.0.0.6", upgrade=False)
    assert bare.status == 308, bare.status
    bare.close()


CHECK, PORT, PATH = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# Pings in more than nginx's timeout of 2 s, at one in 0.4 s.
PINGS = 6
{"chat": chat, "session": session, "silence": silence, "no-pings": no_pings, "page": page}[CHECK]()
print(f"    {CHECK}: passed")
