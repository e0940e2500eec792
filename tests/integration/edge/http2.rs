//! The same over HTTP/2, with a site that speaks it in clear text.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::site::{SITE, SLACK, Site, Transcript, converse, endless_site};
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::http2_frames::{
    END_STREAM_AND_HEADERS, HEADERS, PREFACE, SETTINGS, encode_fields, frame, open_connection, request_fields,
};
use crate::support::http2_peer::{Peer, request};
use crate::support::node::CHACHA;
use crate::support::raw::dial_offering;
use crate::support::transfer::echo;

/// Attempts to have both servers answer within the same second: the date is compressed and cannot be masked.
const ATTEMPTS: usize = 4;

/// The probe that nginx itself answers with another code in clear text than behind its own TLS.
const SILENCE: &str = "silence";

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, &request_fields("GET", path, &[]))
}

fn probes() -> Vec<(&'static str, Vec<u8>)> {
    let one = |fields: &[u8]| open_connection(&[frame(HEADERS, END_STREAM_AND_HEADERS, 1, fields)]);
    let websocket = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    vec![
        (SILENCE, vec![]),
        ("half a preface", PREFACE[..10].to_vec()),
        ("another preface", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a preface alone", PREFACE.to_vec()),
        ("SETTINGS and silence", open_connection(&[])),
        ("a page", open_connection(&[get(1, "/")])),
        ("pages", open_connection(&[get(1, "/"), get(3, "/nothing"), get(5, "/moved"), get(7, "/gone")])),
        ("HEAD", one(&request_fields("HEAD", "/", &[]))),
        ("a stranger's POST", one(&request_fields("POST", "/", &[("content-type", "application/httvps")]))),
        ("unknown SETTINGS", {
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, &[0, 77, 0, 0, 0, 1]));
            bytes.extend(get(1, "/"));
            bytes
        }),
        ("many SETTINGS", open_connection(&vec![frame(SETTINGS, 0, 0, &[]); 50])),
        ("PRIORITY", open_connection(&[frame(2, 0, 1, &[0, 0, 0, 0, 16]), get(1, "/")])),
        ("a first stream of 3", open_connection(&[get(3, "/")])),
        ("a first stream of 2", open_connection(&[get(2, "/")])),
        ("an upper-case name", one(&request_fields("GET", "/", &[("Accept", "x")]))),
        ("no path", one(&encode_fields(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]))),
        ("a pseudo-header behind", one(&[encode_fields(&[("accept", "x")]), request_fields("GET", "/", &[])].concat())),
        ("an unknown pseudo-header", one(&request_fields("GET", "/", &[(":nonsense", "x")]))),
        ("GOAWAY", open_connection(&[frame(7, 0, 0, &[0; 8]), get(1, "/")])),
        ("a PING first", open_connection(&[frame(6, 0, 0, b"12345678"), get(1, "/")])),
        ("RST of a stream that is not", open_connection(&[frame(3, 0, 1, &[0, 0, 0, 8])])),
        ("RST at once", open_connection(&[get(1, "/large.bin"), frame(3, 0, 1, &[0, 0, 0, 8])])),
        ("DATA on stream 0", open_connection(&[frame(0, 0, 0, b"x")])),
        ("DATA on an idle stream", open_connection(&[frame(0, 0, 1, b"x")])),
        ("CONTINUATION first", open_connection(&[frame(9, 4, 1, b"x")])),
        ("a frame that is too large", open_connection(&[frame(0, 0, 1, &[0; 20_000])])),
        ("an unknown frame", open_connection(&[frame(99, 0, 0, b"x"), get(1, "/")])),
        ("bad HPACK", open_connection(&[frame(HEADERS, END_STREAM_AND_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff])])),
        ("WINDOW_UPDATE of nothing", open_connection(&[frame(8, 0, 0, &[0; 4])])),
        ("a WebSocket elsewhere", one(&request_fields("CONNECT", "/chat", &websocket))),
        ("almost the path", one(&request_fields("CONNECT", &format!("{PATH}x"), &websocket))),
        ("the path without a token", one(&request_fields("POST", PATH, &[("content-type", "application/httvps")]))),
        ("the path and a bad token", {
            let more = [("content-type", "application/httvps"), ("authorization", "Bearer x.y.z")];
            one(&request_fields("POST", PATH, &more))
        }),
        ("the path and another protocol", one(&request_fields("CONNECT", PATH, &[(":protocol", "connect-udp")]))),
    ]
}

async fn probe(address: &str, ca: &str, bytes: &[u8]) -> Transcript {
    let mut socket = dial_offering(address, ca, &[b"h2", b"http/1.1"]).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    converse(&mut socket, &[bytes.to_vec()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_over_http2_cannot_tell_the_gateway_from_its_site() {
    let site = Site::start(SITE, &[]).await;
    let (gateway, alone, ca) = (site.address(), format!("127.0.0.1:{}", site.nginx.tls2), site.deployment.ca());
    let probes = probes();
    let compared = join_all(probes.iter().map(async |(name, bytes)| {
        let mut wrong = None;
        for _ in 0..ATTEMPTS {
            let (ours, theirs) = tokio::join!(probe(&gateway, &ca, bytes), probe(&alone, &ca, bytes));
            let longer = ours.lasted.max(theirs.lasted);
            wrong = if ours.bytes != theirs.bytes && *name != SILENCE {
                Some(format!("{name}: {:?} instead of {:?}", ours.bytes, theirs.bytes))
            } else if ours.lasted.abs_diff(theirs.lasted) > longer.div_f64(20.0) + SLACK {
                Some(format!("{name}: {:?} instead of {:?}", ours.lasted, theirs.lasted))
            } else {
                return None;
            };
        }
        wrong
    }));
    let wrong: Vec<_> = compared.await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_http1_gets_each_request_of_a_connection() {
    let mut site = Site::start(SITE, &[]).await;
    site.deployment.gateway.take().unwrap().stop().await;
    site.deployment.gateway_env.extend(crate::support::environment::env(&[("DECOY__UPSTREAM_H2", "")]));
    site.deployment.start_gateway().await;
    let peer = Peer::dial(&site.deployment).await;
    let page = peer.ask(request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2")]), b"").await.unwrap();
    assert_eq!((page.status.as_u16(), page.body.as_slice()), (200, &b"<h1>A web site</h1>\n"[..]));
    assert!(page.headers["server"].to_str().unwrap().starts_with("nginx/"), "{:?}", page.headers);
    let large = peer.ask(request("GET", "/large.bin", &[]), b"").await.unwrap();
    assert_eq!((large.status.as_u16(), large.body.len()), (200, 3_000_000));
    let refused = peer.ask(request("GET", &format!("{PATH}/api/v1/client/config"), &[]), b"").await.unwrap();
    assert_eq!(refused.status.as_u16(), 404);
    drop(peer.plain(&site.deployment).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_tunnels_where_the_site_speaks_http2() {
    let site = Site::start(SITE, &[("DECOY__PATIENCE", "10s")]).await;
    let echoing = Destination::start(Behavior::Echo);
    for transport in ["h2", "h2ws"] {
        let client = site.deployment.connect_by(transport, "v2").await;
        echo(client.line("socks"), echoing.address, 100_000).await;
    }
    assert_eq!((site.deployment.tunnels_by("h2").await, site.deployment.tunnels_by("h2ws").await), (1, 1));
    assert!(!site.nginx.requests().contains(PATH), "{}", site.nginx.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_with_unreachable_http2_is_asked_over_http1() {
    let mut site = Site::start(SITE, &[]).await;
    site.deployment.gateway.take().unwrap().stop().await;
    site.deployment.gateway_env.extend(crate::support::environment::env(&[("DECOY__UPSTREAM_H2", "127.0.0.1:9")]));
    site.deployment.start_gateway().await;
    let peer = Peer::dial(&site.deployment).await;
    let page = peer.ask(request("GET", "/", &[]), b"").await.unwrap();
    assert_eq!((page.status.as_u16(), page.body.as_slice()), (200, &b"<h1>A web site</h1>\n"[..]));
    drop(peer.plain(&site.deployment).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_reach_the_site_in_one_field() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("DECOY__UPSTREAM", &address)]).await;
    let peer = Peer::dial(&deployment).await;
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let answering = async {
        let (mut line, _) = upstream.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(line.read_u8().await.unwrap());
        }
        line.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    };
    let (head, answer) = tokio::join!(answering, peer.ask(request("GET", "/", &crumbs), b""));
    assert_eq!(answer.unwrap().status.as_u16(), 204);
    let cookies: Vec<_> = head.lines().filter(|line| line.starts_with("cookie:")).collect();
    assert_eq!(cookies, ["cookie: a=1; b=2; c=3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_continues_during_a_drain_and_does_not_hold_it_up() {
    let (upstream, _site) = endless_site().await;
    let more =
        [("DECOY__UPSTREAM", upstream.as_str()), ("GATEWAY__DRAIN_TIMEOUT", "3s"), ("TUNNEL__CLOSE_TIMEOUT", "1s")];
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let peer = Peer::dial(&deployment).await;
    let mut page = peer.open(request("GET", "/", &[])).await;
    let first = page.data().await.unwrap().unwrap();
    page.flow_control().release_capacity(first.len()).unwrap();
    let gateway = deployment.gateway.take().unwrap();
    gateway.signal("-TERM");
    let began = Instant::now();
    let reading = async {
        while let Some(Ok(piece)) = page.data().await {
            page.flow_control().release_capacity(piece.len()).unwrap();
        }
        began.elapsed()
    };
    let (lasted, ended) = tokio::join!(reading, gateway.ended());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(lasted > Duration::from_secs(2), "it goes on until the drain is over: {lasted:?}");
    assert!(began.elapsed() < Duration::from_secs(3 * 4), "{:?}", began.elapsed());
}
