"""Checks Python's `websockets` and `aiohttp`, with and without compression. They trust the file in SSL_CERT_FILE."""

import asyncio
import os
import random
import re
import sys
import uuid

import aiohttp
import websockets
from websockets.asyncio.client import connect

ECHO, CHAT = os.environ["ECHO_URL"], os.environ["CHAT_URL"]
LIMIT = 1 << 20
SIZES = [1, 125, 126, 127, 65535, 65536, LIMIT, LIMIT]
RECONNECTS = int(os.environ["RECONNECTS"])
ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
failures, count = [], 0


def check(what, holds):
    global count
    count += 1
    if not holds:
        failures.append(what)


def messages(size):
    text = ("grüße 🎉 uproar " * (size // 10 + 1)).encode()[:size].decode(errors="ignore")
    return [text, random.Random(size).randbytes(size), b"abc" * (size // 3)]


async def cut_off(name, speaker, say, listen):
    """Checks that a client with a session gets every line in order, however it is cut off. `speaker` and the result of
    `listen` are functions that return the next message; `listen` also returns a function that cuts the connection."""

    async def numbers_up_to(receive, last):
        numbers = []
        while not numbers or numbers[-1] != last:
            if found := re.search(r": (\d+)$", await receive()):
                numbers.append(int(found[1]))
        return numbers

    said = expected = 0
    for cut in range(10):
        receive, end = await listen()
        for number in range(said, said + 2):
            await say(str(number))
            await numbers_up_to(speaker, number)
        said += 2
        numbers = await numbers_up_to(receive, said - 1)
        in_order = numbers == list(range(numbers[0], said))
        check(f"{name}: after cut {cut}: {numbers} instead of lines from {expected} on", in_order and numbers[0] <= expected)
        expected = said
        end()
        await say(str(said))
        await numbers_up_to(speaker, said)
        said += 1


async def with_websockets(compression):
    def open_socket(url):
        return connect(url, compression=compression, max_size=None)

    async with open_socket(ECHO) as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        check(f"websockets agreed on {agreed}", agreed == (["permessage-deflate"] if compression else []))
        for size in SIZES:
            for message in messages(size):
                await socket.send(message)
                check(f"websockets: {type(message)} of {size}", await socket.recv() == message)
        await socket.close(3001, "bye")
        code = socket.protocol.close_rcvd.code
        check(f"websockets: the close with 3001 was answered with {code}", code == 3001)
    for url, message, code in [(CHAT, b"binary", 1003), (ECHO, random.Random(1).randbytes(LIMIT + 1), 1009)]:
        async with open_socket(url) as socket:
            await socket.send(message)
            try:
                while True:
                    await socket.recv()
            except websockets.ConnectionClosed as closed:
                check(f"websockets: closed with {closed.rcvd}", closed.rcvd and closed.rcvd.code == code)
    for left in range(RECONNECTS):
        async with open_socket(ECHO) as socket:
            await socket.send(str(left))
            check("websockets: an echo after reconnecting", await socket.recv() == str(left))
    room = f"{CHAT}room/{uuid.uuid4()}"
    session = f"{room}?session={uuid.uuid4()}"

    async def listen():
        socket = await open_socket(session)
        return socket.recv, socket.transport.abort

    async with open_socket(room) as speaker:
        await cut_off("websockets", speaker.recv, speaker.send, listen)


async def with_aiohttp(compress):
    async with aiohttp.ClientSession() as session:

        def open_socket(url):
            return session.ws_connect(url, compress=compress, max_msg_size=0)

        async with open_socket(ECHO) as socket:
            check(f"aiohttp compresses: {socket.compress}", bool(socket.compress) == bool(compress))
            for size in SIZES:
                for message in messages(size):
                    is_text = isinstance(message, str)
                    await (socket.send_str(message) if is_text else socket.send_bytes(message))
                    answer = await socket.receive()
                    check(f"aiohttp: {type(message)} of {size}", answer.data == message)
            await socket.close(code=3001, message=b"bye")
            check(f"aiohttp: the close with 3001 was answered with {socket.close_code}", socket.close_code == 3001)
        for url, message, code in [(CHAT, b"binary", 1003), (ECHO, random.Random(1).randbytes(LIMIT + 1), 1009)]:
            async with open_socket(url) as socket:
                await socket.send_bytes(message)
                while (answer := await socket.receive()).type not in ENDS:
                    pass
                # Over TLS aiohttp may see the end of the stream before it answers and then reports 1006 as its
                # close_code, so the received frame is checked.
                is_closed = answer.type == aiohttp.WSMsgType.CLOSE and answer.data == code
                check(f"aiohttp: closed with {answer}", is_closed)
        for left in range(RECONNECTS):
            async with open_socket(ECHO) as socket:
                await socket.send_str(str(left))
                check("aiohttp: an echo after reconnecting", (await socket.receive()).data == str(left))
        room = f"{CHAT}room/{uuid.uuid4()}"
        url = f"{room}?session={uuid.uuid4()}"

        async def listen():
            socket = await open_socket(url)
            return socket.receive_str, socket._writer.transport.abort

        async with open_socket(room) as speaker:
            await cut_off("aiohttp", speaker.receive_str, speaker.send_str, listen)


async def main():
    for name, run in [
        ("websockets, permessage-deflate", with_websockets("deflate")),
        ("websockets, plain", with_websockets(None)),
        ("aiohttp, permessage-deflate", with_aiohttp(15)),
        ("aiohttp, plain", with_aiohttp(0)),
    ]:
        before = (count, len(failures))
        await run
        done, bad = count - before[0], failures[before[1] :]
        print(f"  {name}: {done - len(bad)} of {done}")
        for failure in bad[:10]:
            print(f"    failed: {failure}")
    print(f"{count - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
