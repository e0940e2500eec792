//! The limits of docs/03 are enforced against clients that exceed them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Frame, SessionCode, StreamCode, StreamId, Target};
use httvps::net::websocket::Incoming;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::{AEAD_2022, CHACHA};
use crate::support::raw::{self, RawClient, UPGRADE, dial, upgrade_request};
use crate::support::wait::{TIMEOUT, eventually};

async fn ask(socket: &mut TlsStream<TcpStream>, path: &str, headers: &str) -> String {
    raw::request(socket, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await
}

async fn upgraded(deployment: &Deployment) -> TlsStream<TcpStream> {
    let mut socket = dial(deployment).await;
    let head = ask(&mut socket, PATH, UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket
}

/// A masked frame whose key is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | 126];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The close code that the connection ends with, if any.
async fn close_code(socket: &mut (impl AsyncRead + Unpin)) -> Option<u16> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut all)).await.expect("it ends");
    if read.is_err() && all.is_empty() {
        return None;
    }
    let at = all.len().checked_sub(4)?;
    (all[at] == 0x88).then(|| u16::from_be_bytes([all[at + 2], all[at + 3]]))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_tunnels_get_404() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    for (path, headers) in [
        ("/", ""),
        ("/elsewhere", UPGRADE),
        (PATH, ""),
        (PATH, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (PATH, &format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n")),
    ] {
        let head = ask(&mut dial(&deployment).await, path, headers).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{path} {headers}: {head}");
    }
    let mut both = dial(&deployment).await;
    let offered = format!("{UPGRADE}Sec-WebSocket-Protocol: httvps.v1, httvps.v2\r\n");
    let head = ask(&mut both, PATH, &offered).await.to_lowercase();
    assert!(head.contains("sec-websocket-protocol: httvps.v2\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
}

fn v1_hello(deployment: &Deployment) -> serde_json::Value {
    json!({
        "type": "hello", "device_id": deployment.subscriber.device, "access_token": deployment.subscriber.token, "region": REGION,
    })
}

/// Bytes that are not a hello, and the close code for them after one.
fn violations() -> Vec<(Vec<u8>, u16)> {
    vec![
        (vec![0x81, 1, b'x'], 1002),
        (vec![0x89, 0xfe, 0, 126], 1002),
        (vec![0x81, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0], 1009),
        (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        (frame(0x81, b"\xff\xfe"), 1007),
        (frame(0x81, b"{\"type\":\"nonsense\"}"), 4001),
        (frame(0x81, b"{\"type\":\"hello\",\"device_id\":1}"), 4001),
        (frame(0x82, b"binary in v1"), 4001),
        (frame(0x81, b"{\"type\":\"stream_open\",\"stream_id\":0}"), 4001),
        (vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8], 1000),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_get_their_close_code() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let hello = frame(0x81, v1_hello(&deployment).to_string().as_bytes());
    let mut cases = violations();
    cases.push((hello.clone(), 4001));
    for (bytes, code) in cases {
        let mut socket = upgraded(&deployment).await;
        socket.write_all(&[hello.clone(), bytes.clone()].concat()).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(code), "{}", String::from_utf8_lossy(&bytes));
    }
    deployment.metric_is("httvps_sessions", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_but_a_hello_gets_silence_until_the_deadline() {
    let timeout = Duration::from_secs(3);
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("TUNNEL__HELLO_TIMEOUT", "3s")]).await;
    let mut cases: Vec<Vec<u8>> = violations().into_iter().map(|(bytes, _)| bytes).collect();
    cases.push(vec![]);
    cases.push(frame(0x89, b"a ping"));
    cases.push(frame(0x8a, b"a pong"));
    cases.push(frame(0x81, b"{\"type\":\"stream_open\",\"stream_id\":1}"));
    cases.push(frame(0x89, b"p").repeat(100));
    cases.push(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    let waits = cases.iter().map(|bytes| async {
        let mut socket = upgraded(&deployment).await;
        let started = Instant::now();
        socket.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut got)).await.expect("it ends");
        let name = String::from_utf8_lossy(bytes);
        assert!(read.is_ok() && got.is_empty(), "{name}: {read:?} {got:02x?}");
        assert!(started.elapsed() + Duration::from_millis(200) >= timeout, "{name}: {:?}", started.elapsed());
        assert!(started.elapsed() < 3 * timeout, "{name}: {:?}", started.elapsed());
    });
    futures_util::future::join_all(waits).await;
    let timed_out = deployment.metric("httvps_refused_total{reason=\"hello_timeout\"}").await;
    assert_eq!(usize::try_from(timed_out).unwrap(), cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn little_is_read_after_a_violation() {
    let more = [("TUNNEL__HELLO_TIMEOUT", "1h"), ("TUNNEL__CLOSE_TIMEOUT", "1h")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    for hello in [false, true] {
        let mut socket = if hello { RawClient::session(&deployment).await.socket } else { upgraded(&deployment).await };
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let writing = async move {
            socket.write_all(&[0x81, 1, b'x']).await.unwrap();
            while socket.write_all(&[0; 16 * 1024]).await.is_ok() {
                counted.fetch_add(16 * 1024, Ordering::Relaxed);
            }
        };
        let cut = tokio::time::timeout(Duration::from_secs(3), writing).await;
        assert_eq!(cut.is_ok(), hello, "without hello it is left standing until the deadline");
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < 16 << 20, "{sent} bytes went beyond what sockets hold");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_absolute_and_pre_hello_connections_are_limited() {
    let limits = [
        ("TUNNEL__HANDSHAKE_TIMEOUT", "1s"),
        ("TUNNEL__HELLO_TIMEOUT", "1s"),
        ("TUNNEL__CLOSE_TIMEOUT", "1s"),
        ("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "3"),
    ];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &limits).await;
    let refused = async |reason: &str| deployment.metric(&format!("httvps_refused_total{{reason=\"{reason}\"}}")).await;
    let mut slow = dial(&deployment).await;
    let started = Instant::now();
    let mut dripped = 0;
    for byte in upgrade_request("httvps.v2").as_bytes().iter().cycle() {
        let sent = slow.write_all(&[*byte]).await.is_ok() && slow.flush().await.is_ok();
        if !sent || started.elapsed() > Duration::from_secs(20) {
            break;
        }
        dripped += 1;
        if tokio::time::timeout(Duration::from_millis(100), slow.read_u8()).await.is_ok() {
            break;
        }
    }
    assert!(dripped > 2 && started.elapsed() < Duration::from_secs(20), "a byte now and then does not help");
    let mut silent = upgraded(&deployment).await;
    silent.write_all(&[0x81]).await.unwrap();
    assert_eq!(close_code(&mut silent).await, None);
    assert_eq!((refused("handshake_timeout").await, refused("hello_timeout").await), (1, 1));
    let address = deployment.address().to_owned();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(&address).await.unwrap());
    }
    eventually(|| async {
        match refused("pre_hello").await {
            0 => Err("nobody was refused".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    drop(held);
    let client = deployment.connect("v2").await;
    assert_eq!(client.stop().await.code, Some(0), "places come back");
}

/// Checks that one more connection than `held` is closed at once, before TLS.
async fn refused_beyond(deployment: &Deployment, held: usize, reason: &str) {
    let address = deployment.address().to_owned();
    let mut sockets = Vec::new();
    for _ in 0..held {
        sockets.push(TcpStream::connect(&address).await.unwrap());
    }
    let mut late = TcpStream::connect(&address).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), late.read(&mut [0; 1])).await.expect("closed at once");
    assert!(matches!(end, Ok(0) | Err(_)), "{reason}: {end:?}");
    assert_eq!(deployment.metric(&format!("httvps_refused_total{{reason=\"{reason}\"}}")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_number_of_connections_is_limited() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("TUNNEL__MAX_CONNECTIONS", "2")]).await;
    refused_beyond(&deployment, 2, "connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_for_new_ones() {
    let limits = [("TUNNEL__MAX_PRE_HELLO", "3"), ("TUNNEL__HANDSHAKE_TIMEOUT", "1h"), ("TUNNEL__HELLO_TIMEOUT", "1h")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &limits).await;
    let address = deployment.address().to_owned();
    let (mut silent, mut mute) = (TcpStream::connect(&address).await.unwrap(), upgraded(&deployment).await);
    let flood: Vec<_> = futures_util::future::join_all((0..50).map(|_| TcpStream::connect(&address))).await;
    let client = deployment.connect("v2").await;
    let end = tokio::time::timeout(TIMEOUT, silent.read(&mut [0; 1])).await.expect("the oldest is closed");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(close_code(&mut mute).await, None, "a tunnel without hello, too");
    let crowded_out = deployment.metric("httvps_refused_total{reason=\"crowded_out\"}").await;
    assert!(crowded_out >= 50, "{crowded_out} of 52 and the client");
    assert_eq!((client.stop().await.code, flood.len()), (Some(0), 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_fragments_are_limited() {
    let more = [("TUNNEL__FRAGMENTS_MAX", "3"), ("V1__MESSAGE_MAX", "1 KiB")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let empty = |first: u8| vec![first, 0x80, 0, 0, 0, 0];
    let fragments = [empty(0x01), empty(0x00), empty(0x00), empty(0x00)].concat();
    for (bytes, code) in [(fragments, 1002), (frame(0x81, &[b' '; 1025]), 1009)] {
        let mut raw = RawClient::open(&deployment, "httvps.v1").await;
        raw.text(&v1_hello(&deployment).to_string()).await;
        assert!(matches!(raw.next().await, Some(Incoming::Text(_))));
        raw.socket.write_all(&bytes).await.unwrap();
        assert_eq!(raw.closed().await, Some(code));
    }
    let mut raw = RawClient::session(&deployment).await;
    let declared = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
    raw.socket.write_all(&declared).await.unwrap();
    assert_eq!(raw.closed().await, Some(1009), "refused before a byte of the 65,537 came");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_rates_of_a_session_are_limited() {
    let more = [
        ("MUX__STREAMS", "2"),
        ("MUX__OPENS_PER_SECOND", "3"),
        ("MUX__RESETS_PER_SECOND", "2"),
        ("MUX__PINGS_PER_SECOND", "2"),
    ];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let echo = Destination::start(Behavior::Echo);
    let open = |id| {
        let target = Some(Target::Ip(echo.address));
        Frame::Open { id: StreamId(id), target, payload: Bytes::from_static(b"x"), fin: false, udp: false }
    };
    let refused = |id| Frame::Reset { id: StreamId(id), code: StreamCode::Limit };
    let mut raw = RawClient::session(&deployment).await;
    raw.frames(&[open(1), open(3), open(5)]).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(raw.next_frame().await);
    }
    assert!(answers.contains(&refused(5)), "two streams: {answers:?}");
    raw.frames(&[open(7)]).await;
    assert_eq!(raw.next_frame().await, refused(7), "two streams still");
    for flood in [Frame::Ping([0; 8]), Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled }] {
        let mut raw = RawClient::session(&deployment).await;
        raw.frames(&[open(1), flood.clone(), flood.clone(), flood]).await;
        let ended = loop {
            if let Frame::Error { code, .. } = raw.next_frame().await {
                break code;
            }
        };
        assert_eq!((ended, raw.closed().await), (SessionCode::ProtocolError, Some(4001)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_streams_is_delayed_but_not_refused() {
    let deployment =
        Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[("MUX__OPENS_PER_SECOND", "400")]).await;
    let echo = Destination::start(Behavior::Echo);
    for encoding in ["v2", "v1", "v1-plain"] {
        let client = deployment.connect(encoding).await;
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..1_000 {
            let (proxy, target) = (client.line("socks").to_owned(), echo.address);
            burst.spawn(async move {
                let mut socket = crate::support::socks::connect(&proxy, target).await.unwrap();
                socket.write_all(b"hello").await.unwrap();
                let mut got = [0; 5];
                socket.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"hello");
            });
        }
        burst.join_all().await;
        client.stop().await;
    }
    let mut raw = RawClient::session(&deployment).await;
    let opens: Vec<_> = (0..500)
        .map(|at| {
            let target = Some(Target::Ip(echo.address));
            Frame::Open { id: StreamId(at * 2 + 1), target, payload: Bytes::from_static(b"x"), fin: false, udp: false }
        })
        .collect();
    raw.frames(&opens).await;
    for _ in 0..500 {
        let frame = raw.next_frame().await;
        assert!(matches!(frame, Frame::Data { .. }), "{frame:?}");
    }
}
