//! Whoever is not a client sees the web site behind the gateway, with the same bytes and the same timing.

use std::time::Duration;

use futures_util::future::join_all;
use httvps::frame::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::site::{SITE, SLACK, Site, Transcript, converse, endless_site};
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::node::CHACHA;
use crate::support::raw::{self, RawClient, UPGRADE, dial, dial_to, hello, upgrade_request};
use crate::support::wait::TIMEOUT;

async fn probe(address: &str, ca: &str, probe: &Probe) -> Transcript {
    if probe.tls {
        return converse(&mut dial_to(address, ca).await, &probe.pieces).await;
    }
    converse(&mut TcpStream::connect(address).await.unwrap(), &probe.pieces).await
}

struct Probe {
    name: &'static str,
    tls: bool,
    pieces: Vec<Vec<u8>>,
}

fn probes() -> Vec<Probe> {
    let of = |name, pieces: &[&str]| Probe {
        name,
        tls: true,
        pieces: pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect(),
    };
    let raw = |name, piece: &[u8]| Probe { name, tls: false, pieces: vec![piece.to_vec()] };
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let ours = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(200));
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "b".repeat(20_000));
    let enroll = r#"{"code":"0000","device_uuid":"x","platform":"x"}"#;
    let upgrade = |path: &str| ours(&format!("GET {path}"), UPGRADE);
    let key = |key: &str| upgrade(PATH).replace("dGhlIHNhbXBsZSBub25jZQ==", key);
    vec![
        raw("TCP and silence", b""),
        raw("half a ClientHello", &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        raw("clear text", get.as_bytes()),
        raw("clear nonsense", b"SSH-2.0-x\r\n"),
        of("TLS and silence", &[]),
        of("a page, then idle", &[get]),
        of("a page every while", &[get, get, get, get, get, get]),
        of("pipelined", &[&get.repeat(5)]),
        of("no such page", &["GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("moved", &["GET /moved HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("gone", &["GET /gone HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("HEAD", &["HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("PUT", &["PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"]),
        of("DELETE", &["DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("PROPFIND", &["PROPFIND / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("no Host", &["GET / HTTP/1.1\r\n\r\n"]),
        of("two Hosts", &["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]),
        of("OPTIONS *", &["OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("CONNECT", &["CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n"]),
        of("TRACE", &["TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("an absolute URI", &["GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        of("HTTP/1.0", &["GET / HTTP/1.0\r\n\r\n"]),
        of("HTTP/0.9", &["GET /\r\n"]),
        of("HTTP/1.2", &["GET / HTTP/1.2\r\nHost: localhost\r\n\r\n"]),
        of("HTTP/3.0", &["GET / HTTP/3.0\r\nHost: localhost\r\n\r\n"]),
        of("200 fields", &[&many]),
        of("a head of 20 KiB", &[&long]),
        of(
            "chunks",
            &["POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
        ),
        of("bad chunks", &["POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]),
        of("patience", &["POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"]),
        of("a range", &["GET / HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-3\r\n\r\n"]),
        of("If-None-Match", &["GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\n\r\n"]),
        of("half a line", &["GE"]),
        of("half a head", &["GET / HTTP/1.1\r\nHo"]),
        of("a head in pieces", &["G", "ET / HT", "TP/1.1\r\n", "Host: localhost\r\n", "\r\n"]),
        of("nonsense", &["\0\u{1}\u{2}\u{3}\r\n\r\n"]),
        of("a blank before the name", &["GET / HTTP/1.1\r\n Host: localhost\r\n\r\n"]),
        of("the preface of HTTP/2", &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"]),
        of("an upgrade elsewhere", &[&upgrade("/chat")]),
        of("an upgrade to h2c", &[&ours("GET /", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n")]),
        of("almost the path", &[&upgrade(&format!("{PATH}x"))]),
        of("a part of the path", &[&format!("GET {}", &PATH[..9])]),
        of("the path in another case", &[&upgrade(&PATH.to_uppercase())]),
        of(
            "enrollment elsewhere",
            &[&format!("{}{enroll}", ours("POST /api/v1/auth/enroll", "Content-Length: 49\r\n"))],
        ),
        of("keys elsewhere", &[&ours("GET /.well-known/jwks.json", "Authorization: Bearer x\r\n")]),
        of("the path alone", &[&ours(&format!("GET {PATH}"), "")]),
        of("the path, another method", &[&ours(&format!("PUT {PATH}"), UPGRADE)]),
        of("the path, no key", &[&key("")]),
        of("the path, a short key", &[&key("c2hvcnQ=")]),
        of("the path, version 12", &[&upgrade(PATH).replace("Version: 13", "Version: 12")]),
        of("the path, HTTP/1.0", &[&upgrade(PATH).replace("HTTP/1.1", "HTTP/1.0")]),
        of("the path, no Host", &[&upgrade(PATH).replace("Host: localhost\r\n", "")]),
        of(
            "the path, another protocol",
            &[&ours(&format!("GET {PATH}"), &format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n"))],
        ),
        of(
            "the path, a bad token",
            &[&ours(&format!("GET {PATH}"), &format!("{UPGRADE}Authorization: Bearer x.y.z\r\n"))],
        ),
        of("the path and a head that does not end", &[&format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n")]),
        of("the portal without a token", &[&ours(&format!("GET {PATH}/api/v1/client/config"), "")]),
        of("the portal elsewhere", &[&ours(&format!("GET {PATH}/api/v1/admin/users"), "Authorization: Bearer x\r\n")]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_cannot_tell_the_gateway_from_its_site() {
    let site = Site::start(SITE, &[]).await;
    let (gateway, alone, ca) = (site.address(), format!("127.0.0.1:{}", site.nginx.tls), site.deployment.ca());
    let probes = probes();
    assert!(probes.len() >= 40);
    let seen =
        join_all(probes.iter().map(async |one| tokio::join!(probe(&gateway, &ca, one), probe(&alone, &ca, one))));
    let mut wrong = Vec::new();
    for (one, (ours, theirs)) in probes.iter().zip(seen.await) {
        if ours.bytes != theirs.bytes {
            wrong.push(format!("{}: {:?} instead of {:?}", one.name, ours.bytes, theirs.bytes));
        }
        let longer = ours.lasted.max(theirs.lasted);
        if ours.lasted.abs_diff(theirs.lasted) > longer.div_f64(20.0) + SLACK {
            wrong.push(format!("{}: {:?} instead of {:?}", one.name, ours.lasted, theirs.lasted));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    RawClient::session(&site.deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_still_gets_a_tunnel() {
    let site = Site::start(SITE, &[("TUNNEL__HANDSHAKE_TIMEOUT", "20s")]).await;
    let mut socket = dial(&site.deployment).await;
    let request = upgrade_request("httvps.v2");
    let (start, rest) = request.split_at(PATH.len());
    let pause = || tokio::time::sleep(Duration::from_millis(400));
    for piece in ["", start, &rest[..30], &rest[30..]] {
        pause().await;
        socket.write_all(piece.as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
    }
    let head = raw::request(&mut socket, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = RawClient::new(socket);
    raw.frames(&[Frame::Hello(Box::new(hello(&site.deployment)))]).await;
    assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
    assert!(!site.nginx.requests().contains(PATH), "the upstream does not learn the path: {}", site.nginx.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_pages_are_complete() {
    let site = Site::start(SITE, &[]).await;
    let mut socket = dial(&site.deployment).await;
    socket.write_all(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut all)).await.expect("it ends").unwrap();
    let at = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(all.len() - at, 3_000_000);
    assert_eq!(site.deployment.metric("httvps_refused_total{reason=\"not_a_tunnel\"}").await, 1);
}

/// Accepts a connection at the upstream and returns its first bytes.
async fn heard(listener: &TcpListener, len: usize) -> String {
    let (mut line, _) = tokio::time::timeout(TIMEOUT, listener.accept()).await.expect("the upstream hears").unwrap();
    let mut got = vec![0; len];
    tokio::time::timeout(TIMEOUT, line.read_exact(&mut got)).await.expect("it is told").unwrap();
    line.write_all(b"x").await.unwrap();
    let mut rest = Vec::new();
    line.read_to_end(&mut rest).await.ok();
    String::from_utf8([got, rest].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_first_bytes_at_once_but_never_the_tunnel_path() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let more = [("DECOY__UPSTREAM", address.as_str()), ("DECOY__PATIENCE", "10m")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    for (sent, told) in [
        (format!("GET {}", &PATH[..5]), "GET "),
        (format!("GET {PATH}"), "GET "),
        ("GET /x".to_owned(), "GET /x"),
        ("X".to_owned(), "X"),
    ] {
        let mut socket = dial(&deployment).await;
        socket.write_all(sent.as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
        let (heard, ()) = tokio::join!(heard(&upstream, told.len()), async {
            assert_eq!(tokio::time::timeout(TIMEOUT, socket.read_u8()).await.expect("an answer").unwrap(), b'x');
            drop(socket);
        });
        assert!(heard.starts_with(told), "{sent}: {heard}");
    }
    let mut socket = dial(&deployment).await;
    let request = upgrade_request("httvps.v2");
    let (first, rest) = request.split_at("GET ".len() + PATH.len());
    socket.write_all(first.as_bytes()).await.unwrap();
    socket.flush().await.unwrap();
    let (mut line, _) = tokio::time::timeout(TIMEOUT, upstream.accept()).await.expect("the upstream hears").unwrap();
    let head = raw::request(&mut socket, rest).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut told = String::new();
    tokio::time::timeout(TIMEOUT, line.read_to_string(&mut told)).await.expect("it is given up").unwrap();
    assert_eq!(told, "GET ");
}

async fn page(deployment: &Deployment, path: &str) -> (String, String) {
    let mut socket = dial(deployment).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut all = String::new();
    tokio::time::timeout(TIMEOUT, socket.read_to_string(&mut all)).await.expect("it ends").unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_can_be_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "<p>hello</p>").unwrap();
    std::fs::write(folder.path().join("404.html"), "<p>lost</p>").unwrap();
    let files = folder.path().to_string_lossy().into_owned();
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("DECOY__FILES", &files)]).await;
    let (head, body) = page(&deployment, "/").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nServer: nginx"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/html"), "{head}");
    assert_eq!(body, "<p>hello</p>");
    let (head, body) = page(&deployment, "/../../etc/passwd").await;
    assert!(head.starts_with("HTTP/1.1 404 ") && body == "<p>lost</p>", "{head} {body}");
    RawClient::session(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_site_is_a_bad_gateway() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("DECOY__UPSTREAM", "127.0.0.1:9")]).await;
    let (head, body) = page(&deployment, "/").await;
    assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
    assert!(body.contains("<h1>502 Bad Gateway</h1>"), "{body}");
    RawClient::session(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_site_everything_is_404_and_the_log_says_so() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let (head, body) = page(&deployment, "/").await;
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n") && body.contains("404 Not Found"), "{head} {body}");
    let mut socket = TcpStream::connect(deployment.address()).await.unwrap();
    let seen = converse(&mut socket, &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()]).await;
    assert!(seen.bytes.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{}", seen.bytes);
    assert!(seen.bytes.contains("plain HTTP request was sent to HTTPS port"), "{}", seen.bytes);
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert!(log.contains("there is no web site behind this gateway"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_before_active_visitors() {
    let (upstream, _site) = endless_site().await;
    let more = [("DECOY__UPSTREAM", upstream.as_str()), ("DECOY__PATIENCE", "10m"), ("TUNNEL__MAX_PRE_HELLO", "3")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let mut visitor = dial(&deployment).await;
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut page = vec![0; 100_000];
    let (mut silent, mut other) = (dial(&deployment).await, dial(&deployment).await);
    visitor.read_exact(&mut page).await.unwrap();
    let _last = dial(&deployment).await;
    let left = tokio::time::timeout(TIMEOUT, silent.read(&mut [0])).await.expect("the first of the silent leaves");
    assert!(!matches!(left, Ok(1..)), "{left:?}");
    tokio::time::timeout(TIMEOUT, visitor.read_exact(&mut page)).await.expect("the visitor stays").unwrap();
    let second = tokio::time::timeout(Duration::from_millis(100), other.read(&mut [0])).await;
    assert!(second.is_err(), "one was enough: {second:?}");
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"crowded_out\"}").await, 1);
}
