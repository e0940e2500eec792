use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::proxy::{Proxy, cdn, deployment_behind};
use super::{connect_from, is_closed, listener, refused, secure, somebody};
use crate::support::deployment::{Deployment, PATH};
use crate::support::http2_peer::{Peer, websocket};
use crate::support::raw::{UPGRADE, request};
use crate::support::wait::eventually;

const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ONE: [(&str, &str); 2] = [("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "1"), ("PORTAL__REQUESTS_PER_MINUTE", "1")];

/// What somebody is answered who wants a tunnel through a proxy that ends TLS; the connection.
async fn upgraded(
    deployment: &Deployment,
    from: Ipv4Addr,
    to: SocketAddr,
    headers: &str,
) -> (String, TlsStream<TcpStream>) {
    let mut socket = secure(deployment, connect_from(from, to).await).await.unwrap();
    let head = request(&mut socket, &format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{headers}\r\n")).await;
    (head.lines().next().unwrap().to_owned(), socket)
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols";

async fn counts_clients(deployment: &Deployment, to: SocketAddr) {
    let before = refused(deployment, "pre_hello").await;
    let (first, _held) = upgraded(deployment, somebody(2), to, "").await;
    assert_eq!(first, SWITCHED);
    let forged = "X-Forwarded-For: 192.0.2.1\r\n";
    for headers in ["", forged, "X-Forwarded-For: \"\r\nX-Forwarded-For: ,\r\n", "Forwarded: for=192.0.2.1\r\n"] {
        let (second, _) = upgraded(deployment, somebody(2), to, headers).await;
        assert!(!second.contains(" 101 "), "{headers:?} makes nobody another: {second}");
    }
    assert_eq!(refused(deployment, "pre_hello").await, before + 4);
    let (other, _held_too) = upgraded(deployment, somebody(3), to, forged).await;
    assert_eq!(other, SWITCHED, "two clients behind one proxy are two");
}

async fn enrolls(deployment: &Deployment, from: Ipv4Addr, to: SocketAddr) {
    let mut socket = secure(deployment, connect_from(from, to).await).await.unwrap();
    let body = "{\"code\": \"0123-4567-89AB-CDEF-GHJK-MNPQ-RS\", \
                 \"device_uuid\": \"01a1fd57-4f40-788d-8276-5f073ec43d8a\", \"platform\": \"linux\"}";
    let head = format!(
        "POST {PATH}/api/v1/auth/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = request(&mut socket, &head).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_tls_terminating_proxy_are_counted_separately() {
    let deployment = deployment_behind("gateway-clear.toml", Some("127.0.0.1:8445"), &ONE).await;
    let upstream = ("127.0.0.1:8445", listener(&deployment, "gateway-clear"));
    let nginx = Proxy::nginx(&deployment, "nginx-http.conf", upstream, &[]).await;
    counts_clients(&deployment, nginx.address).await;
    for (somebody, rejected) in [(somebody(4), 0), (somebody(5), 0), (somebody(4), 1)] {
        enrolls(&deployment, somebody, nginx.address).await;
        assert_eq!(refused(&deployment, "portal_rate").await, rejected, "{somebody}");
    }
    let haproxy = Proxy::haproxy(&deployment, "haproxy-http.cfg", upstream).await;
    counts_clients(&deployment, haproxy.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_cdn_are_counted_separately_and_forged_headers_ignored() {
    let deployment = deployment_behind("gateway-cdn.toml", None, &ONE).await;
    let proxy = cdn(&deployment).await;
    counts_clients(&deployment, proxy.address).await;
    let direct = listener(&deployment, "gateway");
    let (first, _held) = upgraded(&deployment, somebody(9), direct, "X-Forwarded-For: 192.0.2.8\r\n").await;
    assert_eq!(first, SWITCHED);
    let before = refused(&deployment, "pre_hello").await;
    assert!(is_closed(&mut connect_from(somebody(9), direct).await).await, "whatever they might say");
    assert_eq!(refused(&deployment, "pre_hello").await, before + 1);
    let (other, _) = upgraded(&deployment, somebody(10), direct, "X-Forwarded-For: 127.0.1.9\r\n").await;
    assert_eq!(other, SWITCHED);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_proxy_header_are_counted_separately() {
    let deployment = deployment_behind("gateway-proxy.toml", Some("127.0.0.1:8444"), &ONE).await;
    let upstream = ("127.0.0.1:8444", listener(&deployment, "gateway-proxy"));
    let proxies = [
        Proxy::nginx(&deployment, "nginx-stream.conf", upstream, &[]).await,
        Proxy::haproxy(&deployment, "haproxy-tcp.cfg", upstream).await,
    ];
    for (proxy, host) in proxies.iter().zip([20, 30]) {
        let before = refused(&deployment, "pre_hello").await;
        let mut first = secure(&deployment, connect_from(somebody(host), proxy.address).await).await.unwrap();
        assert!(is_closed(&mut connect_from(somebody(host), proxy.address).await).await);
        assert_eq!(refused(&deployment, "pre_hello").await, before + 1);
        let mut other = secure(&deployment, connect_from(somebody(host + 1), proxy.address).await).await.unwrap();
        for socket in [&mut first, &mut other] {
            let forged = format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n{UPGRADE}X-Forwarded-For: 127.0.1.{host}\r\n\r\n");
            socket.write_all(forged.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_http2_connection_survives_the_refusal_of_a_client() {
    let deployment = deployment_behind("gateway-cdn.toml", None, &[ONE[0], ("BEHIND__MAX_UNNAMED", "1")]).await;
    let direct = listener(&deployment, "gateway");
    let _held = connect_from(somebody(2), direct).await;
    let proxy = Peer::dial(&deployment).await;
    let asks = |client: &'static str| {
        let offer =
            [("sec-websocket-version", "13"), ("sec-websocket-protocol", "httvps.v2"), ("x-forwarded-for", client)];
        websocket("websocket", &offer)
    };
    let before = refused(&deployment, "pre_hello").await;
    let second = proxy.ask(asks("127.0.1.2"), b"").await.unwrap_err();
    assert_eq!(second.reason(), Some(h2::Reason::REFUSED_STREAM), "that client has a place elsewhere");
    assert_eq!(refused(&deployment, "pre_hello").await, before + 1);
    assert!(is_closed(&mut connect_from(PROXY, direct).await).await, "the proxy's own place is still taken");
    let _tunnel = proxy.channel(asks("127.0.1.3"), Some("httvps.v2")).await;
    eventually(|| async { if deployment.tunnels_by("h2ws").await == 1 { Ok(()) } else { Err("no tunnel".into()) } })
        .await;
    assert_eq!(refused(&deployment, "pre_hello").await, before + 2, "the other client takes it over");
    drop(secure(&deployment, connect_from(PROXY, direct).await).await.unwrap());
}
