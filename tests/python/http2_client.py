"""Tunnels over HTTP/2 with the library h2: plain and in a WebSocket, beside each other on one connection."""

import json
import os
import socket
import ssl
import struct
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

HELLO, HELLO_OK, ERROR, PING, PONG = range(0x01, 0x06)
OPEN, DATA, WINDOW, RESET = range(0x10, 0x14)
FIN = 0x01
INITIAL, GRANTED, CHUNK = 65536, 4 << 20, 16000


def frame(kind, payload=b"", stream=0, flags=0):
    return struct.pack(">BBHI", kind, flags, len(payload), stream) + payload


def masked(data):
    if len(data) < 126:
        return struct.pack(">BB4x", 0x82, 0x80 | len(data)) + data
    return struct.pack(">BBH4x", 0x82, 0x80 | 126, len(data)) + data


class Stream:
    def __init__(self, number, port, data):
        self.number, self.port, self.rest = number, port, data
        self.sent, self.limit, self.finished = 0, INITIAL, False
        self.got, self.granted, self.over = bytearray(), GRANTED, False


class Tunnel:
    def __init__(self, connection, number, framed):
        self.connection, self.number, self.framed = connection, number, framed
        self.output, self.arrived, self.rest = bytearray(), bytearray(), bytearray()
        self.accepted, self.streams = False, {}

    def say(self, *args):
        data = frame(*args)
        self.output += masked(data) if self.framed else data

    def open(self, port, data):
        stream = Stream(2 * len(self.streams) + 1, port, data)
        self.streams[stream.number] = stream
        self.say(OPEN, b"\x01\x7f\0\0\1" + struct.pack(">H", port), stream.number)
        self.say(WINDOW, struct.pack(">QQ", 0, GRANTED), stream.number)
        return stream

    def work(self):
        for stream in self.streams.values():
            while len(self.output) < 1 << 20 and not stream.finished:
                room = min(CHUNK, stream.limit - stream.sent)
                if room <= 0 and stream.rest:
                    break
                part, stream.rest = stream.rest[:room], stream.rest[room:]
                stream.sent += len(part)
                stream.finished = not stream.rest
                self.say(DATA, part, stream.number, FIN if stream.finished else 0)
        while self.output:
            room = self.connection.local_flow_control_window(self.number)
            room = min(room, self.connection.max_outbound_frame_size)
            if room <= 0:
                return
            self.connection.send_data(self.number, bytes(self.output[:room]))
            del self.output[:room]

    def feed(self, data):
        if not self.framed:
            self.arrived += data
        else:
            self.rest += data
            while len(self.rest) >= 4:
                start, length = 2, self.rest[1]
                if length == 126:
                    start, length = 4, struct.unpack_from(">H", self.rest, 2)[0]
                if len(self.rest) < start + length:
                    break
                if self.rest[0] & 15 == 2:
                    self.arrived += self.rest[start : start + length]
                del self.rest[: start + length]
        while len(self.arrived) >= 8:
            kind, flags, length, number = struct.unpack_from(">BBHI", self.arrived)
            if len(self.arrived) < 8 + length:
                return
            payload = bytes(self.arrived[8 : 8 + length])
            del self.arrived[: 8 + length]
            self.handle(kind, flags, self.streams.get(number), payload)

    def handle(self, kind, flags, stream, payload):
        if kind == HELLO_OK:
            self.accepted = True
        elif kind == ERROR:
            sys.exit(f"refused: {payload[2:].decode()}")
        elif kind == PING:
            self.say(PONG, payload)
        elif kind == DATA:
            stream.got += payload
            stream.over = stream.over or flags & FIN
            if stream.granted - len(stream.got) < GRANTED // 2:
                stream.granted = len(stream.got) + GRANTED
                self.say(WINDOW, struct.pack(">QQ", len(stream.got), stream.granted), stream.number)
        elif kind == WINDOW:
            stream.limit = max(stream.limit, struct.unpack(">QQ", payload)[1])
        elif kind == RESET:
            sys.exit(f"stream {stream.number} was reset")


def main():
    authority, path, ca, device, token, region, echo, source, size = sys.argv[1:]
    echo, source, size = int(echo), int(source), int(size)
    host, port = authority.rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    link = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="localhost")
    assert link.selected_alpn_protocol() == "h2"
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    connection.increment_flow_control_window(1 << 22)
    tunnels = {}

    def pump():
        for tunnel in tunnels.values():
            tunnel.work()
        link.sendall(connection.data_to_send())
        data = link.recv(65536)
        assert data, "the gateway closed the connection"
        seen = connection.receive_data(data)
        for event in seen:
            if isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                tunnels[event.stream_id].feed(event.data)
            elif isinstance(event, h2.events.ResponseReceived):
                assert dict(event.headers)[":status"] == "200", event.headers
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                sys.exit(str(event))
        return seen

    while not any(isinstance(event, h2.events.RemoteSettingsChanged) for event in pump()):
        pass
    assert connection.remote_settings.enable_connect_protocol == 1
    common = [(":scheme", "https"), (":authority", authority), (":path", path)]
    post = [("content-type", "application/httvps"), ("authorization", f"Bearer {token}")]
    upgrade = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "httvps.v2")]
    for headers, framed in [
        ([(":method", "POST")] + common + post, False),
        ([(":method", "CONNECT"), (":protocol", "websocket")] + common + upgrade, True),
    ]:
        number = connection.get_next_available_stream_id()
        connection.send_headers(number, headers)
        tunnels[number] = Tunnel(connection, number, framed)
    hello = {"device_id": device, "access_token": token, "region": region, "client_version": "1", "platform": "python"}
    for tunnel in tunnels.values():
        tunnel.say(HELLO, json.dumps(hello).encode())
    while not all(tunnel.accepted for tunnel in tunnels.values()):
        pump()
    tried = []
    for tunnel in tunnels.values():
        for length in [size] + [1000 + 17 * at for at in range(100)]:
            data = os.urandom(length)
            tried.append((tunnel.open(echo, data), data))
        tried.append((tunnel.open(source, struct.pack(">Q", size)), None))
    while not all(stream.over for stream, _ in tried):
        pump()
    for stream, data in tried:
        assert len(stream.got) == size if data is None else bytes(stream.got) == data, stream.number
    print("exact")


main()
