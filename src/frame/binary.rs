//! Encoding v2: an 8-byte big-endian header `type u8, flags u8, length u16, stream_id u32`, then the payload (docs/03).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DecodeError, Frame, Hello, HelloOk, Notice, SessionCode, StreamCode, StreamId, Target};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 8;
/// Most payload bytes of one DATA frame: a WebSocket message of 65,536 bytes holds it and its header.
pub const MAX_DATA: usize = 65_528;
/// Most bytes of a WebSocket message.
pub const MAX_MESSAGE: usize = 65_536;
/// Most payload bytes of HELLO and `HELLO_OK`.
pub const MAX_HELLO: usize = 32 * 1024;

/// Most characters of ERROR's text.
const MAX_TEXT: usize = 1024;

const HELLO: u8 = 0x01;
const HELLO_OK: u8 = 0x02;
const ERROR: u8 = 0x03;
const PING: u8 = 0x04;
const PONG: u8 = 0x05;
const GOAWAY: u8 = 0x06;
const PADDING: u8 = 0x07;
const NOTICE: u8 = 0x08;
const OPEN: u8 = 0x10;
const DATA: u8 = 0x11;
const WINDOW: u8 = 0x12;
const RESET: u8 = 0x13;
const FIRST_IGNORABLE: u8 = 0x80;

const FIN: u8 = 0x01;
const UDP: u8 = 0x02;

/// How many bytes at the front are whole frames, and how many the one behind them misses at least. A frame of more than
/// `max` bytes is an error as soon as its header is there.
pub fn whole(bytes: &[u8], max: usize) -> Result<(usize, usize), DecodeError> {
    let mut end = 0usize;
    loop {
        let rest = bytes.get(end..).unwrap_or_default();
        let &[kind, _, high, low, _, _, _, _, ..] = rest else {
            return Ok((end, HEADER_LEN.saturating_sub(rest.len())));
        };
        let len = usize::from(u16::from_be_bytes([high, low])).saturating_add(HEADER_LEN);
        if len > max {
            return Err(DecodeError::WrongLength(kind));
        }
        if rest.len() < len {
            return Ok((end, len.saturating_sub(rest.len())));
        }
        end = end.saturating_add(len);
    }
}

/// Takes the next frame off `bytes`; `None` when `bytes` is empty. A frame of an unknown ignorable type is padding, an
/// unknown code `INTERNAL` or `CANCELLED`.
pub fn decode(bytes: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() < HEADER_LEN {
        return Err(DecodeError::Truncated);
    }
    let kind = bytes.get_u8();
    let flags = bytes.get_u8();
    let len = usize::from(bytes.get_u16());
    let id = StreamId(bytes.get_u32());
    if bytes.len() < len {
        return Err(DecodeError::Truncated);
    }
    let payload = bytes.split_to(len);
    if kind >= FIRST_IGNORABLE {
        return Ok(Some(padding(&payload)));
    }
    decode_payload(kind, flags, id, payload).map(Some)
}

fn decode_payload(kind: u8, flags: u8, id: StreamId, mut payload: Bytes) -> Result<Frame, DecodeError> {
    let wrong_length = DecodeError::WrongLength(kind);
    if kind >= OPEN && id.0 == 0 || kind < OPEN && id.0 != 0 {
        return Err(DecodeError::StreamId);
    }
    Ok(match kind {
        HELLO if payload.len() > MAX_HELLO => return Err(wrong_length),
        HELLO => Frame::Hello(Box::new(json::<Hello>(&payload)?)),
        HELLO_OK => Frame::HelloOk(json::<HelloOk>(&payload)?),
        ERROR => {
            let code = payload.try_get_u16().map_err(|_| wrong_length)?;
            let message = std::str::from_utf8(&payload).map_err(|_| DecodeError::Utf8)?.to_owned();
            let code = SessionCode::from_number(code).unwrap_or(SessionCode::Internal);
            Frame::Error { code, message, retry_after_ms: None }
        }
        PING => Frame::Ping(payload.as_ref().try_into().map_err(|_| wrong_length)?),
        PONG => Frame::Pong(payload.as_ref().try_into().map_err(|_| wrong_length)?),
        GOAWAY if payload.len() == 10 => {
            let (last, reconnect_in_ms, code) = (payload.get_u32(), payload.get_u32(), payload.get_u16());
            let code = SessionCode::from_number(code).unwrap_or(SessionCode::Internal);
            Frame::GoAway { last: StreamId(last), reconnect_in_ms, code }
        }
        PADDING => padding(&payload),
        NOTICE => Frame::Notice(json::<Notice>(&payload)?),
        OPEN => {
            let (target, len) = Target::decode(&payload)?.ok_or(wrong_length)?;
            payload.advance(len);
            Frame::Open { id, target: Some(target), payload, fin: flags & FIN != 0, udp: flags & UDP != 0 }
        }
        DATA if payload.len() > MAX_DATA => return Err(wrong_length),
        DATA => Frame::Data { id, payload, fin: flags & FIN != 0 },
        WINDOW if payload.len() == 16 => Frame::Window { id, consumed: payload.get_u64(), limit: payload.get_u64() },
        RESET if payload.len() == 2 => {
            let code = StreamCode::from_number(payload.get_u16()).unwrap_or(StreamCode::Cancelled);
            Frame::Reset { id, code }
        }
        GOAWAY | WINDOW | RESET => return Err(wrong_length),
        other => return Err(DecodeError::UnknownType(other)),
    })
}

fn padding(payload: &[u8]) -> Frame {
    Frame::Padding(u16::try_from(payload.len()).unwrap_or(u16::MAX))
}

fn json<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|error| DecodeError::Json(error.to_string()))
}

/// Appends a frame. `Close` has no form of its own in v2 and is written as a FIN, `StreamError` as nothing: RESET has
/// a code.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Hello(hello) => put_json(out, HELLO, hello.as_ref()),
        Frame::HelloOk(ok) => put_json(out, HELLO_OK, ok),
        Frame::Error { code, message, .. } => {
            let text: String = message.chars().take(MAX_TEXT).collect();
            let text = text.as_bytes();
            put_header(out, ERROR, 0, text.len().saturating_add(2), StreamId(0));
            out.put_u16(code.number());
            out.put_slice(text);
        }
        Frame::Ping(bytes) => put(out, PING, 0, StreamId(0), bytes),
        Frame::Pong(bytes) => put(out, PONG, 0, StreamId(0), bytes),
        Frame::GoAway { last, reconnect_in_ms, code } => {
            put_header(out, GOAWAY, 0, 10, StreamId(0));
            out.put_u32(last.0);
            out.put_u32(*reconnect_in_ms);
            out.put_u16(code.number());
        }
        Frame::Padding(len) => {
            put_header(out, PADDING, 0, usize::from(*len), StreamId(0));
            out.put_bytes(0, usize::from(*len));
        }
        Frame::Notice(notice) => put_json(out, NOTICE, notice),
        Frame::StreamError { .. } => {}
        Frame::Open { id, target, payload, fin, udp } => {
            let flags = if *fin { FIN } else { 0 } | if *udp { UDP } else { 0 };
            let target_len = target.as_ref().map_or(0, Target::encoded_len);
            put_header(out, OPEN, flags, target_len.saturating_add(payload.len()), *id);
            if let Some(target) = target {
                target.encode(out);
            }
            out.put_slice(payload);
        }
        Frame::Data { id, payload, fin } => put(out, DATA, if *fin { FIN } else { 0 }, *id, payload),
        Frame::Window { id, consumed, limit } => {
            put_header(out, WINDOW, 0, 16, *id);
            out.put_u64(*consumed);
            out.put_u64(*limit);
        }
        Frame::Reset { id, code } => put(out, RESET, 0, *id, &code.number().to_be_bytes()),
        Frame::Close { id, .. } => put(out, DATA, FIN, *id, &[]),
    }
}

/// The header of a DATA frame, to be written in front of a payload of at most [`MAX_DATA`] bytes.
pub fn data_header(id: StreamId, len: usize, fin: bool) -> [u8; HEADER_LEN] {
    let [l0, l1] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let [i0, i1, i2, i3] = id.0.to_be_bytes();
    [DATA, if fin { FIN } else { 0 }, l0, l1, i0, i1, i2, i3]
}

fn put_json(out: &mut BytesMut, kind: u8, value: &impl serde::Serialize) {
    let payload = serde_json::to_vec(value).unwrap_or_default();
    put(out, kind, 0, StreamId(0), &payload);
}

fn put(out: &mut BytesMut, kind: u8, flags: u8, id: StreamId, payload: &[u8]) {
    put_header(out, kind, flags, payload.len(), id);
    out.put_slice(payload);
}

fn put_header(out: &mut BytesMut, kind: u8, flags: u8, len: usize, id: StreamId) {
    out.reserve(len.saturating_add(HEADER_LEN));
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(u16::try_from(len).unwrap_or(u16::MAX));
    out.put_u32(id.0);
}

#[cfg(test)]
mod tests;
