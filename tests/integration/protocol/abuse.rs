//! Misbehaving clients are cut off in bounded time and memory, and a well-behaved one does not notice.

pub(crate) mod attack;
mod http2;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use httvps::frame::{Frame, StreamCode, StreamId, Target, binary};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw::{RawClient, UPGRADE, dial, request, upgrade_request};
use attack::{AttackScenario, Bystander, DEADLINE, End, FLOOD_ENDS, LIMITS, counted, deployment, flooded, read_to_end};

/// What the sockets of a loopback connection hold at most, besides the 64 KiB that are read.
const UNREAD: u64 = 16 << 20;

/// A masked WebSocket frame whose key is zero.
fn ws(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..126) => bytes.push(0x80 | len as u8),
        Ok(len) => {
            bytes.push(0x80 | 126);
            bytes.extend(len.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// As many copies of a v2 frame as a message holds.
fn full_of(frame: &Frame) -> Vec<u8> {
    let mut one = BytesMut::new();
    binary::encode(frame, &mut one);
    ws(0x82, &one.repeat(binary::MAX_MESSAGE / one.len()))
}

fn data(id: u32, payload: &'static [u8]) -> Frame {
    Frame::Data { id: StreamId(id), payload: Bytes::from_static(payload), fin: false }
}

/// Opens a session with stream 1 to a destination.
async fn session(deployment: &Deployment, echo: &Destination) -> RawClient {
    let mut raw = RawClient::session(deployment).await;
    let target = Some(Target::Ip(echo.address));
    raw.frames(&[Frame::Open { id: StreamId(1), target, payload: Bytes::new(), fin: false, udp: false }]).await;
    raw
}

/// Sessions that send the same frame without end must be cut off.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_without_payload() {
    let deployment = deployment().await;
    let echo = Destination::start(Behavior::Echo);
    let scenario = AttackScenario::begin(&deployment).await;
    let fragments = [ws(0x02, b""), ws(0x00, b"").repeat(500), ws(0x80, b"")].concat();
    let byte_by_byte: Vec<u8> = {
        let padding = [7, 0, 0, 92].iter().chain(&[0; 96]).copied().collect::<Vec<u8>>();
        let first = ws(0x02, &padding[..1]);
        let middle = padding[1..99].iter().flat_map(|byte| ws(0x00, &[*byte]));
        first.into_iter().chain(middle).chain(ws(0x80, &padding[99..])).collect()
    };
    let window = Frame::Window { id: StreamId(1), consumed: 0, limit: 65_536 };
    let floods: Vec<(&str, Vec<u8>)> = vec![
        ("empty data", full_of(&data(1, b""))),
        ("windows", full_of(&window)),
        ("windows of no stream", full_of(&Frame::Window { id: StreamId(9), consumed: 0, limit: 1 })),
        ("empty padding", full_of(&Frame::Padding(0))),
        ("pongs", full_of(&Frame::Pong([0; 8]))),
        ("empty messages", ws(0x82, b"").repeat(1000)),
        ("WebSocket pongs", ws(0x8a, b"").repeat(1000)),
        ("messages in empty fragments", fragments),
        ("messages byte by byte", byte_by_byte),
        ("pings", full_of(&Frame::Ping([0; 8]))),
        ("WebSocket pings", ws(0x89, &[7; 125]).repeat(100)),
    ];
    for (name, bytes) in floods {
        let attackers = (0..3).map(|_| async {
            let raw = session(&deployment, &echo).await;
            flooded(raw.socket, &bytes).await
        });
        for (took, end) in futures_util::future::join_all(attackers).await {
            assert!(took < FLOOD_ENDS, "{name}: {took:?}");
            assert!(matches!(end, End::Closed(4001) | End::Reset), "{name}: {end:?}");
        }
    }
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_v1() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let hello = json!({
        "type": "hello", "device_id": deployment.subscriber.device, "access_token": deployment.subscriber.token,
        "region": crate::support::control::REGION, "features": ["window", "notice"],
    });
    let empty = br#"{"type":"stream_data","stream_id":1,"payload":""}"#;
    let window = br#"{"type":"stream_window","stream_id":1,"consumed":0,"limit":1}"#;
    let close = br#"{"type":"stream_close","stream_id":1}"#;
    let notice = br#"{"type":"notice","kind":"later"}"#;
    for text in [&empty[..], window, close, notice] {
        let mut raw = RawClient::open(&deployment, "httvps.v1").await;
        raw.text(&hello.to_string()).await;
        assert!(raw.next().await.is_some());
        let (took, end) = flooded(raw.socket, &ws(0x81, text).repeat(500)).await;
        let name = String::from_utf8_lossy(text);
        assert!(took < FLOOD_ENDS, "{name}: {took:?}");
        assert!(matches!(end, End::Closed(4001) | End::Reset), "{name}: {end:?}");
    }
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_of_rfc_6455() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let endless = [vec![0x02, 0x80, 0, 0, 0, 0], ws(0x00, b"x").repeat(5000)].concat();
    let breaches: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a length of 2^63", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
        ("a length of 2^63 - 1", vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4], 1009),
        ("a length of 65,537", vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4], 1009),
        ("no mask", vec![0x82, 8, 4, 0, 0, 0, 0, 0, 0, 0], 1002),
        ("a message in endless fragments", endless, 1002),
        ("a ping of 126 bytes", vec![0x89, 0xfe, 0, 126, 1, 2, 3, 4], 1002),
        ("a ping in fragments", vec![0x09, 0x80, 1, 2, 3, 4], 1002),
        ("a reserved opcode", vec![0x83, 0x80, 1, 2, 3, 4], 1002),
        ("another message between fragments", [ws(0x02, b"x"), ws(0x82, b"y")].concat(), 1002),
    ];
    for (name, bytes, code) in breaches {
        let mut cut = RawClient::session(&deployment).await.socket;
        cut.write_all(&bytes).await.unwrap();
        assert_eq!(read_to_end(&mut cut, FLOOD_ENDS).await, End::Closed(code), "{name}");
        let raw = RawClient::session(&deployment).await;
        let (took, end) = flooded(raw.socket, &[bytes, vec![0; 64 * 1024]].concat()).await;
        assert!(took < FLOOD_ENDS, "{name}: {took:?}");
        assert!(end == End::Closed(code) || end == End::Reset, "{name}, and more: {end:?}");
    }
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_endless_request_heads() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let start = format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}");
    let many = "X-One: of two hundred\r\n".repeat(200);
    let long = format!("X: {}\r\n", "x".repeat(1 << 20));
    for (name, head) in [("200 headers", format!("{start}{many}\r\n")), ("1 MiB", format!("{start}{long}\r\n"))] {
        let mut socket = dial(&deployment).await;
        let sent = socket.write_all(head.as_bytes()).await;
        let end = read_to_end(&mut socket, 3 * DEADLINE).await;
        assert!(!matches!(end, End::Open), "{name}: {sent:?} {end:?}");
    }
    let mut slow = dial(&deployment).await;
    let dripping = async {
        for byte in start.bytes().cycle() {
            if slow.write_all(&[byte]).await.is_err() || slow.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(3 * DEADLINE, dripping).await.expect("a byte a second is cut");
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let address = deployment.address().to_owned();
    let no_tls = async {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        read_to_end(&mut socket, 3 * DEADLINE).await
    };
    let half_a_client_hello = async {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        read_to_end(&mut socket, 3 * DEADLINE).await
    };
    let no_request = async { read_to_end(&mut dial(&deployment).await, 3 * DEADLINE).await };
    let no_hello = async {
        let mut socket = dial(&deployment).await;
        assert!(request(&mut socket, &upgrade_request("httvps.v2")).await.starts_with("HTTP/1.1 101 "));
        read_to_end(&mut socket, 3 * DEADLINE).await
    };
    let ends = tokio::join!(no_tls, half_a_client_hello, no_request, no_hello);
    let ends = [ends.0, ends.1, ends.2, ends.3];
    assert!(ends.iter().all(|end| *end != End::Open), "{ends:?}");
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_before_hello_is_not_read() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    for flood in [full_of(&Frame::Padding(1000)), ws(0x89, b"x").repeat(1000), vec![0; 64 * 1024]] {
        let mut socket = dial(&deployment).await;
        assert!(request(&mut socket, &upgrade_request("httvps.v2")).await.starts_with("HTTP/1.1 101 "));
        let (took, end, taken) = counted(socket, &flood).await;
        assert!(taken < UNREAD, "{taken} bytes were taken");
        assert!(took < 3 * DEADLINE, "{took:?}");
        assert!(!matches!(end, End::Closed(_) | End::Open), "{end:?}");
    }
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unbilled_traffic_is_limited_to_the_plans_rate() {
    let plan = json!({ "rate_limit_mbps": 8 });
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan, &LIMITS).await;
    let echo = Destination::start(Behavior::Echo);
    let gone = data(1, &[7; 60_000]);
    for (name, frame) in [("padding", Frame::Padding(60_000)), ("a stream that is over", gone)] {
        let mut raw = session(&deployment, &echo).await;
        raw.frames(&[Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled }]).await;
        let began = Instant::now();
        for _ in 0..50 {
            raw.frames(std::slice::from_ref(&frame)).await;
        }
        raw.frames(&[Frame::Ping(*b"finished")]).await;
        assert_eq!(raw.next_frame().await, Frame::Pong(*b"finished"), "{name}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(2800), "{name}: 3 MB at 1 MB/s took {took:?}");
    }
    assert_eq!(deployment.totals().await, (0, 0), "nothing of it is billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bystander_detects_a_stopped_gateway() {
    let deployment = deployment().await;
    let bystander = Bystander::begin(&deployment).await;
    deployment.gateway().signal("-STOP");
    assert!(bystander.fails().await, "no answer comes");
    deployment.gateway().signal("-CONT");
}
