"""Checks PyPI's `pusher`, `Pysher` and `asyncpusher`. PUSHER_PORT and PUSHER_SECURE_PORT are the server's ports."""

import asyncio
import json
import logging
import os
import queue
import socket
import ssl
import sys
import threading
import time

import asyncpusher
import pusher
import pysher
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus

PORT, SECURE_PORT = int(os.environ["PUSHER_PORT"]), int(os.environ["PUSHER_SECURE_PORT"])
KEY, SECRET = "stock", os.environ["PUSHER_SECRET"]
MASTER_KEY = os.environ["PUSHER_MASTER_KEY"]
failures, count = [], 0


def check(what, holds):
    global count
    count += 1
    if not holds:
        failures.append(what)


def until(condition, what):
    for _ in range(1_500):
        if condition():
            return True
        time.sleep(0.02)
    check(what, False)
    return False


def backend(**options):
    settings = {"app_id": "1", "key": KEY, "secret": SECRET, "ssl": False, "host": "localhost", "port": PORT}
    return pusher.Pusher(**(settings | {"encryption_master_key_base64": MASTER_KEY} | options))


def fails(error, call):
    try:
        call()
    except error:
        return True
    return False


class Client:
    """A client of Pysher. `events` collects what its channels get."""

    def __init__(self, **options):
        self.events, self.errors, self.established = [], [], threading.Event()
        settings = {"secure": False, "custom_host": "localhost", "port": PORT, "secret": SECRET}
        settings |= {"log_level": logging.CRITICAL, "reconnect_interval": 1}
        self.pusher = pysher.Pusher(options.pop("key", KEY), **(settings | options))
        self.pusher.connection.bind("pusher:connection_established", lambda _: self.established.set())
        self.pusher.connection.bind("pusher:error", self.errors.append)
        self.pusher.connection.bind("pusher:pong", self._subscribe)
        self.wanted, self.channels = queue.Queue(), queue.Queue()
        self.pusher.connect()

    def join(self, name, *events):
        """Subscribes in the thread that receives. In another one Pysher may get the answer before it expects one."""
        check(f"Pysher connects for {name}", self.established.wait(30))
        self.wanted.put((name, events))
        self.pusher.connection.send_ping()
        return self.channels.get(timeout=30)

    def _subscribe(self, _):
        while not self.wanted.empty():
            name, events = self.wanted.get()
            channel = self.pusher.subscribe(name)
            for event in ("pusher_internal:subscription_succeeded", *events):
                channel.bind(event, lambda data, event=event: self.take(event, data))
            self.channels.put(channel)

    def take(self, event, data):
        try:
            self.events.append((event, json.loads(data)))
        except (TypeError, ValueError):
            self.events.append((event, data))

    def hears(self, event, data=None):
        def found():
            return [got for name, got in self.events if name == event and (data is None or got == data)]

        check(f"Pysher hears {event} {data}", until(found, f"{event} arrives"))


def with_pusher():
    """The HTTP API and the signatures of PyPI's `pusher`, which Pysher's client sees."""
    api, client = backend(), Client(user_data={"user_id": "ann", "user_info": {"name": "Ann"}})
    data = {"text": "grüße 🎉", "list": [1, None]}
    client.join("py-open", "news", "batch")
    client.join("private-py", "news", "batch")
    until(lambda: len(client.events) == 2, "both subscriptions succeed")
    check("trigger", api.trigger("py-open", "news", data) == {})
    client.hears("news", data)
    check("trigger on two channels", api.trigger(["py-open", "private-py"], "news", "text") == {})
    until(lambda: client.events.count(("news", "text")) == 2, "both channels get the event")
    batch = [{"channel": "py-open", "name": "batch", "data": {"n": 1}}, {"channel": "private-py", "name": "batch", "data": {"n": 2}}]
    check("trigger_batch", api.trigger_batch(batch) == {})
    client.hears("batch", {"n": 1})
    client.hears("batch", {"n": 2})

    client.join("presence-py", "pusher_internal:member_added")
    client.hears("pusher_internal:subscription_succeeded", {"presence": {"ids": ["ann"], "hash": {"ann": {"name": "Ann"}}, "count": 1}})
    check("channels_info", api.channels_info("presence-py", ["user_count"]) == {"channels": {"presence-py": {"user_count": 1}}})
    check("channels_info without a prefix", {"py-open", "private-py", "presence-py"} <= set(api.channels_info()["channels"]))
    info = api.channel_info("presence-py", ["user_count", "subscription_count"])
    check(f"channel_info {info}", info == {"occupied": True, "user_count": 1, "subscription_count": 1})
    check("users_info", api.users_info("presence-py") == {"users": [{"id": "ann"}]})
    check("400", fails(PusherBadRequest, lambda: api.users_info("py-open")))
    check("401", fails(PusherBadAuth, lambda: backend(secret="wrong").trigger("py-open", "news", {})))
    check("404", fails(PusherBadStatus, lambda: backend(app_id="999").trigger("py-open", "news", {})))
    check("413", fails(PusherBadStatus, lambda: api.trigger("py-open", "news", "x" * 10_241)))
    check("send_to_user", api.send_to_user("ann", "mail", {}) == {})
    check("terminate_user_connections", api.terminate_user_connections("nobody") == {})
    client.pusher.disconnect(1)


def with_pysher():
    """Client events, errors, leaving and reconnecting."""
    one, other = Client(user_data={"user_id": "ann"}), Client(user_data={"user_id": "bob", "user_info": {"n": 1}})
    first = one.join("presence-pysher", "client-hello", "pusher_internal:member_added", "pusher_internal:member_removed")
    one.hears("pusher_internal:subscription_succeeded")
    second = other.join("presence-pysher", "client-hello")
    other.hears("pusher_internal:subscription_succeeded")
    one.hears("pusher_internal:member_added", {"user_id": "bob", "user_info": {"n": 1}})
    second.trigger("client-hello", {"from": "bob"})
    one.hears("client-hello", {"from": "bob"})
    first.trigger("client-hello", {"from": "ann"})
    other.hears("client-hello", {"from": "ann"})
    check("a client event does not come back", ("client-hello", {"from": "bob"}) not in other.events)
    until(lambda: one.pusher.connection.pong_received, "the ping is answered")
    other.pusher.unsubscribe("presence-pysher")
    one.hears("pusher_internal:member_removed", {"user_id": "bob"})

    forged = Client(secret="wrong")
    forged.join("private-forged")
    forged.join("py-after")
    forged.hears("pusher_internal:subscription_succeeded")
    check("only one subscription succeeds", len(forged.events) == 1)
    unknown = Client(key="unknown")
    until(lambda: unknown.errors, "the unknown application is refused")
    check(f"the error is {unknown.errors}", unknown.errors and unknown.errors[0]["code"] == 4001)
    secure = Client(secure=True, port=SECURE_PORT)
    secure.join("private-secure")
    secure.hears("pusher_internal:subscription_succeeded")

    lost = Client(auto_sub=True)
    lost.join("py-lost", "news")
    lost.hears("pusher_internal:subscription_succeeded")
    before = lost.pusher.connection.socket_id
    lost.events.clear()
    lost.pusher.connection.socket.sock.sock.shutdown(socket.SHUT_RDWR)
    lost.hears("pusher_internal:subscription_succeeded")
    check("the connection is another one", lost.pusher.connection.socket_id != before)
    for client in (one, other, forged, secure, lost):
        client.pusher.disconnect(1)


async def with_asyncpusher():
    """asyncpusher, which speaks version 7 and authorizes with PyPI's `pusher`."""
    api, log = backend(), logging.getLogger("asyncpusher")
    log.setLevel(logging.CRITICAL)

    async def connected(user, secure=False):
        async def authorize(request):
            channel = request["channel_name"]
            user_data = {"user_id": user, "user_info": {}} if channel.startswith("presence-") else None
            return api.authenticate(channel, request["socket_id"], user_data)

        options = {"ssl": ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])} if secure else {}
        client = asyncpusher.Pusher(
            KEY, custom_host="localhost", custom_port=SECURE_PORT if secure else PORT, secure=secure,
            channel_authenticator=authorize, auto_sub=True, log=log, **options,
        )
        await client.connect()
        return client

    async def join(client, name, event):
        got, joined = asyncio.Queue(), asyncio.Event()
        channel = await client.subscribe(name)
        channel.bind(event, got.put)

        async def succeed(_):
            joined.set()

        channel.bind("pusher_internal:subscription_succeeded", succeed)
        await asyncio.wait_for(joined.wait(), 30)
        return channel, got

    one, other = await asyncio.gather(connected("ann"), connected("bob", secure=True))
    for name in ("async-open", "private-async", "presence-async", "cache-async"):
        _, got = await join(one, name, "news")
        await asyncio.to_thread(api.trigger, name, "news", {"channel": name})
        check(f"asyncpusher on {name}", await asyncio.wait_for(got.get(), 30) == {"channel": name})
    channel, _ = await join(one, "private-talk", "client-hello")
    _, got = await join(other, "private-talk", "client-hello")
    await channel.trigger({"event": "client-hello", "data": {"n": 1}})
    check("asyncpusher: a client event", await asyncio.wait_for(got.get(), 30) == {"n": 1})
    await one.unsubscribe("async-open")
    for client in (one, other):
        await client.disconnect()


if __name__ == "__main__":
    logging.getLogger("websocket").setLevel(logging.CRITICAL)
    for name, run in [
        ("pusher", with_pusher),
        ("Pysher", with_pysher),
        ("asyncpusher", lambda: asyncio.run(with_asyncpusher())),
    ]:
        before = (count, len(failures))
        run()
        done, bad = count - before[0], failures[before[1] :]
        print(f"{name}: {done - len(bad)} of {done}")
        for failure in bad:
            print(f"  failed: {failure}")
    sys.exit(1 if failures else 0)
