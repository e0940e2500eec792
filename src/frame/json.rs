//! Encoding v1: one JSON object a WebSocket text message, payloads in base64 (docs/03).

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{DecodeError, Frame, Hello, HelloOk, SessionCode, StreamId};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    stream_id: Option<u32>,
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    session_id: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Outgoing<'a> {
    Hello(&'a Hello),
    HelloOk(&'a HelloOk),
    Error { code: SessionCode },
    StreamOpen { stream_id: u32 },
    StreamData { stream_id: u32, payload: String },
    StreamClose { stream_id: u32 },
}

/// Reads one message.
pub fn decode(text: &[u8]) -> Result<Frame, DecodeError> {
    let message: Message = serde_json::from_slice(text).map_err(|error| DecodeError::Json(error.to_string()))?;
    Ok(match &*message.kind {
        "hello" => {
            let hello = serde_json::from_slice(text).map_err(|error| DecodeError::Json(error.to_string()))?;
            Frame::Hello(Box::new(hello))
        }
        "hello_ok" => {
            Frame::HelloOk(HelloOk { session_id: message.session_id.ok_or(DecodeError::Field("session_id"))? })
        }
        "error" => {
            let code = message.code.ok_or(DecodeError::Field("code"))?;
            let known = SessionCode::from_name(&code);
            Frame::Error { code: known.unwrap_or(SessionCode::Internal), message: code.into_owned() }
        }
        "stream_open" => {
            Frame::Open { id: stream_id(&message)?, target: None, payload: Bytes::new(), fin: false, udp: false }
        }
        "stream_data" => {
            let payload = message.payload.as_deref().ok_or(DecodeError::Field("payload"))?;
            let payload = BASE64_STANDARD.decode(payload).map_err(|_| DecodeError::Base64)?;
            Frame::Data { id: stream_id(&message)?, payload: payload.into(), fin: false }
        }
        "stream_close" => Frame::Close { id: stream_id(&message)? },
        _ => return Err(DecodeError::UnknownMessage),
    })
}

fn stream_id(message: &Message) -> Result<StreamId, DecodeError> {
    match message.stream_id {
        Some(0) => Err(DecodeError::StreamId),
        Some(id) => Ok(StreamId(id)),
        None => Err(DecodeError::Field("stream_id")),
    }
}

/// Appends one message; nothing for a frame that v1 does not have.
pub fn encode(frame: &Frame, out: &mut impl std::io::Write) {
    let message = match frame {
        Frame::Hello(hello) => Outgoing::Hello(hello),
        Frame::HelloOk(ok) => Outgoing::HelloOk(ok),
        Frame::Error { code, .. } => Outgoing::Error { code: *code },
        Frame::Open { id, .. } => Outgoing::StreamOpen { stream_id: id.0 },
        Frame::Data { id, payload, .. } => {
            Outgoing::StreamData { stream_id: id.0, payload: BASE64_STANDARD.encode(payload) }
        }
        Frame::Close { id } | Frame::Reset { id, .. } => Outgoing::StreamClose { stream_id: id.0 },
        Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::GoAway { .. }
        | Frame::Padding
        | Frame::Notice(_)
        | Frame::Window { .. } => return,
    };
    let written = serde_json::to_writer(out, &message);
    debug_assert!(written.is_ok(), "a message is always representable and its buffer grows");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Token;

    fn text_of(frame: &Frame) -> String {
        let mut out = Vec::new();
        encode(frame, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_owners_messages_both_ways() {
        let id = StreamId(13);
        let hello = Hello {
            device_id: "d".into(),
            access_token: Token::from("t".to_owned()),
            region: "ru-1".into(),
            client_version: "1.0.0".into(),
            platform: "android".into(),
        };
        let cases = [
            (
                Frame::Hello(Box::new(hello)),
                r#"{"type":"hello","device_id":"d","access_token":"t","region":"ru-1","client_version":"1.0.0","platform":"android"}"#,
            ),
            (Frame::HelloOk(HelloOk { session_id: "s".into() }), r#"{"type":"hello_ok","session_id":"s"}"#),
            (
                Frame::Error { code: SessionCode::NoSubscription, message: "NO_SUBSCRIPTION".into() },
                r#"{"type":"error","code":"NO_SUBSCRIPTION"}"#,
            ),
            (
                Frame::Open { id, target: None, payload: Bytes::new(), fin: false, udp: false },
                r#"{"type":"stream_open","stream_id":13}"#,
            ),
            (
                Frame::Data { id, payload: Bytes::from_static(b"hello"), fin: false },
                r#"{"type":"stream_data","stream_id":13,"payload":"aGVsbG8="}"#,
            ),
            (Frame::Close { id }, r#"{"type":"stream_close","stream_id":13}"#),
        ];
        for (frame, text) in cases {
            assert_eq!(text_of(&frame), text);
            assert_eq!(decode(text.as_bytes()), Ok(frame), "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_are_not() {
        assert_eq!(
            decode(br#"{"stream_id":1,"later":[{}],"type":"stream_close"}"#),
            Ok(Frame::Close { id: StreamId(1) })
        );
        assert_eq!(decode(br#"{"type":"stream_nap"}"#), Err(DecodeError::UnknownMessage));
        assert_eq!(decode(br#"{"type":"stream_close"}"#), Err(DecodeError::Field("stream_id")));
        assert_eq!(decode(br#"{"type":"stream_open","stream_id":0}"#), Err(DecodeError::StreamId));
        assert_eq!(decode(br#"{"type":"stream_data","stream_id":1,"payload":"*"}"#), Err(DecodeError::Base64));
        assert!(matches!(decode(br#"{"type":"hello","device_id":"d"}"#), Err(DecodeError::Json(_))));
        assert!(matches!(decode(br#"{"type":"stream_open","stream_id":-1}"#), Err(DecodeError::Json(_))));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes).is_ok();
        }

        #[test]
        fn payload_round_trip(id in 1u32.., payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let frame = Frame::Data { id: StreamId(id), payload: payload.into(), fin: false };
            prop_assert_eq!(decode(text_of(&frame).as_bytes()), Ok(frame));
        }
    }
}
