"""A v2 client written from docs/03 alone: Session, Stream, Association. Run as a program it checks a gateway."""

import asyncio
import collections
import ipaddress
import json
import os
import random
import ssl
import struct
import sys
import time

import websockets

HELLO, HELLO_OK, ERROR, PING, PONG, GOAWAY, PADDING, NOTICE = range(0x01, 0x09)
OPEN, DATA, WINDOW, RESET = range(0x10, 0x14)
FIN, UDP = 0x01, 0x02
EXACT = {PING: 8, PONG: 8, GOAWAY: 10, WINDOW: 16, RESET: 2}

MESSAGE, CHUNK = 65536, 16376
INITIAL, WIDEST, SPARE = 65536, 4 << 20, 10 << 20
DATAGRAM, DATAGRAMS = 65267, 256 << 10
SCHEME = [[64, 512], [0, 256], [0, 256], [0, 128]]

Rule = collections.namedtuple("Rule", "name retry after elsewhere show")
UPDATE, SOME = "update the app", "after some tries"
SESSION_CODES = {
    1: Rule("PROTOCOL_ERROR", False, None, False, UPDATE),
    2: Rule("UNSUPPORTED_VERSION", False, None, False, UPDATE),
    3: Rule("UPGRADE_REQUIRED", False, None, False, UPDATE),
    4: Rule("INVALID_TOKEN", False, "fresh token, once", False, "sign in again"),
    5: Rule("TOKEN_EXPIRED", False, "fresh token, at once", False, None),
    6: Rule("DEVICE_BANNED", False, None, False, "yes"),
    7: Rule("USER_BANNED", False, None, False, "yes"),
    8: Rule("USER_PENDING", False, None, False, "yes"),
    9: Rule("NO_SUBSCRIPTION", False, None, False, "yes"),
    10: Rule("SUBSCRIPTION_EXPIRED", False, None, False, "yes"),
    11: Rule("LIMIT_REACHED", False, "next period or plan", False, "yes"),
    12: Rule("TOO_MANY_SESSIONS", True, "back-off", False, SOME),
    13: Rule("DEVICE_LIMIT", False, None, False, "yes"),
    14: Rule("UNKNOWN_REGION", False, "another region", True, "yes"),
    15: Rule("NO_NODE_AVAILABLE", True, "back-off", True, SOME),
    16: Rule("SESSION_KILLED", False, "the user's wish", False, "yes"),
    17: Rule("OVERLOADED", True, "retry_after_ms or back-off", True, None),
    18: Rule("GOING_AWAY", True, "reconnect-in or back-off", True, None),
    19: Rule("CONTROL_UNAVAILABLE", True, "back-off", True, SOME),
    20: Rule("INTERNAL", True, "back-off", True, SOME),
}
LOST = Rule("LOST", True, "back-off", True, None)
STREAM_CODES = {
    256: Rule("REFUSED", False, "the program", False, None),
    257: Rule("TIMEOUT", False, "the program", False, None),
    258: Rule("UNREACHABLE", False, "the program", False, None),
    259: Rule("BLOCKED", False, None, False, None),
    260: Rule("LIMIT", True, "a second", False, None),
    261: Rule("NODE_DOWN", True, "a few seconds", False, "if it lasts"),
    262: Rule("CANCELLED", False, "a new connection after GOAWAY", True, None),
    263: Rule("STREAM_PROTOCOL", False, None, False, None),
}
INTERNAL, GOING_AWAY, CANCELLED, STREAM_PROTOCOL, BLOCKED = 20, 18, 262, 263, 259


class Broken(Exception):
    pass


class SessionError(Exception):
    def __init__(self, code, text=""):
        self.code, self.text = code, text
        self.rule = LOST if code is None else SESSION_CODES.get(code, SESSION_CODES[INTERNAL])
        super().__init__(f"{self.rule.name} {text}".strip())

    def wait(self, attempt, reconnect_in=None):
        if not self.rule.retry:
            return None
        if self.code == GOING_AWAY and reconnect_in is not None:
            return reconnect_in
        return min(0.5 * 2**attempt, 30) * random.uniform(0.5, 1.5)


class StreamReset(Exception):
    def __init__(self, code, executed=True):
        self.code, self.executed = code, executed
        self.rule = STREAM_CODES.get(code, STREAM_CODES[CANCELLED])
        super().__init__(self.rule.name)


def frame(kind, payload=b"", stream=0, flags=0):
    return struct.pack(">BBHI", kind, flags, len(payload), stream) + payload


def frames(message):
    offset = 0
    while offset < len(message):
        if len(message) - offset < 8:
            raise Broken("a header is cut off")
        kind, flags, length, stream = struct.unpack_from(">BBHI", message, offset)
        offset += 8
        if len(message) - offset < length:
            raise Broken("a payload is cut off")
        yield kind, flags, stream, message[offset : offset + length]
        offset += length


def destination(host, port):
    try:
        packed = ipaddress.ip_address(host).packed
        head = bytes([1 if len(packed) == 4 else 4]) + packed
    except ValueError:
        name = host.encode()
        if not 1 <= len(name) <= 255:
            raise ValueError("a host name has 1 to 255 bytes")
        head = bytes([3, len(name)]) + name
    return head + struct.pack(">H", port)


def record(host, port, datagram):
    if len(datagram) > DATAGRAM:
        raise ValueError("a datagram has at most 65,267 bytes")
    return struct.pack(">H", len(datagram)) + destination(host, port) + datagram


def records(payload):
    offset = 0
    while len(payload) - offset >= 4:
        length, kind, first = struct.unpack_from(">HBB", payload, offset)
        start = offset + (4 if kind == 3 else 3)
        size = {1: 4, 3: first, 4: 16}.get(kind)
        if size is None or len(payload) < start + size + 2 + length:
            return
        raw, (port,) = payload[start : start + size], struct.unpack_from(">H", payload, start + size)
        host = raw.decode(errors="replace") if kind == 3 else str(ipaddress.ip_address(raw))
        offset = start + size + 2 + length
        yield host, port, payload[offset - length : offset]


class Link(websockets.WebSocketClientProtocol):
    heard = 0.0

    def data_received(self, data):
        self.heard = time.monotonic()
        super().data_received(data)


class Half:
    def __init__(self, session, number):
        self.session, self.number = session, number
        self.readable = asyncio.Event()
        self.failure = None
        self.aborted = self.local = self.remote = False
        self.window = INITIAL

    def reset(self, code=CANCELLED):
        if self.session.streams.get(self.number) is self:
            self.session.urge(frame(RESET, struct.pack(">H", code), self.number))
            self.fail(StreamReset(code))

    def fail(self, failure):
        self.failure, self.aborted = failure, True
        self.dropped()
        self.session.forget(self)

    def dropped(self):
        self.readable.set()

    def settle(self):
        self.readable.set()
        if self.local and self.remote:
            self.session.forget(self)

    async def wait(self, event):
        event.clear()
        await event.wait()


class Stream(Half):
    def __init__(self, session, number):
        super().__init__(session, number)
        self.writable = asyncio.Event()
        self.buffer = bytearray()
        self.sent, self.limit = 0, INITIAL
        self.received, self.consumed, self.granted = 0, 0, INITIAL
        self.since = None

    async def write(self, data, fin=False):
        rest = memoryview(data)
        while rest or fin:
            if self.failure or self.local:
                raise self.failure or ValueError("written after FIN")
            part = rest[: min(CHUNK, self.limit - self.sent)]
            if rest and not part:
                await self.wait(self.writable)
                continue
            rest = rest[len(part) :]
            self.sent += len(part)
            self.local = fin and not rest
            await self.session.carry(self, frame(DATA, bytes(part), self.number, FIN if self.local else 0))
            if self.local:
                return self.settle()

    async def read(self, most=MESSAGE):
        while not self.buffer:
            if self.failure:
                raise self.failure
            if self.remote:
                return b""
            await self.wait(self.readable)
        data = bytes(self.buffer[:most])
        del self.buffer[:most]
        self.consumed += len(data)
        self.grant()
        return data

    async def exactly(self, length):
        got = bytearray()
        while len(got) < length:
            data = await self.read(length - len(got))
            if not data:
                raise EOFError(f"stream {self.number}: end after {len(got)} of {length} bytes")
            got += data
        return bytes(got)

    def dropped(self):
        self.buffer.clear()
        self.writable.set()
        super().dropped()

    def take(self, data, fin):
        if self.remote:
            return self.reset(STREAM_PROTOCOL)
        self.received += len(data)
        if self.received > self.granted:
            raise Broken("more bytes than the limit")
        if self.since is None and data:
            self.since = time.monotonic()
        self.buffer += data
        self.remote = fin
        self.settle()

    def credit(self, limit):
        self.limit = max(self.limit, limit)
        self.writable.set()

    def grant(self):
        if self.remote or self.failure or self.granted - self.consumed > self.window // 2:
            return
        now, session = time.monotonic(), self.session
        if now - self.since <= 1.25 * session.round_trip:
            step = min(self.window, WIDEST - self.window, session.spare // 2)
            self.window += step
            session.spare -= step
        self.since = now
        self.granted = max(self.granted, self.consumed + self.window)
        session.urge(frame(WINDOW, struct.pack(">QQ", self.consumed, self.granted), self.number))
        if now - session.pinged >= 1:
            session.ping()


class Association(Half):
    def __init__(self, session, number):
        super().__init__(session, number)
        self.queue, self.queued = collections.deque(), 0

    def send(self, host, port, datagram):
        if self.failure or self.local:
            raise self.failure or ValueError("sent after FIN")
        self.session.toss(self, frame(DATA, record(host, port, datagram), self.number))

    async def receive(self):
        while not self.queue:
            if self.failure or self.remote:
                raise self.failure or EOFError("the association has ended")
            await self.wait(self.readable)
        entry = self.queue.popleft()
        self.queued -= len(entry[2])
        return entry

    def close(self):
        if not self.failure and not self.local:
            self.local = self.remote = True
            self.session.toss(self, frame(DATA, b"", self.number, FIN))
            self.settle()

    def take(self, data, fin):
        for entry in records(data):
            self.queue.append(entry)
            self.queued += len(entry[2])
            while self.queued > DATAGRAMS:
                self.queued -= len(self.queue.popleft()[2])
        if fin:
            self.local = self.remote = True
        self.settle()

    def credit(self, limit):
        pass


class Session:
    padding = SCHEME

    def __init__(self, url, context, hello, bearer=False, notice=None):
        self.url, self.context, self.hello, self.bearer = url, context, hello, bearer
        self.notice = notice or (lambda news: None)
        self.streams, self.next = {}, 1
        self.urgent, self.bulk, self.wake = collections.deque(), collections.deque(), asyncio.Event()
        self.pads = collections.deque(self.padding)
        self.spare, self.round_trip, self.measured = SPARE, 0.1, False
        self.pinged, self.pings, self.outstanding = 0.0, 0, {}
        self.keepalive, self.dead_after = 20, 45
        self.answer, self.said, self.goaway, self.error = None, None, None, None
        self.answered = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    async def connect(self):
        bearer = {"Authorization": "Bearer " + self.hello["access_token"]} if self.bearer else None
        self.link = await websockets.connect(
            self.url,
            ssl=self.context,
            create_protocol=Link,
            subprotocols=["httvps.v2"],
            extra_headers=bearer,
            compression=None,
            ping_interval=None,
            close_timeout=3,
            max_size=MESSAGE,
        )
        if self.link.subprotocol != "httvps.v2":
            await self.link.close()
            raise SessionError(None, "the gateway did not choose httvps.v2")
        self.urge(frame(HELLO, json.dumps(self.hello, separators=(",", ":")).encode()))
        self.tasks = [asyncio.create_task(part()) for part in (self.writes, self.keeps, self.reads)]

    async def ready(self):
        return await asyncio.shield(self.answered)

    async def close(self):
        await self.link.close()
        await self.ended.wait()

    def open(self, host, port, data=b"", fin=False):
        return self.begin(Stream, destination(host, port), data, FIN if fin else 0)

    def associate(self):
        return self.begin(Association, destination("0.0.0.0", 0), b"", UDP)

    def begin(self, form, head, data, flags):
        if self.error or self.goaway or self.next > 0xFFFFFFFF:
            raise self.error or SessionError(GOING_AWAY, "no new streams here")
        if len(head) + len(data) > MESSAGE - 8:
            raise ValueError("too much for OPEN")
        stream = form(self, self.next)
        self.next += 2
        self.streams[stream.number] = stream
        stream.sent, stream.local = len(data), bool(flags & FIN)
        self.urge(frame(OPEN, head + data, stream.number, flags))
        return stream

    def forget(self, stream):
        if self.streams.pop(stream.number, None):
            self.spare += stream.window - INITIAL
            if self.goaway and not self.streams and not self.error:
                self.leaving = asyncio.create_task(self.link.close())

    def urge(self, data):
        self.urgent.append((None, data, None))
        self.wake.set()

    async def carry(self, stream, data):
        taken = asyncio.get_running_loop().create_future()
        self.bulk.append((stream, data, taken))
        self.wake.set()
        await taken

    def toss(self, stream, data):
        mine = [entry for entry in self.bulk if entry[0] is stream]
        excess = sum(len(entry[1]) for entry in mine) + len(data) - DATAGRAMS
        while excess > 0 and mine:
            excess -= len(mine[0][1])
            self.bulk.remove(mine.pop(0))
        self.bulk.append((stream, data, None))
        self.wake.set()

    def ping(self):
        self.pinged, self.pings = time.monotonic(), self.pings + 1
        self.outstanding = {struct.pack(">Q", self.pings): self.pinged}
        self.urge(frame(PING, struct.pack(">Q", self.pings)))

    def message(self):
        parts, size = [], 0
        for queue in (self.urgent, self.bulk):
            while queue and size + len(queue[0][1]) <= MESSAGE:
                stream, data, taken = queue.popleft()
                if taken and not taken.done():
                    taken.set_result(None)
                if stream is None or not stream.aborted:
                    parts.append(data)
                    size += len(data)
            if queue:
                break
        if parts and self.pads:
            count = random.randint(*self.pads.popleft())
            if count and size + 8 + count <= MESSAGE:
                parts.append(frame(PADDING, bytes(count)))
        return b"".join(parts)

    async def writes(self):
        try:
            while await self.wake.wait():
                self.wake.clear()
                while self.urgent or self.bulk:
                    if message := self.message():
                        await self.link.send(message)
        except websockets.ConnectionClosed:
            pass

    async def keeps(self):
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            if now - self.link.heard >= self.dead_after:
                self.link.transport.abort()
            elif now - max(self.link.heard, self.pinged) >= self.keepalive:
                self.ping()

    async def reads(self):
        reason = ""
        try:
            async for message in self.link:
                if isinstance(message, str):
                    raise Broken("a text message")
                for kind, flags, number, payload in frames(message):
                    self.take(kind, flags, number, payload)
        except (Broken, ValueError, TypeError, KeyError, struct.error) as error:
            reason = f"the gateway broke a rule: {error!r}"
            await self.link.close(1002)
        except websockets.ConnectionClosed:
            pass
        finally:
            self.finish(reason)

    def finish(self, reason):
        close = self.link.close_code
        known = {1001: GOING_AWAY, 1002: 1, 1007: 1, 1009: 1}
        code = close - 4000 if close is not None and 4001 <= close < 5000 else None if reason else known.get(close)
        self.error = SessionError(*self.said) if self.said else SessionError(code, reason or f"close {close}")
        for stream in list(self.streams.values()):
            stream.fail(self.error)
        for _, _, taken in self.bulk:
            if taken and not taken.done():
                taken.set_result(None)
        if not self.answered.done():
            self.answered.set_exception(self.error)
            self.answered.exception()
        for task in self.tasks[:2]:
            task.cancel()
        self.ended.set()

    def take(self, kind, flags, number, payload):
        if kind >= 0x80 or kind == PADDING:
            return
        if (kind < 0x10) != (number == 0) or len(payload) != EXACT.get(kind, len(payload)):
            raise Broken(f"frame {kind:#x} with stream {number} and {len(payload)} bytes")
        if kind in (DATA, WINDOW, RESET):
            if not number & 1 or number >= self.next:
                raise Broken(f"stream {number} was never opened")
            if stream := self.streams.get(number):
                if kind == DATA:
                    stream.take(payload, bool(flags & FIN))
                elif kind == WINDOW:
                    stream.credit(struct.unpack(">QQ", payload)[1])
                else:
                    stream.fail(StreamReset(struct.unpack(">H", payload)[0]))
        elif kind == PING:
            self.urgent.appendleft((None, frame(PONG, payload), None))
            self.wake.set()
        elif kind == PONG:
            if (began := self.outstanding.pop(payload, None)) is not None:
                trip = time.monotonic() - began
                self.round_trip = self.round_trip * 7 / 8 + trip / 8 if self.measured else trip
                self.measured = True
        elif kind == HELLO_OK and not self.answered.done():
            self.answer = json.loads(payload)
            limits = self.answer.get("limits", {})
            self.keepalive = limits.get("keepalive", self.keepalive)
            self.dead_after = limits.get("dead_after", self.dead_after)
            if "padding" in self.answer:
                Session.padding = [(least, most) for least, most in self.answer["padding"]]
                self.pads = collections.deque(Session.padding)
            self.answered.set_result(self.answer)
        elif kind == ERROR:
            self.said = struct.unpack_from(">H", payload)[0], payload[2:].decode(errors="replace")
        elif kind == GOAWAY:
            last, milliseconds, code = struct.unpack(">IIH", payload)
            self.goaway = last, milliseconds / 1000, code
            for stream in [stream for stream in self.streams.values() if stream.number > last]:
                stream.fail(StreamReset(CANCELLED, executed=False))
        elif kind == NOTICE:
            self.notice(json.loads(payload))
        else:
            raise Broken(f"frame {kind:#x}")


def check(condition, text):
    if not condition:
        raise AssertionError(text)


async def end(stream):
    await stream.write(b"", fin=True)
    check(await stream.read() == b"", f"stream {stream.number}: bytes after the last")


async def echo(session, port, data, what, stream=None, first=1000):
    stream = stream or session.open("127.0.0.1", port, data[:first])
    _, got = await asyncio.gather(stream.write(data[stream.sent :]), stream.exactly(len(data)))
    check(got == data, f"{what}: the echo differs")
    await end(stream)


async def download(session, port, length):
    stream = session.open("127.0.0.1", port, struct.pack(">Q", length))
    got = bytearray()
    while data := await stream.read():
        got += data
    check(len(got) == length, f"source: {len(got)} of {length} bytes")
    await stream.write(b"", fin=True)
    return bytes(got)


async def patterned(session, port, length):
    got = await download(session, port, length)
    expected = bytes(((at * 31 >> 3) ^ at) & 255 for at in range(length))
    check(got == expected, "source: not the pattern")


async def datagrams(session, port):
    association = session.associate()
    missing = {bytes([index]) + os.urandom(index * 1399 // 49) for index in range(50)}
    for _ in range(6):
        for datagram in missing:
            association.send("127.0.0.1", port, datagram)
        try:
            while missing:
                host, sender, datagram = await asyncio.wait_for(association.receive(), 1)
                check((host, sender) == ("127.0.0.1", port), f"udp: a datagram from {host}:{sender}")
                missing.discard(datagram)
        except asyncio.TimeoutError:
            continue
        return association.close()
    check(False, f"udp: {len(missing)} of 50 datagrams have not come back")


async def blocked(session):
    try:
        await session.open("127.0.0.1", 25).read()
    except StreamReset as reset:
        return check(reset.code == BLOCKED, f"port 25: {reset}")
    check(False, "port 25: an end of file instead of BLOCKED")


async def refused(url, context, hello):
    token = hello["access_token"]
    place = (token.rfind(".") + len(token)) // 2
    wrong = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    session = Session(url, context, dict(hello, access_token=wrong))
    await session.connect()
    try:
        await session.ready()
    except SessionError as error:
        check(session.said and session.said[0] == 4, f"wrong token: {error}, ERROR {session.said}")
        return check(session.link.close_code == 4004, f"wrong token: close {session.link.close_code}")
    check(False, "wrong token: hello_ok")


async def main(url, ca, device, token, region, *ports):
    echoes, source, udp = map(int, ports)
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["http/1.1"])
    hello = dict(device_id=device, access_token=token, region=region, client_version="1.0.0", platform="python")
    hello["features"] = ["limits"]
    session = Session(url, context, hello, bearer=True)
    await session.connect()
    first = [os.urandom(size) for size in (1, 100, 5000)]
    early = [session.open("127.0.0.1", echoes, data) for data in first]
    answer = await session.ready()
    check(answer["session_id"] and "limits" in answer["features"] and answer["limits"], f"hello_ok: {answer}")
    await asyncio.gather(*(echo(session, echoes, data, "early", stream) for data, stream in zip(first, early)))
    many = [os.urandom(300000) for _ in range(20)]
    await asyncio.gather(*(echo(session, echoes, data, "twenty") for data in many))
    await patterned(session, source, 5000000)
    await echo(session, echoes, os.urandom(2000000), "upload", first=0)
    await datagrams(session, udp)
    await blocked(session)
    check(not session.streams, f"streams are left: {list(session.streams)}")
    await refused(url, context, hello)
    check(session.error is None, f"the session ended: {session.error}")
    await session.close()
    print("exact")


if __name__ == "__main__":
    try:
        asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 50))
    except asyncio.TimeoutError:
        sys.exit("not done within 50 s")
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
