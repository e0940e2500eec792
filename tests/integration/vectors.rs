//! `docs/test-vectors/` holds, in both directions.

use bytes::{Bytes, BytesMut};
use httvps::frame::{
    DecodeError, Feature, Features, Frame, Notice, SessionCode, StreamCode, StreamId, Target, binary, json,
};
use httvps::net::websocket::Incoming;
use serde_json::{Value, json};

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::node::CHACHA;
use crate::raw::{Raw, dial, request};
use crate::world::{PATH, REGION, World};

fn read(name: &str) -> Value {
    let path = format!("{}/docs/test-vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn items<'a>(file: &'a Value, key: &str) -> &'a Vec<Value> {
    let items = file[key].as_array().unwrap();
    assert!(!items.is_empty());
    items
}

fn bytes(value: &Value) -> Bytes {
    let text = value.as_str().unwrap().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

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
    let opaque = || <[u8; 8]>::try_from(bytes(&value["opaque"]).as_ref()).unwrap();
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
            payload: bytes(&value["payload"]),
            fin: flag("fin"),
            udp: flag("udp"),
        },
        "data" => Frame::Data { id, payload: bytes(&value["payload"]), fin: flag("fin") },
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

#[test]
fn v2_frames_both_ways() {
    let file = read("v2-frames.json");
    for vector in items(&file, "frames") {
        let (name, frame, bytes) = (&vector["name"], frame_of(&vector["frame"]), bytes(&vector["bytes"]));
        let mut written = BytesMut::new();
        binary::encode(&frame, &mut written);
        assert_eq!(written, bytes, "{name}");
        assert_eq!(decode(&bytes).unwrap(), [frame], "{name}");
    }
    for vector in items(&file, "decode_only") {
        assert_eq!(decode(&bytes(&vector["bytes"])).unwrap(), [frame_of(&vector["frame"])], "{}", vector["name"]);
    }
    for vector in items(&file, "malformed") {
        assert!(decode(&bytes(&vector["bytes"])).is_err(), "{}", vector["name"]);
    }
}

#[test]
fn types_flags_and_codes_are_frozen() {
    let file = read("v2-frames.json");
    let session = SessionCode::ALL.iter().map(|code| (code.as_str().to_owned(), json!(code.number()))).collect();
    let stream = StreamCode::ALL.iter().map(|code| (code.as_str().to_owned(), json!(code.number()))).collect();
    assert_eq!(file["session_codes"], Value::Object(session));
    assert_eq!(file["stream_codes"], Value::Object(stream));
    let types = file["types"].as_object().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for vector in items(&file, "frames") {
        let name = vector["name"].as_str().unwrap().split([' ', ',']).next().unwrap();
        assert_eq!(json!(bytes(&vector["bytes"])[0]), types[name], "{name}");
        seen.insert(name.to_owned());
    }
    assert_eq!(seen.len(), types.len(), "every type has a vector");
    let names: Vec<&str> = Feature::ALL.iter().map(|feature| feature.as_str()).collect();
    assert_eq!(read("v1-messages.json")["features"], json!(names));
}

fn features(vector: &Value) -> Features {
    if vector["features"] == "all" { Features::ALL } else { Features::NONE }
}

#[test]
fn v1_messages_both_ways() {
    let file = read("v1-messages.json");
    for vector in items(&file, "messages") {
        let (frame, text) = (frame_of(&vector["frame"]), vector["text"].as_str().unwrap());
        let mut written = Vec::new();
        json::encode(&frame, features(vector), &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), text);
        assert_eq!(json::decode(text.as_bytes(), features(vector)), Ok(frame), "{text}");
    }
    for vector in items(&file, "decode_only") {
        let text = vector["text"].as_str().unwrap();
        assert_eq!(json::decode(text.as_bytes(), features(vector)), Ok(frame_of(&vector["frame"])), "{text}");
    }
    for vector in items(&file, "malformed") {
        let text = vector["text"].as_str().unwrap();
        assert!(json::decode(text.as_bytes(), features(vector)).is_err(), "{text}");
    }
}

/// Puts an installation's values in the place of words in braces.
fn filled(text: &str, world: &World, echo: &Destination) -> String {
    let mut head = Vec::new();
    Target::Ip(echo.address).encode(&mut head);
    head.extend_from_slice(b"hello");
    let head = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, head);
    text.replace("{path}", PATH)
        .replace("{device}", &world.subscriber.device)
        .replace("{token}", &world.subscriber.token)
        .replace("{region}", REGION)
        .replace("{echo}", &echo.address.to_string())
        .replace("{blocked}", "127.0.0.1:25")
        .replace("{echo_target_and_hello}", &head)
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_answered_as_told() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Manner::Echo);
    for vector in items(&read("handshakes.json"), "upgrades") {
        let lines: Vec<&str> =
            vector["request"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let head = filled(&format!("{}\r\n\r\n", lines.join("\r\n")), &world, &echo);
        let answer = request(&mut dial(&world).await, &head).await;
        let header = |name: &str| {
            let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", vector["status"])), "{}: {answer}", vector["name"]);
        assert_eq!(header("sec-websocket-protocol"), vector["protocol"].as_str(), "{}", vector["name"]);
        assert_eq!(header("sec-websocket-accept"), vector["accept"].as_str(), "{}", vector["name"]);
    }
}

/// The session id is the gateway's choice.
/// The message of an error names the code and a random id to quote.
fn without_support_id(frame: Frame) -> Frame {
    match frame {
        Frame::Error { code, message, retry_after_ms } => {
            assert!(message.starts_with(&format!("{} (support id ", code.as_str())), "{message}");
            Frame::Error { code, message: String::new(), retry_after_ms }
        }
        other => other,
    }
}

fn without_session(frame: Frame) -> Frame {
    match frame {
        Frame::HelloOk(ok) => {
            assert!(ok.session_id == "{session}" || ok.session_id.parse::<uuid::Uuid>().is_ok());
            Frame::HelloOk(httvps::frame::HelloOk { session_id: "{session}".into(), ..ok })
        }
        frame => frame,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_go_as_told() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Manner::Echo);
    for vector in items(&read("handshakes.json"), "conversations") {
        let mut raw = Raw::open(&world, vector["protocol"].as_str().unwrap()).await;
        for step in vector["steps"].as_array().unwrap() {
            let step: Value = serde_json::from_str(&filled(&step.to_string(), &world, &echo)).unwrap();
            if let Some(text) = step["send"].as_str() {
                raw.text(text).await;
            } else if step["send"].is_object() {
                raw.frames(&[frame_of(&step["send"])]).await;
            } else if let Some(text) = step["expect"].as_str() {
                let Some(Incoming::Text(got)) = raw.next().await else { panic!("no text for {text}") };
                let read = |text: &[u8]| without_session(json::decode(text, Features::ALL).unwrap());
                assert_eq!(read(&got), read(text.as_bytes()), "{}", vector["name"]);
            } else if step["expect"].is_object() {
                let got = without_support_id(without_session(raw.next_frame().await));
                assert_eq!(got, frame_of(&step["expect"]), "{}", vector["name"]);
            } else {
                assert_eq!(raw.closed().await.map(u64::from), step["expect_close"].as_u64(), "{}", vector["name"]);
            }
        }
    }
}
