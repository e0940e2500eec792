//! A reader says the same however its bytes are cut, and keeps to its limits.

use bytes::BytesMut;
use httvps::net::websocket::{Incoming, Reader, Side, Violation};

const CONTROL_MAX: usize = 125;
const HEADER_MAX: usize = 14;

#[derive(Clone, Copy)]
struct Limits {
    side: Side,
    max: usize,
    fragments: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    messages: Vec<Incoming>,
    violation: Option<Violation>,
    missing: usize,
}

pub fn websocket(data: &[u8]) {
    let Some((&[side, high, low, fragments, a, b, c, d], bytes)) = data.split_first_chunk::<8>() else { return };
    let limits = Limits {
        side: if side & 1 == 0 { Side::Server } else { Side::Client },
        max: usize::from(u16::from_be_bytes([high, low])) + 1,
        fragments: usize::from(fragments),
    };
    let sizes = [a, b, c, d].map(|size| usize::from(size) + 1);
    assert_eq!(read(limits, pieces(bytes, &sizes)), read(limits, std::iter::once(bytes)));
}

fn pieces<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    sizes.iter().cycle().map_while(move |size| {
        let (piece, rest) = bytes.split_at(bytes.len().min(*size));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn read<'a>(limits: Limits, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut reader = Reader::new(limits.side, limits.max, limits.fragments);
    let mut buf = BytesMut::new();
    let mut outcome = Outcome { messages: Vec::new(), violation: None, missing: 2 };
    for piece in pieces {
        buf.extend_from_slice(piece);
        outcome.missing = outcome.missing.saturating_sub(piece.len());
        loop {
            let next = reader.next(&mut buf);
            let waits = matches!(next, Err(Ok(missing)) if missing == outcome.missing);
            assert!(outcome.missing == 0 || waits, "{} bytes were missing, then {next:?}", outcome.missing);
            match next {
                Ok(message) => {
                    judge(&message, limits);
                    outcome.messages.push(message);
                }
                Err(Ok(missing)) => {
                    assert!((1..=limits.max.max(CONTROL_MAX) + HEADER_MAX).contains(&missing), "{missing} missing");
                    outcome.missing = missing;
                    break;
                }
                Err(Err(violation)) => {
                    outcome.violation = Some(violation);
                    return outcome;
                }
            }
        }
    }
    outcome
}

fn judge(message: &Incoming, limits: Limits) {
    match message {
        Incoming::Text(text) => {
            assert!(text.len() <= limits.max);
            assert!(std::str::from_utf8(text).is_ok());
        }
        Incoming::Binary(bytes) => assert!(bytes.len() <= limits.max),
        Incoming::Ping(bytes) => assert!(bytes.len() <= CONTROL_MAX),
        Incoming::Close(code) => assert!(code.is_none_or(|code| (1000..5000).contains(&code))),
        Incoming::Pong => {}
    }
}
