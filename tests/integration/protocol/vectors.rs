//! The codecs match `docs/test-vectors/` in both directions.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use httvps::config::Source;
use httvps::frame::{
    DecodeError, Encoding, Feature, Features, Frame, Hello, HelloOk, Notice, Padding, SessionCode, StreamCode,
    StreamId, Target, binary, json,
};
use httvps::mux::{Limits, Role, Session};
use httvps::net::websocket::Incoming;
use serde_json::{Value, json};

use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw::{RawClient, dial, request};
use crate::support::test_vectors::{assert_roles, from_hex, has_role, items, read_file};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

/// The frame that a vector describes.
fn frame_of(value: &Value) -> Frame {
    let id = StreamId(value["stream_id"].as_u64().unwrap_or_default() as u32);
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let flag = |key: &str| value[key].as_bool().unwrap();
    let session_code = || SessionCode::from_name(&text("code")).unwrap();
    let stream_code = || StreamCode::from_name(&text("code")).unwrap();
    let opaque = || <[u8; 8]>::try_from(from_hex(&value["opaque"]).as_ref()).unwrap();
    match value["type"].as_str().unwrap() {
        "hello" => Frame::Hello(serde_json::from_value(value["hello"].clone()).unwrap()),
        "hello_ok" => Frame::HelloOk(serde_json::from_value(value["hello_ok"].clone()).unwrap()),
        "error" => Frame::Error {
            code: session_code(),
            message: text("message"),
            retry_after_ms: value["retry_after_ms"].as_u64().map(|wait| wait as u32),
        },
        "stream_error" => Frame::StreamError { id, code: stream_code(), message: text("message") },
        "ping" => Frame::Ping(opaque()),
        "pong" => Frame::Pong(opaque()),
        "goaway" => Frame::GoAway {
            last: StreamId(number(&value["last"]) as u32),
            reconnect_in_ms: number(&value["reconnect_in_ms"]) as u32,
            code: session_code(),
        },
        "padding" => Frame::Padding(number(&value["length"]) as u16),
        "notice" => Frame::Notice(serde_json::from_value::<Notice>(value["notice"].clone()).unwrap()),
        "open" => Frame::Open {
            id,
            target: value["target"].as_str().map(|target| Target::parse(target).unwrap()),
            payload: from_hex(&value["payload"]),
            fin: flag("fin"),
            udp: flag("udp"),
        },
        "data" => Frame::Data { id, payload: from_hex(&value["payload"]), fin: flag("fin") },
        "window" => Frame::Window { id, consumed: number(&value["consumed"]), limit: number(&value["limit"]) },
        "reset" => Frame::Reset { id, code: stream_code() },
        "close" => Frame::Close { id, half: flag("half") },
        other => panic!("no frame {other}"),
    }
}

fn decode(bytes: &Bytes) -> Result<Vec<Frame>, DecodeError> {
    let mut bytes = bytes.clone();
    std::iter::from_fn(|| binary::decode(&mut bytes).transpose()).collect()
}

/// An open session of a role.
fn session(role: Role, encoding: Encoding, features: Features) -> Session {
    let source = Source::with::<&str, &str>([]).unwrap();
    let limits = Limits::new(&source.section().unwrap(), &source.section().unwrap(), Padding::default());
    let now = Instant::now();
    let mut session = Session::new(role, encoding, Arc::new(limits), 1, now);
    let hello = json!({ "device_id": "d", "access_token": "t", "region": "r", "features": features });
    let hello: Hello = serde_json::from_value(hello).unwrap();
    let ok = HelloOk { session_id: "s".into(), features, ..HelloOk::default() };
    let first = match role {
        Role::Gateway => Frame::Hello(Box::new(hello)),
        Role::Client => {
            session.hello(hello);
            Frame::HelloOk(ok.clone())
        }
    };
    session.handle_message(written(&first, encoding, Features::ALL), now).unwrap();
    session.accept(ok);
    while session.poll_transmit().is_some() {}
    session
}

fn written(frame: &Frame, encoding: Encoding, features: Features) -> Bytes {
    match encoding {
        Encoding::V1 => {
            let mut text = Vec::new();
            json::encode(frame, features, &mut text);
            text.into()
        }
        Encoding::V2 => {
            let mut bytes = BytesMut::new();
            binary::encode(frame, &mut bytes);
            bytes.freeze()
        }
    }
}

/// A vector that must end a session does, and one that must be ignored gets no answer.
fn plays(vector: &Value, message: &Bytes, encoding: Encoding, features: Features) {
    for (name, role) in [("client", Role::Client), ("gateway", Role::Gateway)] {
        let (rejects, ignores) = (has_role(vector, name, "rejects"), has_role(vector, name, "ignores"));
        if rejects || ignores {
            let mut session = session(role, encoding, features);
            let handled = session.handle_message(message.clone(), Instant::now());
            assert_eq!(handled.is_err(), rejects, "{} at a {name}: {handled:?}", vector["name"]);
            assert!(rejects || session.poll_transmit().is_none(), "{} is answered by a {name}", vector["name"]);
        }
    }
}

#[test]
fn v2_frames_both_ways() {
    let file = read_file("v2-frames.json");
    for vector in items(&file, "frames").iter().chain(items(&file, "decode_only")) {
        assert_roles(vector);
        let (name, frame, bytes) = (&vector["name"], frame_of(&vector["frame"]), from_hex(&vector["bytes"]));
        if has_role(vector, "client", "sends") || has_role(vector, "gateway", "sends") {
            assert_eq!(written(&frame, Encoding::V2, Features::ALL), bytes, "{name}");
        }
        assert_eq!(decode(&bytes).unwrap(), [frame], "{name}");
        plays(vector, &bytes, Encoding::V2, Features::NONE);
    }
    for vector in items(&file, "malformed") {
        assert_roles(vector);
        assert!(decode(&from_hex(&vector["bytes"])).is_err(), "{}", vector["name"]);
        plays(vector, &from_hex(&vector["bytes"]), Encoding::V2, Features::NONE);
    }
}

#[test]
fn types_flags_and_codes_are_frozen() {
    let file = read_file("v2-frames.json");
    let session = SessionCode::ALL.iter().map(|code| (code.as_str().to_owned(), json!(code.number()))).collect();
    let stream = StreamCode::ALL.iter().map(|code| (code.as_str().to_owned(), json!(code.number()))).collect();
    assert_eq!(file["session_codes"], Value::Object(session));
    assert_eq!(file["stream_codes"], Value::Object(stream));
    let types = file["types"].as_object().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for vector in items(&file, "frames") {
        let name = vector["name"].as_str().unwrap().split([' ', ',']).next().unwrap();
        assert_eq!(json!(from_hex(&vector["bytes"])[0]), types[name], "{name}");
        seen.insert(name.to_owned());
    }
    assert_eq!(seen.len(), types.len(), "every type has a vector");
    let names: Vec<&str> = Feature::ALL.iter().map(|feature| feature.as_str()).collect();
    assert_eq!(read_file("v1-messages.json")["features"], json!(names));
}

fn features(vector: &Value) -> Features {
    if vector["features"] == "all" { Features::ALL } else { Features::NONE }
}

#[test]
fn v1_messages_both_ways() {
    let file = read_file("v1-messages.json");
    for vector in items(&file, "messages").iter().chain(items(&file, "decode_only")) {
        assert_roles(vector);
        let (frame, text) = (frame_of(&vector["frame"]), vector["text"].as_str().unwrap());
        if has_role(vector, "client", "sends") || has_role(vector, "gateway", "sends") {
            let written = written(&frame, Encoding::V1, features(vector));
            assert_eq!(std::str::from_utf8(&written).unwrap(), text);
        }
        assert_eq!(json::decode(text.as_bytes(), features(vector)), Ok(frame), "{text}");
        plays(vector, &Bytes::copy_from_slice(text.as_bytes()), Encoding::V1, features(vector));
    }
    for vector in items(&file, "malformed") {
        assert_roles(vector);
        let text = vector["text"].as_str().unwrap();
        assert!(json::decode(text.as_bytes(), features(vector)).is_err(), "{text}");
        plays(vector, &Bytes::copy_from_slice(text.as_bytes()), Encoding::V1, features(vector));
    }
}

/// Replaces placeholders in braces by the deployment's values.
fn filled(text: &str, deployment: &Deployment, echo: &Destination) -> String {
    let mut head = Vec::new();
    Target::Ip(echo.address).encode(&mut head);
    head.extend_from_slice(b"hello");
    let head = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, head);
    text.replace("{path}", PATH)
        .replace("{device}", &deployment.subscriber.device)
        .replace("{token}", &deployment.subscriber.token)
        .replace("{region}", REGION)
        .replace("{echo}", &echo.address.to_string())
        .replace("{blocked}", "127.0.0.1:25")
        .replace("{echo_target_and_hello}", &head)
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_match_the_vectors() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    for vector in items(&read_file("handshakes.json"), "upgrades") {
        assert_roles(vector);
        let lines: Vec<&str> =
            vector["request"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let head = filled(&format!("{}\r\n\r\n", lines.join("\r\n")), &deployment, &echo);
        let answer = request(&mut dial(&deployment).await, &head).await;
        let header = |name: &str| {
            let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", vector["status"])), "{}: {answer}", vector["name"]);
        assert_eq!(header("sec-websocket-protocol"), vector["protocol"].as_str(), "{}", vector["name"]);
        assert_eq!(header("sec-websocket-accept"), vector["accept"].as_str(), "{}", vector["name"]);
    }
}

/// Replaces a well-formed support id by its placeholder.
fn without_support_id(frame: Frame) -> Frame {
    match frame {
        Frame::Error { code, message, retry_after_ms } => {
            let message = match message.split_once(" (support id ").and_then(|(_, id)| id.strip_suffix(')')) {
                Some(id) if id.len() == 9 && id.as_bytes()[4] == b'-' => {
                    let letters = id.chars().filter(|letter| httvps::base32::is_digit(*letter));
                    assert_eq!(letters.count(), 8, "{id}");
                    format!("{} (support id {{support_id}})", code.as_str())
                }
                _ => message,
            };
            Frame::Error { code, message, retry_after_ms }
        }
        other => other,
    }
}

/// The session id and ticket that the gateway chose; a resumed session keeps its id.
#[derive(Default)]
struct Bindings {
    session: String,
    ticket: String,
}

impl Bindings {
    /// Replaces the placeholders by the values.
    fn noted(&mut self, frame: Frame) -> Frame {
        let Frame::HelloOk(mut ok) = frame else { return frame };
        let session = std::mem::replace(&mut ok.session_id, "{session}".into());
        assert!(session.parse::<uuid::Uuid>().is_ok(), "{session}");
        if let Some(resume) = &mut ok.resume {
            assert_eq!(resume.resumed, session == self.session);
            let given = std::mem::replace(&mut resume.ticket, "{ticket}".to_owned().into());
            given.expose().clone_into(&mut self.ticket);
        }
        self.session = session;
        Frame::HelloOk(ok)
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{session}", &self.session).replace("{ticket}", &self.ticket)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_match_the_vectors() {
    let plan = json!({ "max_sessions": 9 });
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan, &[("TUNNEL__HELLO_TIMEOUT", "2s")]).await;
    let echo = Destination::start(Behavior::Echo);
    for vector in items(&read_file("handshakes.json"), "conversations") {
        assert_roles(vector);
        let (name, protocol) = (&vector["name"], vector["protocol"].as_str().unwrap());
        let (mut raw, mut chosen) = (RawClient::open(&deployment, protocol).await, Bindings::default());
        for step in vector["steps"].as_array().unwrap() {
            let step: Value = serde_json::from_str(&filled(&step.to_string(), &deployment, &echo)).unwrap();
            let send: Value = serde_json::from_str(&chosen.filled(&step["send"].to_string())).unwrap();
            if let Some(text) = send.as_str() {
                raw.text(text).await;
            } else if let Some(frames) = send.as_array() {
                raw.frames(&frames.iter().map(frame_of).collect::<Vec<_>>()).await;
            } else if send.is_object() {
                raw.frames(&[frame_of(&send)]).await;
            } else if let Some(text) = step["expect"].as_str() {
                let Some(Incoming::Text(got)) = raw.next().await else { panic!("no text for {text}") };
                let got = without_support_id(chosen.noted(json::decode(&got, Features::ALL).unwrap()));
                assert_eq!(got, json::decode(text.as_bytes(), Features::ALL).unwrap(), "{name}");
            } else if step["expect"]["type"] == "window" {
                assert_eq!(raw.next_frame_or_window().await, frame_of(&step["expect"]), "{name}");
            } else if step["expect"].is_object() {
                let got = without_support_id(chosen.noted(raw.next_frame().await));
                assert_eq!(got, frame_of(&step["expect"]), "{name}");
            } else if step["reconnect"].is_boolean() {
                raw = RawClient::open(&deployment, protocol).await;
            } else if step["expect_end"].is_boolean() {
                let got = raw.next().await;
                assert!(got.is_none(), "{name}: {got:?}");
            } else {
                assert_eq!(raw.closed().await.map(u64::from), step["expect_close"].as_u64(), "{name}");
            }
        }
    }
}
