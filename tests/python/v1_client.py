"""A v1 client of docs/03: WebSocket text messages, the six frames of the specification and nothing else."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import sys

import websockets

URL, CA, DEVICE, TOKEN, REGION = sys.argv[1:6]
ECHO, SOURCE = int(sys.argv[6]), int(sys.argv[7])


def target(port):
    return b"\x01" + socket.inet_aton("127.0.0.1") + struct.pack(">H", port)


class Tunnel:
    def __init__(self, connection):
        self.connection = connection
        self.streams = {}

    async def say(self, **message):
        await self.connection.send(json.dumps(message))

    async def hello(self):
        await self.say(
            type="hello",
            device_id=DEVICE,
            access_token=TOKEN,
            region=REGION,
            client_version="1.0.0",
            platform="python",
        )
        answer = json.loads(await self.connection.recv())
        assert answer["type"] == "hello_ok" and answer["session_id"], answer

    async def send(self, stream, data):
        await self.say(type="stream_data", stream_id=stream, payload=base64.b64encode(data).decode())

    async def open(self, stream):
        self.streams[stream] = asyncio.Queue()
        await self.say(type="stream_open", stream_id=stream)

    async def close(self, stream):
        await self.say(type="stream_close", stream_id=stream)

    async def read(self):
        async for text in self.connection:
            message = json.loads(text)
            assert message["type"] in ("stream_data", "stream_close"), message
            queue = self.streams.get(message["stream_id"])
            if queue is not None:
                data = base64.b64decode(message["payload"]) if message["type"] == "stream_data" else None
                queue.put_nowait(data)


async def receive(queue, length):
    got = b""
    while len(got) < length:
        data = await queue.get()
        assert data is not None, "closed early"
        got += data
    return got


async def echo(tunnel, stream, data):
    await tunnel.open(stream)
    head = target(ECHO)
    await tunnel.send(stream, head[:3])
    await tunnel.send(stream, head[3:] + data[:1000])
    for start in range(1000, len(data), 30000):
        await tunnel.send(stream, data[start : start + 30000])
    got = await receive(tunnel.streams[stream], len(data))
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    await tunnel.close(stream)
    del tunnel.streams[stream]


async def download(tunnel, stream, length):
    await tunnel.open(stream)
    await tunnel.send(stream, target(SOURCE) + struct.pack(">Q", length))
    queue = tunnel.streams[stream]
    got = 0
    while (data := await queue.get()) is not None:
        got += len(data)
    assert got == length, (got, length)
    del tunnel.streams[stream]


async def main():
    context = ssl.create_default_context(cafile=CA)
    async with websockets.connect(URL, ssl=context, max_size=2**20) as connection:
        tunnel = Tunnel(connection)
        await tunnel.hello()
        reading = asyncio.ensure_future(tunnel.read())
        for size in (1, 16383, 16384, 65536, 1000003):
            await echo(tunnel, 7, os.urandom(size))
        await asyncio.gather(*(echo(tunnel, 100 + index, os.urandom(5000 + index)) for index in range(20)))
        for size in (0, 1, 300000):
            await download(tunnel, 7, size)
        reading.cancel()
    print("exact")


asyncio.run(main())
