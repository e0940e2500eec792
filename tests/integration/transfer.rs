//! Bytes arrive exactly and are accounted for exactly.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::database::Kind;
use crate::destination::{Destination, GREETING, Manner, pattern_bytes, sum};
use crate::node::{AEAD_2022, AES, CHACHA, Software};
use crate::process::{Process, eventually};
use crate::socks;
use crate::world::World;

const SIZES: [usize; 6] = [0, 1, 16_383, 16_384, 65_536, 50_000_000];

pub(crate) async fn download(proxy: &str, source: SocketAddr, len: usize) {
    let mut socket = socks::connect(proxy, source).await.unwrap();
    socket.write_all(&(len as u64).to_be_bytes()).await.unwrap();
    let mut got = Vec::with_capacity(len);
    socket.read_to_end(&mut got).await.unwrap();
    assert!(got == pattern_bytes(len), "{} of {len} bytes", got.len());
}

/// Sends and gets it back, without needing a half close.
pub(crate) async fn echo(proxy: &str, target: SocketAddr, len: usize) {
    let (mut read, mut write) = socks::connect(proxy, target).await.unwrap().into_split();
    let sent = Arc::new(pattern_bytes(len));
    let expected = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = vec![0; len];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == *expected);
    writer.await.unwrap();
}

pub(crate) async fn upload_then_half_close(proxy: &str, sink: SocketAddr, len: usize) {
    let mut socket = socks::connect(proxy, sink).await.unwrap();
    let bytes = pattern_bytes(len);
    socket.write_all(&bytes).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, sum(&bytes, 0).to_be_bytes());
}

async fn exact(kind: Kind, software: Software, encoding: &str) {
    exact_by(kind, software, "ws", encoding).await;
}

pub(crate) async fn exact_by(kind: Kind, software: Software, transport: &str, encoding: &str) {
    let world = World::start(kind, software).await;
    let client: Process = world.connect_by(transport, encoding).await;
    let proxy = client.line("socks").to_owned();
    let [source, echoing, greeter, sink] = [
        Destination::start(Manner::Source),
        Destination::start(Manner::Echo),
        Destination::start(Manner::Greeter),
        Destination::start(Manner::Sink),
    ];
    for len in SIZES {
        download(&proxy, source.address, len).await;
        echo(&proxy, echoing.address, len).await;
    }
    let mut streams = Vec::new();
    for index in 0..200 {
        let (proxy, target) = (proxy.clone(), echoing.address);
        streams.push(tokio::spawn(async move { echo(&proxy, target, 1_000 + index * 17).await }));
    }
    for stream in streams {
        stream.await.unwrap();
    }
    let mut greeted = socks::connect(&proxy, greeter.address).await.unwrap();
    let mut greeting = vec![0; GREETING.len()];
    greeted.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
    greeted.write_all(b"EHLO").await.unwrap();
    greeted.read_exact(&mut greeting[..4]).await.unwrap();
    assert_eq!(&greeting[..4], b"EHLO");
    drop(greeted);
    if encoding == "v2" && matches!(software, Software::Crate(_)) {
        for len in SIZES {
            upload_then_half_close(&proxy, sink.address, len).await;
        }
    }
    eventually(|| async {
        match world.metric("httvps_streams").await {
            0 => Ok(()),
            open => Err(format!("{open} streams are open")),
        }
    })
    .await;
    let all = [&source, &echoing, &greeter, &sink];
    let up = all.iter().map(|destination| destination.got()).sum();
    let down = all.iter().map(|destination| destination.gave()).sum();
    world.settles_at(up, down).await;
    assert_eq!(world.metric("httvps_bytes_total{direction=\"up\"}").await, up);
    assert_eq!(world.tunnels_by(transport).await, 1);
    assert_eq!(client.stop().await.code, Some(0));
    world.settles_at(up, down).await;
    eventually(|| async {
        match &world.control.list("sessions").await[0]["state"] {
            state if state == "ended" => Ok(()),
            state => Err(state.to_string()),
        }
    })
    .await;
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
async fn what_one_side_cancels_ends_on_the_other() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let endless = Destination::start(Manner::Endless);
    let rude = Destination::start(Manner::Rude);
    for encoding in ["v1", "v2", "v1-plain"] {
        let client = world.connect(encoding).await;
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
        tokio::time::timeout(crate::process::PATIENCE, ended).await.expect("the program is told");
        eventually(|| async {
            match world.metric("httvps_streams").await {
                0 => Ok(()),
                open => Err(format!("{encoding}: {open} streams are open")),
            }
        })
        .await;
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connect_and_names_resolved_at_the_far_end() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let client = world.connect("v2").await;
    let greeter = Destination::start(Manner::Greeter);
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
