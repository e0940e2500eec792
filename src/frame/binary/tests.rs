use proptest::prelude::*;

use super::*;
use crate::frame::{Features, Padding, Token};

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(frame, &mut out);
    out.to_vec()
}

fn frames_of(bytes: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let mut bytes = Bytes::copy_from_slice(bytes);
    std::iter::from_fn(|| decode(&mut bytes).transpose()).collect()
}

#[test]
fn literal_bytes_both_ways() {
    let id = StreamId(0x0102_0305);
    let cases: Vec<(Frame, &[u8])> = vec![
        (
            Frame::HelloOk(HelloOk { session_id: "s".into(), ..HelloOk::default() }),
            b"\x02\x00\x00\x12\x00\x00\x00\x00{\"session_id\":\"s\"}",
        ),
        (
            Frame::Error { code: SessionCode::LimitReached, message: "x".into(), retry_after_ms: None },
            b"\x03\x00\x00\x03\x00\x00\x00\x00\x00\x0bx",
        ),
        (Frame::Ping(*b"01234567"), b"\x04\x00\x00\x08\x00\x00\x00\x0001234567"),
        (Frame::Pong(*b"01234567"), b"\x05\x00\x00\x08\x00\x00\x00\x0001234567"),
        (
            Frame::GoAway { last: StreamId(7), reconnect_in_ms: 500, code: SessionCode::GoingAway },
            b"\x06\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x01\xf4\x00\x12",
        ),
        (Frame::Padding(3), b"\x07\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00"),
        (
            Frame::Notice(Notice::Maintenance { within_ms: 5 }),
            b"\x08\x00\x00\x24\x00\x00\x00\x00{\"kind\":\"maintenance\",\"within_ms\":5}",
        ),
        (
            Frame::Open {
                id,
                target: Some(Target::Name("a.b".into(), 443)),
                payload: Bytes::from_static(b"hi"),
                fin: true,
                udp: false,
            },
            b"\x10\x01\x00\x09\x01\x02\x03\x05\x03\x03a.b\x01\xbbhi",
        ),
        (Frame::Data { id, payload: Bytes::from_static(b"abc"), fin: false }, b"\x11\x00\x00\x03\x01\x02\x03\x05abc"),
        (Frame::Data { id, payload: Bytes::new(), fin: true }, b"\x11\x01\x00\x00\x01\x02\x03\x05"),
        (
            Frame::Window { id, consumed: 1, limit: 65_536 },
            b"\x12\x00\x00\x10\x01\x02\x03\x05\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00",
        ),
        (Frame::Reset { id, code: StreamCode::Blocked }, b"\x13\x00\x00\x02\x01\x02\x03\x05\x01\x03"),
    ];
    for (frame, bytes) in &cases {
        assert_eq!(bytes_of(frame), *bytes, "{frame:?}");
        assert_eq!(frames_of(bytes).unwrap(), std::slice::from_ref(frame));
    }
    let whole: Vec<u8> = cases.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    assert_eq!(frames_of(&whole).unwrap(), cases.into_iter().map(|(frame, _)| frame).collect::<Vec<_>>());
}

#[test]
fn hello_round_trip() {
    let hello = Hello {
        device_id: "d".into(),
        access_token: Token::from("t".to_owned()),
        region: "eu-1".into(),
        client_version: String::new(),
        platform: "linux".into(),
        features: Features::ALL,
        keepalive: Some(60),
        resume: None,
        replaces: None,
    };
    let frame = Frame::Hello(Box::new(hello));
    assert_eq!(frames_of(&bytes_of(&frame)).unwrap(), [frame]);
}

#[test]
fn consent_tells_the_padding_scheme() {
    let padding = Some(Padding::documented());
    let frame = Frame::HelloOk(HelloOk { session_id: "s".into(), padding, ..HelloOk::default() });
    let bytes = bytes_of(&frame);
    assert_eq!(bytes[HEADER_LEN..], *br#"{"session_id":"s","padding":[[64,512],[0,256],[0,256],[0,128]]}"#);
    assert_eq!(frames_of(&bytes).unwrap(), [frame]);
}

#[test]
fn news_of_an_unknown_kind() {
    let frames = frames_of(b"\x08\x00\x00\x16\x00\x00\x00\x00{\"kind\":\"later\",\"x\":1}");
    assert_eq!(frames.unwrap(), [Frame::Notice(Notice::Unknown)]);
}

#[test]
fn malformed() {
    let cases: Vec<(&[u8], DecodeError)> = vec![
        (b"\x11\x00\x00", DecodeError::Truncated),
        (b"\x11\x00\x00\x05\x00\x00\x00\x01abc", DecodeError::Truncated),
        (b"\x20\x00\x00\x00\x00\x00\x00\x01", DecodeError::UnknownType(0x20)),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00", DecodeError::UnknownType(0x09)),
        (b"\x11\x00\x00\x00\x00\x00\x00\x00", DecodeError::StreamId),
        (b"\x04\x00\x00\x08\x00\x00\x00\x0101234567", DecodeError::StreamId),
        (b"\x04\x00\x00\x01\x00\x00\x00\x000", DecodeError::WrongLength(4)),
        (b"\x10\x00\x00\x03\x00\x00\x00\x01\x03\x09a", DecodeError::WrongLength(0x10)),
        (b"\x12\x00\x00\x01\x00\x00\x00\x01a", DecodeError::WrongLength(0x12)),
    ];
    for (bytes, error) in cases {
        assert_eq!(frames_of(bytes), Err(error), "{bytes:02x?}");
    }
}

#[test]
fn unknown_codes_have_a_meaning() {
    let reset = frames_of(b"\x13\x00\x00\x02\x00\x00\x00\x01\x00\x01").unwrap();
    assert_eq!(reset, [Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled }]);
    let error = frames_of(b"\x03\x00\x00\x02\x00\x00\x00\x00\x00\x15").unwrap();
    let internal = Frame::Error { code: SessionCode::Internal, message: String::new(), retry_after_ms: None };
    assert_eq!(error, [internal]);
}

#[test]
fn a_hello_is_bounded() {
    let hello = |len: u16| {
        let mut bytes = vec![0x01, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(vec![b' '; len.into()]);
        frames_of(&bytes)
    };
    assert!(matches!(hello(32_768), Err(DecodeError::Json(_))));
    assert_eq!(hello(32_769), Err(DecodeError::WrongLength(0x01)));
}

#[test]
fn reserved_bits_and_ignorable_types_are_ignored() {
    let frames = frames_of(b"\x90\xff\x00\x01\x00\x00\x00\x09x\x11\xfe\x00\x01\x00\x00\x00\x01a").unwrap();
    let data = Frame::Data { id: StreamId(1), payload: Bytes::from_static(b"a"), fin: false };
    assert_eq!(frames, [Frame::Padding(1), data]);
}

#[test]
fn data_header_is_what_encode_writes() {
    let frame = Frame::Data { id: StreamId(77), payload: Bytes::from_static(&[7; 300]), fin: true };
    assert_eq!(bytes_of(&frame)[..HEADER_LEN], data_header(StreamId(77), 300, true));
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = frames_of(&bytes).is_ok();
    }

    #[test]
    fn never_panics_behind_a_valid_header(kind in 0u8..0x20, flags: u8, id: u32, body in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = vec![kind, flags, 0, u8::try_from(body.len()).unwrap()];
        bytes.extend(id.to_be_bytes());
        bytes.extend(body);
        if let Ok(frames) = frames_of(&bytes) {
            for frame in frames {
                let again = frames_of(&bytes_of(&frame)).unwrap();
                prop_assert_eq!(again, [frame]);
            }
        }
    }
}
