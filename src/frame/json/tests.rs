use proptest::prelude::*;

use super::*;
use crate::frame::{HelloLimits, Token};

fn text_of(frame: &Frame, features: Features) -> String {
    let mut out = Vec::new();
    encode(frame, features, &mut out);
    String::from_utf8(out).unwrap()
}

fn hello() -> Hello {
    Hello {
        device_id: "d".into(),
        access_token: Token::from("t".to_owned()),
        region: "ru-1".into(),
        client_version: "1.0.0".into(),
        platform: "android".into(),
        features: Features::NONE,
        keepalive: None,
        resume: None,
        replaces: None,
    }
}

fn both_ways(features: Features, cases: Vec<(Frame, &str)>) {
    for (frame, text) in cases {
        assert_eq!(text_of(&frame, features), text);
        assert_eq!(decode(text.as_bytes(), features), Ok(frame), "{text}");
    }
}

const ID: StreamId = StreamId(13);

#[test]
fn the_owners_messages_both_ways() {
    let error =
        Frame::Error { code: SessionCode::NoSubscription, message: "NO_SUBSCRIPTION".into(), retry_after_ms: None };
    let open = Frame::Open { id: ID, target: None, payload: Bytes::new(), fin: false, udp: false };
    both_ways(
        Features::NONE,
        vec![
            (
                Frame::Hello(Box::new(hello())),
                r#"{"type":"hello","device_id":"d","access_token":"t","region":"ru-1","client_version":"1.0.0","platform":"android"}"#,
            ),
            (
                Frame::HelloOk(HelloOk { session_id: "s".into(), ..HelloOk::default() }),
                r#"{"type":"hello_ok","session_id":"s"}"#,
            ),
            (error, r#"{"type":"error","code":"NO_SUBSCRIPTION"}"#),
            (open, r#"{"type":"stream_open","stream_id":13}"#),
            (
                Frame::Data { id: ID, payload: Bytes::from_static(b"hello"), fin: false },
                r#"{"type":"stream_data","stream_id":13,"payload":"aGVsbG8="}"#,
            ),
            (Frame::Close { id: ID, half: false }, r#"{"type":"stream_close","stream_id":13}"#),
        ],
    );
}

#[test]
fn the_additions_both_ways() {
    let limits = HelloLimits {
        streams: 512,
        message: 262_144,
        opens_per_second: 200,
        keepalive: 20,
        dead_after: 45,
        udp_idle: 120,
    };
    let target = Some(Target::Ip("[::1]:443".parse().unwrap()));
    both_ways(
        Features::ALL,
        vec![
            (
                Frame::Hello(Box::new(Hello {
                    features: Features::NONE.with(Feature::Udp),
                    keepalive: Some(60),
                    ..hello()
                })),
                r#"{"type":"hello","device_id":"d","access_token":"t","region":"ru-1","client_version":"1.0.0","platform":"android","features":["udp"],"keepalive":60}"#,
            ),
            (
                Frame::HelloOk(HelloOk {
                    session_id: "s".into(),
                    features: Features::NONE.with(Feature::Limits),
                    limits: Some(limits),
                    padding: None,
                    resume: None,
                }),
                r#"{"type":"hello_ok","session_id":"s","features":["limits"],"limits":{"streams":512,"message":262144,"opens_per_second":200,"keepalive":20,"dead_after":45,"udp_idle":120}}"#,
            ),
            (
                Frame::Error { code: SessionCode::Overloaded, message: "busy".into(), retry_after_ms: Some(5000) },
                r#"{"type":"error","code":"OVERLOADED","message":"busy","retry_after_ms":5000}"#,
            ),
            (
                Frame::StreamError { id: ID, code: StreamCode::Blocked, message: "BLOCKED".into() },
                r#"{"type":"error","code":"BLOCKED","stream_id":13,"message":"BLOCKED"}"#,
            ),
            (
                Frame::Notice(Notice::Quota { percent: 80, remaining_bytes: 7 }),
                r#"{"type":"notice","kind":"quota","percent":80,"remaining_bytes":7}"#,
            ),
            (
                Frame::Open { id: ID, target, payload: Bytes::from_static(b"hi"), fin: false, udp: false },
                r#"{"type":"stream_open","stream_id":13,"target":"[::1]:443","payload":"aGk="}"#,
            ),
            (
                Frame::Open { id: ID, target: None, payload: Bytes::new(), fin: false, udp: true },
                r#"{"type":"stream_open","stream_id":13,"network":"udp"}"#,
            ),
            (
                Frame::Window { id: ID, consumed: 1, limit: 65_537 },
                r#"{"type":"stream_window","stream_id":13,"consumed":1,"limit":65537}"#,
            ),
            (Frame::Close { id: ID, half: true }, r#"{"type":"stream_close","stream_id":13,"half":true}"#),
            (
                Frame::Reset { id: ID, code: StreamCode::NodeDown },
                r#"{"type":"stream_close","stream_id":13,"code":"NODE_DOWN"}"#,
            ),
        ],
    );
}

#[test]
fn without_the_feature_an_addition_is_neither_written_nor_read() {
    let texts = [
        r#"{"type":"stream_open","stream_id":13,"target":"a:1","payload":"aGk=","network":"udp"}"#,
        r#"{"type":"stream_close","stream_id":13,"half":true,"code":"BLOCKED"}"#,
    ];
    let open = Frame::Open { id: ID, target: None, payload: Bytes::new(), fin: false, udp: false };
    assert_eq!(decode(texts[0].as_bytes(), Features::NONE), Ok(open));
    assert_eq!(decode(texts[1].as_bytes(), Features::NONE), Ok(Frame::Close { id: ID, half: false }));
    for text in [
        r#"{"type":"stream_window","stream_id":1,"consumed":0,"limit":1}"#,
        r#"{"type":"notice","kind":"expiry","valid_until":"x"}"#,
    ] {
        assert_eq!(decode(text.as_bytes(), Features::NONE), Err(DecodeError::UnknownMessage));
    }
    for frame in [
        Frame::Notice(Notice::Unknown),
        Frame::Window { id: ID, consumed: 0, limit: 1 },
        Frame::StreamError { id: ID, code: StreamCode::Blocked, message: String::new() },
    ] {
        assert_eq!(text_of(&frame, Features::NONE), "");
    }
    let error = Frame::Error { code: SessionCode::Internal, message: "m".into(), retry_after_ms: Some(1) };
    assert_eq!(text_of(&error, Features::NONE), r#"{"type":"error","code":"INTERNAL"}"#);
}

#[test]
fn unknown_fields_are_ignored_and_unknown_types_are_not() {
    let read = |text: &str| decode(text.as_bytes(), Features::NONE);
    assert_eq!(
        read(r#"{"stream_id":1,"later":[{}],"type":"stream_close"}"#),
        Ok(Frame::Close { id: StreamId(1), half: false })
    );
    assert_eq!(read(r#"{"type":"stream_nap"}"#), Err(DecodeError::UnknownMessage));
    assert_eq!(read(r#"{"type":"stream_close"}"#), Err(DecodeError::Field("stream_id")));
    assert_eq!(read(r#"{"type":"stream_open","stream_id":0}"#), Err(DecodeError::StreamId));
    assert_eq!(read(r#"{"type":"stream_data","stream_id":1,"payload":"*"}"#), Err(DecodeError::Base64));
    assert!(matches!(read(r#"{"type":"hello","device_id":"d"}"#), Err(DecodeError::Json(_))));
    assert!(matches!(read(r#"{"type":"stream_open","stream_id":-1}"#), Err(DecodeError::Json(_))));
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes, Features::ALL).is_ok();
    }

    #[test]
    fn payload_round_trip(id in 1u32.., payload in prop::collection::vec(any::<u8>(), 0..2000)) {
        let frame = Frame::Data { id: StreamId(id), payload: payload.into(), fin: false };
        prop_assert_eq!(decode(text_of(&frame, Features::NONE).as_bytes(), Features::NONE), Ok(frame));
    }
}
