use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use httvps::net::proxy_protocol::{Named, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::proxy::deployment_behind;
use super::{connect_from, is_closed, listener, refused, secure, somebody};
use crate::support::deployment::{Deployment, PATH};
use crate::support::environment::free_port;
use crate::support::raw::{UPGRADE, request};
use crate::support::wait::{TIMEOUT, eventually};

const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn upgrade() -> String {
    format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n")
}

fn header(version: Version, client: Ipv4Addr) -> Vec<u8> {
    let named = Named { client: (client, 5000).into(), local: ([192, 0, 2, 1], 443).into() };
    named.header(version).unwrap()
}

async fn proxied(deployment: &Deployment, from: Ipv4Addr, name: &str, header: &[u8]) -> TcpStream {
    let mut socket = connect_from(from, listener(deployment, name)).await;
    socket.write_all(header).await.unwrap();
    socket
}

async fn becomes(deployment: &Deployment, reason: &str, count: u64) {
    eventually(|| async {
        let is = refused(deployment, reason).await;
        if is == count { Ok(()) } else { Err(format!("{is} for {reason}")) }
    })
    .await;
}

async fn is_a_tunnel(deployment: &Deployment, socket: TcpStream) {
    let head = request(&mut secure(deployment, socket).await.unwrap(), &upgrade()).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

/// A connection that is not closed at once.
async fn stays(mut socket: TcpStream) -> Result<TcpStream, String> {
    match timeout(Duration::from_millis(300), socket.read(&mut [0; 1])).await {
        Ok(_) => Err("there is no place yet".to_owned()),
        Err(_) => Ok(socket),
    }
}

async fn deployment(more: &[(&str, &str)]) -> Deployment {
    let clear = format!("127.0.0.1:{}", free_port());
    let more = [&[("BEHIND__PROXY_CLEAR_LISTEN", clear.as_str())], more].concat();
    deployment_behind("gateway-proxy.toml", Some("127.0.0.1:8444"), &more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_may_be_fragmented_and_precede_clear_text() {
    let deployment = deployment(&[("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "1")]).await;
    for (version, host) in [(Version::V1, 2), (Version::V2, 3)] {
        let mut socket = connect_from(PROXY, listener(&deployment, "gateway-proxy")).await;
        for byte in header(version, somebody(host)) {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        is_a_tunnel(&deployment, socket).await;
    }
    for (header, answer) in [(header(Version::V1, somebody(4)), "HTTP/1.1 101 "), (LOCAL.to_vec(), "HTTP/1.1 101 ")] {
        let mut socket = connect_from(PROXY, listener(&deployment, "gateway-proxy-clear")).await;
        socket.write_all(&[&header[..], upgrade().as_bytes()].concat()).await.unwrap();
        let mut head = [0; 13];
        timeout(TIMEOUT, socket.read_exact(&mut head)).await.expect("it is answered").unwrap();
        assert_eq!(head, answer.as_bytes());
    }
    let held = [
        proxied(&deployment, PROXY, "gateway-proxy", LOCAL).await,
        proxied(&deployment, PROXY, "gateway-proxy", LOCAL).await,
    ];
    for socket in held {
        is_a_tunnel(&deployment, socket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_peer_without_a_header_is_refused_and_named_once() {
    let mut deployment = deployment(&[("BEHIND__PROXY_TIMEOUT", "1s")]).await;
    for wrong in [&b"\x16\x03\x01\x02\0\x01\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n"] {
        let mut socket = proxied(&deployment, PROXY, "gateway-proxy", wrong).await;
        assert!(is_closed(&mut socket).await);
    }
    becomes(&deployment, "proxy_header", 3).await;
    let began = Instant::now();
    for silent in [&b""[..], b"PROXY TCP4 1", &LOCAL[..15]] {
        let mut socket = proxied(&deployment, PROXY, "gateway-proxy", silent).await;
        assert!(is_closed(&mut socket).await);
    }
    assert!((Duration::from_secs(3)..Duration::from_secs(9)).contains(&began.elapsed()), "{:?}", began.elapsed());
    becomes(&deployment, "proxy_timeout", 3).await;
    drop(connect_from(PROXY, listener(&deployment, "gateway-proxy")).await);
    becomes(&deployment, "handshake", 1).await;
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert_eq!(log.matches("a trusted proxy sent no PROXY header").count(), 1, "{log}");
    assert!(log.contains("it begins with [16, 03, 01, 02"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_header_changes_nothing() {
    let deployment = deployment(&[("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "1")]).await;
    let stranger = somebody(7);
    is_a_tunnel(&deployment, connect_from(stranger, listener(&deployment, "gateway-proxy")).await).await;
    let forged = header(Version::V1, somebody(8));
    for name in ["gateway-proxy", "gateway"] {
        let socket = proxied(&deployment, stranger, name, &forged).await;
        assert!(secure(&deployment, socket).await.is_err(), "it is what TLS gets at {name}");
    }
    let held =
        eventually(|| async { stays(connect_from(stranger, listener(&deployment, "gateway-proxy")).await).await })
            .await;
    let before = refused(&deployment, "pre_hello").await;
    for forged in [&forged[..], b""] {
        let mut socket = proxied(&deployment, stranger, "gateway-proxy", forged).await;
        assert!(is_closed(&mut socket).await, "counted as whom they are");
    }
    becomes(&deployment, "pre_hello", before + 2).await;
    drop(held);
    let mut socket = proxied(&deployment, stranger, "gateway-proxy-clear", &forged).await;
    assert!(is_closed(&mut socket).await);
    becomes(&deployment, "untrusted", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_client_address_are_limited() {
    let deployment = deployment(&[("BEHIND__MAX_UNNAMED", "3")]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(proxied(&deployment, PROXY, "gateway-proxy", b"PROXY ").await);
    }
    let mut fourth = connect_from(PROXY, listener(&deployment, "gateway-proxy")).await;
    assert!(is_closed(&mut fourth).await);
    becomes(&deployment, "pre_hello", 1).await;
    let named = b"TCP4 127.0.1.2 192.0.2.1 1 2\r\n";
    held[0].write_all(named).await.unwrap();
    eventually(|| async { stays(connect_from(PROXY, listener(&deployment, "gateway-proxy")).await).await }).await;
}
