//! The same over HTTP/2, where the site speaks it in clear text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::site::{SITE, SLACK, Seen, Site, converse, endless_site};
use crate::support::database::Kind;
use crate::support::deployment::{PATH, World};
use crate::support::destination::{Destination, Manner};
use crate::support::http2_frames::{HEADERS, PREFACE, SETTINGS, WHOLE, asks, begun, frame, request};
use crate::support::http2_peer::{Peer, request as peer_request};
use crate::support::node::CHACHA;
use crate::support::transfer::echo;

/// Attempts at an answer within one second of both servers: its date is compressed and cannot be left out.
const ATTEMPTS: usize = 4;

/// What nginx itself ends with another code in clear text than behind its own TLS.
const SILENCE: &str = "silence";

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &asks("GET", path, &[]))
}

fn probes() -> Vec<(&'static str, Vec<u8>)> {
    let one = |fields: &[u8]| begun(&[frame(HEADERS, WHOLE, 1, fields)]);
    let websocket = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    vec![
        (SILENCE, vec![]),
        ("half a preface", PREFACE[..10].to_vec()),
        ("another preface", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a preface alone", PREFACE.to_vec()),
        ("SETTINGS and silence", begun(&[])),
        ("a page", begun(&[get(1, "/")])),
        ("pages", begun(&[get(1, "/"), get(3, "/nothing"), get(5, "/moved"), get(7, "/gone")])),
        ("HEAD", one(&asks("HEAD", "/", &[]))),
        ("a stranger's POST", one(&asks("POST", "/", &[("content-type", "application/httvps")]))),
        ("unknown SETTINGS", {
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, &[0, 77, 0, 0, 0, 1]));
            bytes.extend(get(1, "/"));
            bytes
        }),
        ("many SETTINGS", begun(&vec![frame(SETTINGS, 0, 0, &[]); 50])),
        ("PRIORITY", begun(&[frame(2, 0, 1, &[0, 0, 0, 0, 16]), get(1, "/")])),
        ("a first stream of 3", begun(&[get(3, "/")])),
        ("a first stream of 2", begun(&[get(2, "/")])),
        ("an upper-case name", one(&asks("GET", "/", &[("Accept", "x")]))),
        ("no path", one(&request(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]))),
        ("a pseudo-header behind", one(&[request(&[("accept", "x")]), asks("GET", "/", &[])].concat())),
        ("an unknown pseudo-header", one(&asks("GET", "/", &[(":nonsense", "x")]))),
        ("GOAWAY", begun(&[frame(7, 0, 0, &[0; 8]), get(1, "/")])),
        ("a PING first", begun(&[frame(6, 0, 0, b"12345678"), get(1, "/")])),
        ("RST of a stream that is not", begun(&[frame(3, 0, 1, &[0, 0, 0, 8])])),
        ("RST at once", begun(&[get(1, "/large.bin"), frame(3, 0, 1, &[0, 0, 0, 8])])),
        ("DATA on stream 0", begun(&[frame(0, 0, 0, b"x")])),
        ("DATA on an idle stream", begun(&[frame(0, 0, 1, b"x")])),
        ("CONTINUATION first", begun(&[frame(9, 4, 1, b"x")])),
        ("a frame that is too large", begun(&[frame(0, 0, 1, &[0; 20_000])])),
        ("an unknown frame", begun(&[frame(99, 0, 0, b"x"), get(1, "/")])),
        ("bad HPACK", begun(&[frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0xff, 0xff, 0xff])])),
        ("WINDOW_UPDATE of nothing", begun(&[frame(8, 0, 0, &[0; 4])])),
        ("a WebSocket elsewhere", one(&asks("CONNECT", "/chat", &websocket))),
        ("almost the path", one(&asks("CONNECT", &format!("{PATH}x"), &websocket))),
        ("the path without a token", one(&asks("POST", PATH, &[("content-type", "application/httvps")]))),
        ("the path and a bad token", {
            let more = [("content-type", "application/httvps"), ("authorization", "Bearer x.y.z")];
            one(&asks("POST", PATH, &more))
        }),
        ("the path and another protocol", one(&asks("CONNECT", PATH, &[(":protocol", "connect-udp")]))),
    ]
}

async fn probe(address: &str, ca: &str, bytes: &[u8]) -> Seen {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut tls = (*httvps::net::tls::client(Some(&std::fs::read(ca).unwrap())).unwrap()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let mut socket = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    converse(&mut socket, &[bytes.to_vec()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_tell_it_over_http2_either() {
    let site = Site::start(SITE, &[]).await;
    let (gateway, alone, ca) = (site.address(), format!("127.0.0.1:{}", site.nginx.tls2), site.world.ca());
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
async fn a_site_in_http1_is_asked_for_each_request() {
    let mut site = Site::start(SITE, &[]).await;
    site.world.gateway.take().unwrap().stop().await;
    site.world.gateway_env.extend(crate::support::environment::env(&[("DECOY__UPSTREAM_H2", "")]));
    site.world.start_gateway().await;
    let peer = Peer::dial(&site.world).await;
    let page = peer.ask(peer_request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2")]), b"").await.unwrap();
    assert_eq!((page.status.as_u16(), page.body.as_slice()), (200, &b"<h1>A web site</h1>\n"[..]));
    assert!(page.headers["server"].to_str().unwrap().starts_with("nginx/"), "{:?}", page.headers);
    let large = peer.ask(peer_request("GET", "/large.bin", &[]), b"").await.unwrap();
    assert_eq!((large.status.as_u16(), large.body.len()), (200, 3_000_000));
    let refused = peer.ask(peer_request("GET", &format!("{PATH}/api/v1/client/config"), &[]), b"").await.unwrap();
    assert_eq!(refused.status.as_u16(), 404);
    drop(peer.plain(&site.world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_clients_where_the_site_speaks_http2() {
    let site = Site::start(SITE, &[("DECOY__PATIENCE", "10s")]).await;
    let echoing = Destination::start(Manner::Echo);
    for transport in ["h2", "h2ws"] {
        let client = site.world.connect_by(transport, "v2").await;
        echo(client.line("socks"), echoing.address, 100_000).await;
    }
    assert_eq!((site.world.tunnels_by("h2").await, site.world.tunnels_by("h2ws").await), (1, 1));
    assert!(!site.nginx.requests().contains(PATH), "{}", site.nginx.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_http2_is_away_is_asked_over_http1() {
    let mut site = Site::start(SITE, &[]).await;
    site.world.gateway.take().unwrap().stop().await;
    site.world.gateway_env.extend(crate::support::environment::env(&[("DECOY__UPSTREAM_H2", "127.0.0.1:9")]));
    site.world.start_gateway().await;
    let peer = Peer::dial(&site.world).await;
    let page = peer.ask(peer_request("GET", "/", &[]), b"").await.unwrap();
    assert_eq!((page.status.as_u16(), page.body.as_slice()), (200, &b"<h1>A web site</h1>\n"[..]));
    drop(peer.plain(&site.world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_reach_the_site_in_one_field() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[("DECOY__UPSTREAM", &address)]).await;
    let peer = Peer::dial(&world).await;
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
    let (head, answer) = tokio::join!(answering, peer.ask(peer_request("GET", "/", &crumbs), b""));
    assert_eq!(answer.unwrap().status.as_u16(), 204);
    let cookies: Vec<_> = head.lines().filter(|line| line.starts_with("cookie:")).collect();
    assert_eq!(cookies, ["cookie: a=1; b=2; c=3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_of_the_site_goes_on_while_the_gateway_drains_and_does_not_hold_it_up() {
    let (upstream, _site) = endless_site().await;
    let more =
        [("DECOY__UPSTREAM", upstream.as_str()), ("GATEWAY__DRAIN_TIMEOUT", "3s"), ("TUNNEL__CLOSE_TIMEOUT", "1s")];
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let peer = Peer::dial(&world).await;
    let mut page = peer.open(peer_request("GET", "/", &[])).await;
    let first = page.data().await.unwrap().unwrap();
    page.flow_control().release_capacity(first.len()).unwrap();
    let gateway = world.gateway.take().unwrap();
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
