//! Bytes arrive exactly and are accounted for exactly.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::exact_transfer::exact_by;
use crate::support::node::{AEAD_2022, AES, CHACHA, Software};
use crate::support::socks;

async fn exact(kind: Kind, software: Software, encoding: &str) {
    exact_by(kind, software, "ws", encoding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_through_libev_chacha20_on_postgres() {
    exact(Kind::Postgres, CHACHA, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_through_libev_aes_on_sqlite() {
    exact(Kind::Sqlite, AES, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_through_libev_chacha20_on_sqlite() {
    exact(Kind::Sqlite, CHACHA, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_v1_through_libev_aes_on_postgres() {
    exact(Kind::Postgres, AES, "v1-plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_through_aead_2022_on_postgres() {
    exact(Kind::Postgres, AEAD_2022, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_through_aead_2022_on_sqlite() {
    exact(Kind::Sqlite, AEAD_2022, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stream_ends_on_the_other_side() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let endless = Destination::start(Behavior::Endless);
    let rude = Destination::start(Behavior::Rude);
    for encoding in ["v1", "v2", "v1-plain"] {
        let client = deployment.connect(encoding).await;
        let proxy = client.line("socks");
        for aborts in [true, false] {
            let mut download = socks::connect(proxy, endless.address).await.unwrap();
            download.read_exact(&mut [0; 100_000]).await.unwrap();
            if aborts {
                download.set_zero_linger().unwrap();
            }
            drop(download);
        }
        let mut upload = socks::connect(proxy, rude.address).await.unwrap();
        let ended = async {
            let bytes = vec![1; 64 * 1024];
            while upload.write_all(&bytes).await.is_ok() {}
        };
        tokio::time::timeout(crate::support::wait::TIMEOUT, ended).await.expect("the program is told");
        deployment.metric_is("httvps_streams", 0).await;
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connect_resolves_names_at_the_far_end() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    let port = greeter.address.port();
    let mut socket = tokio::net::TcpStream::connect(client.line("http")).await.unwrap();
    let request = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(GREETING) {
        assert_ne!(socket.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
    }
    assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let mut by_name = socks::connect_name(client.line("socks"), "localhost", port).await.unwrap();
    let mut greeting = vec![0; GREETING.len()];
    by_name.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
}
