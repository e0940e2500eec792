//! Frames of HTTP/2, byte by byte.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const SETTINGS: u8 = 4;

pub(crate) const HEADERS: u8 = 1;

/// `END_STREAM` and `END_HEADERS`.
pub(crate) const END_STREAM_AND_HEADERS: u8 = 5;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field that is not indexed (RFC 7541, section 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.bytes());
    field.push(value.len() as u8);
    field.extend(value.bytes());
    field
}

pub(crate) fn encode_fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub(crate) fn request_fields(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "localhost")];
    encode_fields(&[&usual, more].concat())
}

pub(crate) fn open_connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}
