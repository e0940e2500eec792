const [HELLO, HELLO_OK, ERROR, PING, PONG] = [0x01, 0x02, 0x03, 0x04, 0x05];
const [OPEN, DATA, WINDOW, RESET] = [0x10, 0x11, 0x12, 0x13];
const FIN = 0x01;
const [INITIAL, GRANTED, CHUNK] = [65536, 2 ** 22, 16000];

export const pattern = (length) => {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = (Math.imul(at, 31) >>> 3) ^ at;
  return bytes;
};

export const isEqual = (one, other) => one.length === other.length && one.every((byte, at) => byte === other[at]);

export const joined = (parts) => {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

const number = (value, length) => {
  const bytes = new Uint8Array(length);
  for (let at = length - 1; at >= 0; at--) {
    bytes[at] = value % 256;
    value = Math.floor(value / 256);
  }
  return bytes;
};

const value = (bytes, at, length) => bytes.slice(at, at + length).reduce((sum, byte) => sum * 256 + byte, 0);

export const length = (count) => number(count, 8);

const frame = (kind, payload, stream = 0, flags = 0) =>
  joined([new Uint8Array([kind, flags]), number(payload.length, 2), number(stream, 4), payload]);

const loopback = (port) => joined([new Uint8Array([1, 127, 0, 0, 1]), number(port, 2)]);

class Stream {
  constructor(tunnel, id) {
    Object.assign(this, { tunnel, id, sent: 0, limit: INITIAL, received: 0, granted: GRANTED, parts: [] });
    this.ended = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  }

  async write(bytes) {
    while (bytes.length > 0) {
      const room = Math.min(CHUNK, this.limit - this.sent);
      if (room <= 0) {
        await new Promise((resolve) => (this.widened = resolve));
        continue;
      }
      const part = bytes.subarray(0, room);
      bytes = bytes.subarray(part.length);
      this.sent += part.length;
      await this.tunnel.send(frame(DATA, part, this.id));
    }
  }

  finish() {
    return this.tunnel.send(frame(DATA, new Uint8Array(), this.id, FIN));
  }

  all() {
    return this.ended.then(() => joined(this.parts));
  }

  take(payload, fin) {
    this.parts.push(payload);
    this.received += payload.length;
    if (this.granted - this.received < GRANTED / 2) this.grant();
    if (fin) this.resolve();
  }

  grant() {
    this.granted = this.received + GRANTED;
    return this.tunnel.send(frame(WINDOW, joined([number(this.received, 8), number(this.granted, 8)]), this.id));
  }
}

export class Tunnel {
  constructor(send) {
    Object.assign(this, { send, rest: new Uint8Array(), streams: new Map(), next: 1 });
    this.answered = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  }

  async hello(hello) {
    await this.send(frame(HELLO, new TextEncoder().encode(JSON.stringify(hello))));
    return this.answered;
  }

  async open(port, first = new Uint8Array()) {
    const stream = new Stream(this, this.next);
    this.streams.set(stream.id, stream);
    this.next += 2;
    stream.sent = first.length;
    await this.send(frame(OPEN, joined([loopback(port), first]), stream.id));
    await stream.grant();
    return stream;
  }

  feed(bytes) {
    this.rest = this.rest.length > 0 ? joined([this.rest, bytes]) : bytes;
    let at = 0;
    while (this.rest.length - at >= 8 && this.rest.length - at >= 8 + value(this.rest, at + 2, 2)) {
      const end = at + 8 + value(this.rest, at + 2, 2);
      this.handle(this.rest[at], this.rest[at + 1], value(this.rest, at + 4, 4), this.rest.slice(at + 8, end));
      at = end;
    }
    this.rest = this.rest.slice(at);
  }

  handle(kind, flags, id, payload) {
    const stream = this.streams.get(id);
    switch (kind) {
      case HELLO_OK:
        return this.resolve(JSON.parse(new TextDecoder().decode(payload)));
      case ERROR:
        return this.reject(new Error(new TextDecoder().decode(payload.slice(2))));
      case PING:
        return this.send(frame(PONG, payload));
      case DATA:
        return stream?.take(payload, (flags & FIN) !== 0);
      case WINDOW:
        stream.limit = Math.max(stream.limit, value(payload, 8, 8));
        return stream.widened?.();
      case RESET:
        return stream?.reject(new Error(`reset ${value(payload, 0, 2)}`));
    }
  }
}

const echoed = async (tunnel, port, bytes) => {
  const stream = await tunnel.open(port);
  const writing = stream.write(bytes).then(() => stream.finish());
  const got = await stream.all();
  await writing;
  if (!isEqual(got, bytes)) throw new Error(`${got.length} of ${bytes.length} bytes came back`);
};

export const tried = async (tunnel, hello, echo, source, size) => {
  await tunnel.hello(hello);
  await echoed(tunnel, echo, pattern(size));
  const stream = await tunnel.open(source, length(size));
  const got = await stream.all();
  await stream.finish();
  if (got.length !== size) throw new Error(`${got.length} of ${size} bytes came`);
  await Promise.all(Array.from({ length: 100 }, (_, at) => echoed(tunnel, echo, pattern(1000 + 17 * at))));
};
