//! Encoding v1: one JSON object a WebSocket text message, payloads in base64 (docs/03).

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lenient::integer;
use super::{DecodeError, Feature, Features, Frame, Hello, HelloOk, Notice, SessionCode, StreamCode, StreamId, Target};

const UDP: &str = "udp";

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default, deserialize_with = "integer")]
    stream_id: Option<u32>,
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
}

/// Fields that mean something only with a feature.
#[derive(Default, Deserialize)]
struct More<'a> {
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow)]
    network: Option<Cow<'a, str>>,
    half: Option<bool>,
    #[serde(default, deserialize_with = "integer")]
    consumed: Option<u64>,
    #[serde(default, deserialize_with = "integer")]
    limit: Option<u64>,
    #[serde(default, deserialize_with = "integer")]
    retry_after_ms: Option<u32>,
}

#[derive(Default, Serialize)]
struct Additions<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    half: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Outgoing<'a> {
    Hello(&'a Hello),
    HelloOk(&'a HelloOk),
    Error {
        code: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<u32>,
        #[serde(flatten)]
        more: Additions<'a>,
    },
    Notice(&'a Notice),
    StreamOpen {
        stream_id: u32,
        #[serde(flatten)]
        more: Additions<'a>,
    },
    StreamData {
        stream_id: u32,
        payload: String,
    },
    StreamWindow {
        stream_id: u32,
        consumed: u64,
        limit: u64,
    },
    StreamClose {
        stream_id: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        #[serde(flatten)]
        more: Additions<'a>,
    },
}

/// Reads one message; fields and types of features that are not in force are unknown ones.
pub fn decode(text: &[u8], features: Features) -> Result<Frame, DecodeError> {
    let message: Message = object(text)?;
    Ok(match &*message.kind {
        "hello" => Frame::Hello(Box::new(object(text)?)),
        "hello_ok" => Frame::HelloOk(object(text)?),
        "error" => decode_error(&message, &more(text, features)?, features)?,
        "notice" if features.has(Feature::Notice) => Frame::Notice(object(text)?),
        "stream_open" => decode_open(&message, &more(text, features)?, features)?,
        "stream_data" => {
            let payload = message.payload.as_deref().ok_or(DecodeError::Field("payload"))?;
            Frame::Data { id: stream_id(&message)?, payload: base64(payload)?, fin: false }
        }
        "stream_window" if features.has(Feature::Window) => {
            let more = more(text, features)?;
            let consumed = more.consumed.ok_or(DecodeError::Field("consumed"))?;
            Frame::Window { id: stream_id(&message)?, consumed, limit: more.limit.ok_or(DecodeError::Field("limit"))? }
        }
        "stream_close" => decode_close(&message, &more(text, features)?, features)?,
        _ => return Err(DecodeError::UnknownMessage),
    })
}

fn more(text: &[u8], features: Features) -> Result<More<'_>, DecodeError> {
    if features.is_empty() { Ok(More::default()) } else { object(text) }
}

fn decode_error(message: &Message, more: &More, features: Features) -> Result<Frame, DecodeError> {
    let code = message.code.as_deref().ok_or(DecodeError::Field("code"))?;
    let text = more.message.as_deref().unwrap_or(code).to_owned();
    if message.stream_id.is_some() && features.has(Feature::Error) {
        let code = StreamCode::from_name(code).unwrap_or(StreamCode::Cancelled);
        return Ok(Frame::StreamError { id: stream_id(message)?, code, message: text });
    }
    let code = SessionCode::from_name(code).unwrap_or(SessionCode::Internal);
    Ok(Frame::Error { code, message: text, retry_after_ms: more.retry_after_ms })
}

fn decode_open(message: &Message, more: &More, features: Features) -> Result<Frame, DecodeError> {
    let id = stream_id(message)?;
    let udp = features.has(Feature::Udp) && more.network.as_deref() == Some(UDP);
    let open = features.has(Feature::Open);
    let target = more.target.as_deref().filter(|_| open).map(Target::parse).transpose()?;
    let payload = message.payload.as_deref().filter(|_| open).map(base64).transpose()?;
    Ok(Frame::Open { id, target, payload: payload.unwrap_or_default(), fin: false, udp })
}

fn decode_close(message: &Message, more: &More, features: Features) -> Result<Frame, DecodeError> {
    let id = stream_id(message)?;
    if let Some(code) = message.code.as_deref().filter(|_| features.has(Feature::Code)) {
        return Ok(Frame::Reset { id, code: StreamCode::from_name(code).unwrap_or(StreamCode::Cancelled) });
    }
    Ok(Frame::Close { id, half: features.has(Feature::Half) && more.half == Some(true) })
}

fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(text).map_err(|error| DecodeError::Json(error.to_string()))
}

fn base64(text: &str) -> Result<Bytes, DecodeError> {
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| DecodeError::Base64)
}

fn stream_id(message: &Message) -> Result<StreamId, DecodeError> {
    match message.stream_id {
        Some(0) => Err(DecodeError::StreamId),
        Some(id) => Ok(StreamId(id)),
        None => Err(DecodeError::Field("stream_id")),
    }
}

/// Appends one message, without what belongs to features that are not in force; nothing for a frame that is then empty
/// or that v1 does not have.
pub fn encode(frame: &Frame, features: Features, out: &mut impl std::io::Write) {
    let has = |feature| features.has(feature);
    let message = match frame {
        Frame::Hello(hello) => Outgoing::Hello(hello),
        Frame::HelloOk(ok) => Outgoing::HelloOk(ok),
        Frame::Error { code, message, retry_after_ms } => Outgoing::Error {
            code: code.as_str(),
            stream_id: None,
            more: Additions {
                message: (has(Feature::Error) && !message.is_empty()).then_some(message),
                retry_after_ms: retry_after_ms.filter(|_| has(Feature::Error)),
                ..Additions::default()
            },
        },
        Frame::StreamError { id, code, message } if has(Feature::Error) => Outgoing::Error {
            code: code.as_str(),
            stream_id: Some(id.0),
            more: Additions { message: (!message.is_empty()).then_some(message), ..Additions::default() },
        },
        Frame::Notice(notice) if has(Feature::Notice) => Outgoing::Notice(notice),
        Frame::Open { id, target, payload, udp, .. } => Outgoing::StreamOpen {
            stream_id: id.0,
            more: Additions {
                target: target.as_ref().filter(|_| has(Feature::Open)).map(Target::text),
                payload: (has(Feature::Open) && !payload.is_empty()).then(|| BASE64_STANDARD.encode(payload)),
                network: (has(Feature::Udp) && *udp).then_some(UDP),
                ..Additions::default()
            },
        },
        Frame::Data { id, payload, .. } => {
            Outgoing::StreamData { stream_id: id.0, payload: BASE64_STANDARD.encode(payload) }
        }
        Frame::Window { id, consumed, limit } if has(Feature::Window) => {
            Outgoing::StreamWindow { stream_id: id.0, consumed: *consumed, limit: *limit }
        }
        Frame::Close { id, half } => Outgoing::StreamClose {
            stream_id: id.0,
            code: None,
            more: Additions { half: has(Feature::Half) && *half, ..Additions::default() },
        },
        Frame::Reset { id, code } => Outgoing::StreamClose {
            stream_id: id.0,
            code: has(Feature::Code).then(|| code.as_str()),
            more: Additions::default(),
        },
        Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::GoAway { .. }
        | Frame::Padding(_)
        | Frame::Notice(_)
        | Frame::StreamError { .. }
        | Frame::Window { .. } => return,
    };
    let written = serde_json::to_writer(out, &message);
    debug_assert!(written.is_ok(), "a message is always representable and its buffer grows");
}

#[cfg(test)]
mod tests;
