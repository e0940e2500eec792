//! What is decoded and written again is the same frame.

use bytes::{Bytes, BytesMut};
use httvps::frame::binary::{HEADER_LEN, MAX_HELLO, MAX_MESSAGE};
use httvps::frame::{self, Datagram, Features, Frame, Target};

pub fn binary(data: &[u8]) {
    let mut message = Bytes::copy_from_slice(data.get(..MAX_MESSAGE).unwrap_or(data));
    while let Ok(Some(frame)) = frame::binary::decode(&mut message) {
        if let Frame::Data { payload, .. } | Frame::Open { payload, udp: true, .. } = &frame {
            records(payload.clone());
        }
        rewritten(frame);
    }
}

fn rewritten(frame: Frame) {
    let mut bytes = BytesMut::new();
    frame::binary::encode(&frame, &mut bytes);
    if matches!(frame, Frame::Hello(_)) && bytes.len() > HEADER_LEN + MAX_HELLO {
        return;
    }
    let mut bytes = bytes.freeze();
    assert_eq!(frame::binary::decode(&mut bytes), Ok(Some(frame)));
    assert!(bytes.is_empty(), "{} bytes behind a frame", bytes.len());
}

fn records(mut payload: Bytes) {
    while let Ok(Some(record)) = Datagram::decode(&mut payload) {
        let mut bytes = Vec::new();
        Datagram::encode(&record.peer, &record.payload, &mut bytes);
        assert_eq!(bytes.len(), Datagram::encoded_len(&record.peer, record.payload.len()));
        let mut bytes = Bytes::from(bytes);
        assert_eq!(Datagram::decode(&mut bytes), Ok(Some(record)));
        assert!(bytes.is_empty());
    }
}

pub fn json(data: &[u8]) {
    let Some((selector, text)) = data.split_first() else { return };
    let features = if selector & 1 == 1 { Features::ALL } else { Features::NONE };
    let Ok(frame) = frame::json::decode(text, features) else { return };
    let plain = written(&frame, Features::NONE);
    assert!(plain.is_empty() || frame::json::decode(&plain, Features::NONE).is_ok(), "{frame:?}");
    let whole = written(&frame, Features::ALL);
    assert_eq!(frame::json::decode(&whole, Features::ALL), Ok(as_written(frame)));
}

fn written(frame: &Frame, features: Features) -> Vec<u8> {
    let mut text = Vec::new();
    frame::json::encode(frame, features, &mut text);
    text
}

fn as_written(frame: Frame) -> Frame {
    match frame {
        Frame::Error { code, message, retry_after_ms } if message.is_empty() => {
            Frame::Error { code, message: code.as_str().to_owned(), retry_after_ms }
        }
        Frame::StreamError { id, code, message } if message.is_empty() => {
            Frame::StreamError { id, code, message: code.as_str().to_owned() }
        }
        Frame::Open { id, target: Some(target), payload, fin, udp } => {
            Frame::Open { id, target: Target::parse(&target.text()).ok(), payload, fin, udp }
        }
        other => other,
    }
}
