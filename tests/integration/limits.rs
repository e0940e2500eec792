//! The limits of docs/03 hold against a client that does not keep to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::database::Kind;
use crate::node::CHACHA;
use crate::process::eventually;
use crate::world::{PATH, REGION, World};

async fn dial(world: &World) -> TlsStream<TcpStream> {
    let address = world.gateway().line("gateway").strip_prefix("wss://").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let tls = httvps::net::tls::client(Some(&std::fs::read(world.ca()).unwrap())).unwrap();
    TlsConnector::from(Arc::clone(&tls)).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
}

async fn request(socket: &mut TlsStream<TcpStream>, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn upgraded(world: &World) -> TlsStream<TcpStream> {
    let mut socket = dial(world).await;
    let head = request(&mut socket, PATH, UPGRADE).await;
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

/// The close code that ends the connection, if one came.
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
async fn what_is_not_a_tunnel_is_not_found() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    for (path, headers) in [
        ("/", ""),
        ("/elsewhere", UPGRADE),
        (PATH, ""),
        (PATH, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (PATH, &format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n")),
    ] {
        let head = request(&mut dial(&world).await, path, headers).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{path} {headers}: {head}");
    }
    let mut both = dial(&world).await;
    let offered = format!("{UPGRADE}Sec-WebSocket-Protocol: httvps.v1, httvps.v2\r\n");
    let head = request(&mut both, PATH, &offered).await.to_lowercase();
    assert!(head.contains("sec-websocket-protocol: httvps.v2\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_are_answered_with_their_close_code() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let hello = json!({
        "type": "hello", "device_id": world.subscriber.device, "access_token": world.subscriber.token, "region": REGION,
    });
    let cases: Vec<(Vec<u8>, Option<u16>)> = vec![
        (vec![0x81, 1, b'x'], Some(1002)),
        (vec![0x89, 0xfe, 0, 126], Some(1002)),
        (vec![0x81, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0], Some(1009)),
        (frame(0x81, b"\xff\xfe"), Some(1007)),
        (frame(0x81, b"{\"type\":\"nonsense\"}"), Some(4001)),
        (frame(0x81, b"{\"type\":\"stream_open\",\"stream_id\":1}"), Some(4001)),
        (frame(0x82, b"binary in v1"), Some(4001)),
        ([frame(0x81, hello.to_string().as_bytes()), frame(0x81, hello.to_string().as_bytes())].concat(), Some(4001)),
        (vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8], Some(1000)),
    ];
    for (bytes, code) in cases {
        let mut socket = upgraded(&world).await;
        socket.write_all(&bytes).await.unwrap();
        assert_eq!(close_code(&mut socket).await, code, "{}", String::from_utf8_lossy(&bytes));
    }
    eventually(|| async {
        match world.metric("httvps_sessions").await {
            0 => Ok(()),
            open => Err(format!("{open} sessions")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_absolute_and_places_are_counted() {
    let limits = [
        ("TUNNEL__HANDSHAKE_TIMEOUT", "1s"),
        ("TUNNEL__HELLO_TIMEOUT", "1s"),
        ("TUNNEL__CLOSE_TIMEOUT", "1s"),
        ("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "3"),
    ];
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &limits).await;
    let refused = async |reason: &str| world.metric(&format!("httvps_refused_total{{reason=\"{reason}\"}}")).await;
    let mut slow = dial(&world).await;
    let started = Instant::now();
    let mut dripped = 0;
    while slow.write_all(b"G").await.is_ok()
        && slow.flush().await.is_ok()
        && started.elapsed() < Duration::from_secs(20)
    {
        dripped += 1;
        if tokio::time::timeout(Duration::from_millis(100), slow.read_u8()).await.is_ok() {
            break;
        }
    }
    assert!(dripped > 2 && started.elapsed() < Duration::from_secs(20), "a byte now and then does not help");
    let mut silent = upgraded(&world).await;
    silent.write_all(&[0x81]).await.unwrap();
    assert_eq!(close_code(&mut silent).await, Some(1000));
    assert_eq!((refused("handshake_timeout").await, refused("hello_timeout").await), (1, 1));
    let address = world.gateway().line("gateway").strip_prefix("wss://").unwrap().to_owned();
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
    let client = world.connect("v2").await;
    assert_eq!(client.stop().await.code, Some(0), "places come back");
}
