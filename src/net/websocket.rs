//! RFC 6455 framing, without a socket (docs/04 says why).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fastwebsockets::{OpCode, unmask};

use crate::mux::Message;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// A length of two bytes follows, or one of eight.
const LEN_U16: u8 = 126;
const LEN_U64: u8 = 127;
const CONTROL_MAX: usize = 125;
/// Two bytes, a length of eight and a mask.
const HEADER_MAX: usize = 14;
/// Fragments below this are small.
const SMALL: usize = 64;

/// Which end of the connection this is; a client masks what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// The peer closes, with its code.
    Close(Option<u16>),
}

/// Why the peer's bytes are refused; [`Violation::close_code`] is told to it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Violation {
    #[error("reserved bits or opcodes")]
    Reserved,
    #[error("a frame is masked the wrong way")]
    Mask,
    #[error("a control frame is fragmented or too long")]
    Control,
    #[error("fragments out of order")]
    Fragment,
    #[error("a message is too large")]
    TooLarge,
    #[error("text is not UTF-8")]
    Utf8,
    #[error("a close frame is malformed")]
    Close,
}

impl Violation {
    /// The status code of RFC 6455, section 7.4.1.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLarge => 1009,
            Self::Utf8 => 1007,
            Self::Reserved | Self::Mask | Self::Control | Self::Fragment | Self::Close => 1002,
        }
    }
}

/// Turns bytes into messages. Never holds more than one message of the maximum size.
#[derive(Debug)]
pub struct Reader {
    side: Side,
    max: usize,
    fragments_max: usize,
    partial: Option<(OpCode, BytesMut)>,
    fragments: usize,
    small: usize,
}

struct Header {
    fin: bool,
    opcode: OpCode,
    mask: Option<[u8; 4]>,
    start: usize,
    len: usize,
}

impl Reader {
    /// Reads what the other side sends, messages of at most `max` bytes in at most `fragments_max` frames.
    pub fn new(side: Side, max: usize, fragments_max: usize) -> Self {
        Self { side, max, fragments_max, partial: None, fragments: 0, small: 0 }
    }

    /// Reads messages of at most `max` bytes from now on.
    pub fn allow(&mut self, max: usize) {
        self.max = max;
    }

    /// How many fragments that did not end their message were small, since this was asked last.
    pub fn take_small(&mut self) -> usize {
        std::mem::take(&mut self.small)
    }

    /// Takes the next message off `buf`; `Err(Ok(n))` when at least `n` bytes more are needed.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Incoming, Result<usize, Violation>> {
        loop {
            let header = self.header(buf)?;
            let missing = (header.start + header.len).saturating_sub(buf.len());
            if missing > 0 {
                return Err(Ok(missing));
            }
            buf.advance(header.start);
            let mut payload = buf.split_to(header.len);
            if let Some(mask) = header.mask {
                unmask(&mut payload, mask);
            }
            if let Some(message) = self.accept(&header, payload).map_err(Err)? {
                return Ok(message);
            }
        }
    }

    fn header(&self, buf: &[u8]) -> Result<Header, Result<usize, Violation>> {
        let &[first, second, ..] = buf else { return Err(Ok(2 - buf.len())) };
        let opcode = OpCode::try_from(first & 0x0f).map_err(|_| Err(Violation::Reserved))?;
        if first & 0x70 != 0 {
            return Err(Err(Violation::Reserved));
        }
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        if masked != (self.side == Side::Server) {
            return Err(Err(Violation::Mask));
        }
        let short = usize::from(second & 0x7f);
        let is_control = matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
        if is_control && (!fin || short > CONTROL_MAX) {
            return Err(Err(Violation::Control));
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let start = 2 + extended + if masked { 4 } else { 0 };
        let Some(rest) = buf.get(2..start) else { return Err(Ok(start - buf.len())) };
        let (length, key) = rest.split_at(extended);
        let len = match extended {
            0 => short as u64,
            _ => length.iter().fold(0, |len, byte| (len << 8) | u64::from(*byte)),
        };
        let held = self.partial.as_ref().map_or(0, |(_, held)| held.len());
        if !is_control && len.saturating_add(held as u64) > self.max as u64 {
            return Err(Err(Violation::TooLarge));
        }
        let in_order = match opcode {
            OpCode::Continuation => self.partial.is_some(),
            OpCode::Text | OpCode::Binary => self.partial.is_none(),
            OpCode::Close | OpCode::Ping | OpCode::Pong => true,
        };
        if !in_order {
            return Err(Err(Violation::Fragment));
        }
        let len = usize::try_from(len).map_err(|_| Err(Violation::TooLarge))?;
        Ok(Header { fin, opcode, mask: key.try_into().ok(), start, len })
    }

    fn accept(&mut self, header: &Header, payload: BytesMut) -> Result<Option<Incoming>, Violation> {
        match header.opcode {
            OpCode::Ping => Ok(Some(Incoming::Ping(payload.freeze()))),
            OpCode::Pong => Ok(Some(Incoming::Pong)),
            OpCode::Close => close_code(&payload).map(|code| Some(Incoming::Close(code))),
            OpCode::Text | OpCode::Binary if header.fin => message(header.opcode, payload).map(Some),
            OpCode::Text | OpCode::Binary => {
                self.note_fragment(payload.len());
                self.partial = Some((header.opcode, payload));
                self.fragments = 1;
                Ok(None)
            }
            OpCode::Continuation => {
                let Some((opcode, mut held)) = self.partial.take() else { return Err(Violation::Fragment) };
                self.fragments += 1;
                if self.fragments > self.fragments_max {
                    return Err(Violation::Fragment);
                }
                held.extend_from_slice(&payload);
                if header.fin {
                    return message(opcode, held).map(Some);
                }
                self.note_fragment(payload.len());
                self.partial = Some((opcode, held));
                Ok(None)
            }
        }
    }

    fn note_fragment(&mut self, len: usize) {
        if len < SMALL {
            self.small += 1;
        }
    }
}

fn message(opcode: OpCode, payload: BytesMut) -> Result<Incoming, Violation> {
    if opcode != OpCode::Text {
        return Ok(Incoming::Binary(payload.freeze()));
    }
    std::str::from_utf8(&payload).map_err(|_| Violation::Utf8)?;
    Ok(Incoming::Text(payload.freeze()))
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_at_checked(2) else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::Close) };
    };
    let code = code.iter().fold(0, |code, byte| (code << 8) | u16::from(*byte));
    let may_travel = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_travel {
        return Err(Violation::Close);
    }
    std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some(code))
}

/// Puts the frame header in front of a message, and masks the message if `side` is the client's.
pub fn write_header(message: &mut Message, opcode: OpCode, side: Side) {
    let mask = (side == Side::Client).then(random_mask);
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut header = [0; HEADER_MAX];
    let mut room = &mut header[..];
    room.put_u8(FIN | opcode as u8);
    match (u8::try_from(message.len()), u16::try_from(message.len())) {
        (Ok(len @ 0..LEN_U16), _) => room.put_u8(masked | len),
        (_, Ok(len)) => {
            room.put_u8(masked | LEN_U16);
            room.put_u16(len);
        }
        (_, Err(_)) => {
            room.put_u8(masked | LEN_U64);
            room.put_u64(message.len() as u64);
        }
    }
    if let Some(mask) = mask {
        room.put_slice(&mask);
        unmask(message.bytes_mut(), mask);
    }
    let len = HEADER_MAX - room.len();
    message.prepend(&header[..len]);
}

fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    if aws_lc_rs::rand::fill(&mut mask).is_err() {
        tracing::error!("failed to get randomness for a mask");
    }
    mask
}

#[cfg(test)]
mod tests;
