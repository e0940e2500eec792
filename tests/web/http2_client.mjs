import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { once } from 'node:events';

import { Tunnel, joined, tried } from './tunnel.mjs';

const [authority, path, ca, device, token, region, echo, source, size] = process.argv.slice(2);
const hello = {
  device_id: device, access_token: token, region, client_version: '1.0.0', platform: 'node',
};

const masked = (bytes) => {
  const length = bytes.length < 126 ? [0x80 | bytes.length] : [0x80 | 126, bytes.length >> 8, bytes.length & 255];
  return joined([new Uint8Array([0x82, ...length, 0, 0, 0, 0]), bytes]);
};

const unframed = (feed) => {
  let rest = new Uint8Array();
  return (bytes) => {
    rest = joined([rest, bytes]);
    for (;;) {
      if (rest.length < 4) return;
      const [start, length] =
        rest[1] < 126 ? [2, rest[1]]
        : rest[1] === 126 ? [4, rest[2] * 256 + rest[3]]
        : [10, rest.slice(2, 10).reduce((sum, byte) => sum * 256 + byte, 0)];
      if (rest.length < start + length) return;
      if ((rest[0] & 15) === 2) feed(rest.slice(start, start + length));
      rest = rest.slice(start + length);
    }
  };
};

const tunnelOver = (stream, framed) => {
  const tunnel = new Tunnel(async (bytes) => {
    if (!stream.write(framed ? masked(bytes) : bytes)) await once(stream, 'drain');
  });
  const feed = (bytes) => tunnel.feed(bytes);
  stream.setMaxListeners(0);
  stream.on('data', framed ? unframed(feed) : feed);
  stream.on('error', (error) => tunnel.reject(error));
  return tunnel;
};

const answered = async (stream) => {
  const [headers] = await once(stream, 'response');
  if (headers[':status'] !== 200) throw new Error(`status ${headers[':status']}`);
};

const session = connect(`https://${authority}`, { ca: readFileSync(ca), servername: 'localhost' });
await once(session, 'remoteSettings');
if (!session.remoteSettings.enableConnectProtocol) throw new Error('no extended CONNECT');
const plain = session.request({
  ':method': 'POST', ':path': path, 'content-type': 'application/httvps', authorization: `Bearer ${token}`,
}, { endStream: false });
const websocket = session.request({
  ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13',
  'sec-websocket-protocol': 'httvps.v2',
}, { endStream: false });
await Promise.all([answered(plain), answered(websocket)]);
await Promise.all([plain, websocket].map((stream) =>
  tried(tunnelOver(stream, stream === websocket), hello, Number(echo), Number(source), Number(size))));
for (const stream of [plain, websocket]) stream.close();
session.close();
console.log('exact');
