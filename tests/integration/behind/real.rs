use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::proxy::{Proxy, cdn, deployment_behind, file};
use super::{connect_from, listener, refused, secure, somebody};
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, pattern_bytes, sum};
use crate::support::environment::free_port;
use crate::support::node::AEAD_2022;
use crate::support::process::Process;
use crate::support::raw::{self, UPGRADE};
use crate::support::socks;

const LEN: usize = 5_000_000;

/// Checks transfers in both directions, a checksum of an upload, and that exactly this is billed.
async fn carries(deployment: &Deployment, url: &str) {
    carries_by(deployment, url, "ws").await;
}

async fn carries_by(deployment: &Deployment, url: &str, transport: &str) {
    let (up, down) = deployment.totals().await;
    let mut env = deployment.client_env_of(url, "v2");
    env.extend(crate::support::environment::env(&[("CLIENT__TRANSPORT", transport)]));
    let client = Process::start(&["connect"], &env).await;
    let [echo, sink] = [Behavior::Echo, Behavior::Sink].map(Destination::start);
    let (mut read, mut write) = socks::connect(client.line("socks"), echo.address).await.unwrap().into_split();
    let sent = Arc::new(pattern_bytes(LEN));
    let expected = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = vec![0; LEN];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == *expected);
    let mut upload = socks::connect(client.line("socks"), sink.address).await.unwrap();
    upload.write_all(&expected).await.unwrap();
    upload.shutdown().await.unwrap();
    let mut answer = Vec::new();
    upload.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, sum(&expected, 0).to_be_bytes());
    drop((writer.await.unwrap(), read));
    deployment.totals_are(up + echo.got() + sink.got(), down + echo.gave() + sink.gave()).await;
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_forwards_tls_with_a_proxy_header() {
    let deployment = deployment_behind("gateway-proxy.toml", Some("127.0.0.1:8444"), &[]).await;
    let upstream = ("127.0.0.1:8444", listener(&deployment, "gateway-proxy"));
    let proxy = Proxy::nginx(&deployment, "nginx-stream.conf", upstream, &[]).await;
    carries(&deployment, &proxy.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_terminates_tls_and_forwards_upgrades() {
    let deployment = deployment_behind("gateway-clear.toml", Some("127.0.0.1:8445"), &[]).await;
    let upstream = ("127.0.0.1:8445", listener(&deployment, "gateway-clear"));
    let proxy = Proxy::nginx(&deployment, "nginx-http.conf", upstream, &[]).await;
    carries(&deployment, &proxy.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_forwards_tls_with_a_binary_proxy_header() {
    let deployment = deployment_behind("gateway-proxy.toml", Some("127.0.0.1:8444"), &[]).await;
    let upstream = ("127.0.0.1:8444", listener(&deployment, "gateway-proxy"));
    let proxy = Proxy::haproxy(&deployment, "haproxy-tcp.cfg", upstream).await;
    carries(&deployment, &proxy.url()).await;
    assert_eq!(refused(&deployment, "proxy_header").await, 0, "its health checks have a header, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_terminates_tls_and_forwards_upgrades() {
    let deployment = deployment_behind("gateway-clear.toml", Some("127.0.0.1:8445"), &[]).await;
    let upstream = ("127.0.0.1:8445", listener(&deployment, "gateway-clear"));
    let proxy = Proxy::haproxy(&deployment, "haproxy-http.cfg", upstream).await;
    carries(&deployment, &proxy.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_terminates_tls_and_speaks_clear_text_http2() {
    let none = [("GATEWAY__LISTEN", ""), ("TLS__CERT", ""), ("TLS__KEY", "")];
    let deployment = deployment_behind("gateway-clear.toml", Some("127.0.0.1:8445"), &none).await;
    let upstream = ("127.0.0.1:8445", listener(&deployment, "gateway-clear"));
    let proxy = Proxy::haproxy(&deployment, "haproxy-h2c.cfg", upstream).await;
    for transport in ["h2", "h2ws", "ws"] {
        carries_by(&deployment, &proxy.url(), transport).await;
    }
    let by =
        (deployment.tunnels_by("h2").await, deployment.tunnels_by("h2ws").await, deployment.tunnels_by("ws").await);
    assert_eq!(by, (1, 2, 0), "HAProxy turns an upgrade into an extended CONNECT");
}

/// A web server whose connections become echoes if they ask for another protocol.
async fn switching_site() -> (String, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                if !head.contains("upgrade: websocket") || !head.contains("connection: upgrade") {
                    return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
                }
                let answer =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
                socket.write_all(answer).await?;
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.map(drop)
            });
        }
    });
    (address, task.abort_handle())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sites_own_websockets_pass_behind_nginx() {
    let (upstream, _site) = switching_site().await;
    let more = [("DECOY__UPSTREAM", upstream.as_str()), ("TUNNEL__HANDSHAKE_TIMEOUT", "2s")];
    let deployment = deployment_behind("gateway-clear.toml", Some("127.0.0.1:8445"), &more).await;
    let front = ("127.0.0.1:8445", listener(&deployment, "gateway-clear"));
    let proxy = Proxy::nginx(&deployment, "nginx-http.conf", front, &[]).await;
    let ask = async |path: &str, more: &str| {
        let mut socket = secure(&deployment, connect_from(somebody(2), proxy.address).await).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
        let head = raw::request(&mut socket, &request).await;
        (head.lines().next().unwrap().to_owned(), socket)
    };
    assert_eq!(ask("/", "").await.0, "HTTP/1.1 404 Not Found");
    let (status, socket) = ask("/chat", UPGRADE).await;
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    let (mut read, mut write) = tokio::io::split(socket);
    let mut hello = [0; 5];
    read.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let sent = pattern_bytes(LEN);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    let mut got = vec![0; LEN];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == expected, "and no time-out of the handshake ends it");
    drop(writer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdn_connects_by_tls_and_names_the_client_in_a_header() {
    let deployment = deployment_behind("gateway-cdn.toml", None, &[]).await;
    let proxy = cdn(&deployment).await;
    carries(&deployment, &proxy.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_listens_on_several_addresses() {
    let port = free_port();
    let listen = format!("0.0.0.0:{port}, [::]:{port}");
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[("GATEWAY__LISTEN", &listen)]).await;
    for host in ["127.0.0.1", "[::1]"] {
        carries(&deployment, &format!("wss://{host}:{port}{}", crate::support::deployment::PATH)).await;
    }
    for host in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        assert!(std::net::TcpListener::bind(address).is_err(), "both are bound");
    }
}

#[test]
fn the_documentation_shows_the_tested_files() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/06-behind-proxies.md")).unwrap();
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/behind")).unwrap();
    for entry in folder {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&format!("`deploy/behind/{name}`")), "{name} is named");
        assert!(page.contains(&format!("\n{}```\n", file(&name))), "{name} is shown as it is");
    }
}
