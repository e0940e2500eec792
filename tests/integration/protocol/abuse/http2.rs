//! Floods of HTTP/2, by strangers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attack::{DEADLINE, End, FLOOD_ENDS, Scene, flooded, read_to_end, world};
use crate::support::deployment::World;
use crate::support::http2_frames::{HEADERS, PREFACE, SETTINGS, WHOLE, asks, begun, frame};

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// Streams of a flood that opens them: more than a gateway may take.
const STREAMS: u32 = 60_000;

async fn connect(world: &World) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(world.gateway().line("gateway").strip_prefix("wss://").unwrap()).await.unwrap();
    let mut tls = (*httvps::net::tls::client(Some(&std::fs::read(world.ca()).unwrap())).unwrap()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
}

fn opened(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, &asks("POST", "/", &[]))
}

/// What is sent once, and what follows it without end.
fn floods() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let each = |frames: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..STREAMS).flat_map(|number| frames(number * 2 + 1)).collect()
    };
    let rapid = each(&|stream| [opened(stream, WHOLE), frame(RST_STREAM, 0, stream, &CANCEL)].concat());
    let made = each(&|stream| [opened(stream, END_HEADERS), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat());
    let open = begun(&[opened(1, END_HEADERS)]);
    vec![
        ("rapid resets", begun(&[]), rapid),
        ("resets that the server is made to send", begun(&[]), made),
        (
            "CONTINUATION",
            begun(&[frame(HEADERS, 0, 1, &asks("GET", "/", &[]))]),
            frame(CONTINUATION, 0, 1, b"").repeat(1000),
        ),
        ("long CONTINUATION", begun(&[frame(HEADERS, 0, 1, &asks("GET", "/", &[]))]), {
            let mut value = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
            value.resize(16_000, b'y');
            frame(CONTINUATION, 0, 1, &value).repeat(10)
        }),
        ("SETTINGS", begun(&[]), frame(SETTINGS, 0, 0, &[]).repeat(1000)),
        ("PING", begun(&[]), frame(PING, 0, 0, b"12345678").repeat(1000)),
        ("PRIORITY", begun(&[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]).repeat(1000)),
        ("unknown frames", begun(&[]), frame(77, 0, 0, b"x").repeat(1000)),
        ("empty DATA", open.clone(), frame(DATA, 0, 1, b"").repeat(1000)),
        ("WINDOW_UPDATE", open, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(1000)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2() {
    let world = world().await;
    let scene = Scene::begin(&world).await;
    for (name, first, bytes) in floods() {
        let attackers = (0..3).map(|_| async {
            let mut socket = connect(&world).await;
            socket.write_all(&first).await.unwrap();
            flooded(socket, &bytes).await
        });
        for (took, end) in join_all(attackers).await {
            assert!(took < FLOOD_ENDS, "{name}: {took:?}");
            assert!(matches!(end, End::Finished | End::Reset), "{name}: {end:?}");
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_fields_costs_no_memory() {
    let world = world().await;
    let scene = Scene::begin(&world).await;
    let bombs = (0..20).map(|_| async {
        let mut socket = connect(&world).await;
        let mut fields = asks("GET", "/", &[]);
        fields.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        fields.extend([b'y'; 4000]);
        fields.extend([0xbe; 12_000]);
        socket.write_all(&begun(&[frame(HEADERS, WHOLE, 1, &fields)])).await.unwrap();
        read_to_end(&mut socket, 3 * DEADLINE).await
    });
    let ends = join_all(bombs).await;
    assert!(ends.iter().all(|end| matches!(end, End::Finished | End::Reset)), "{ends:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_http2_and_does_not_go_on_is_ended_at_the_deadline() {
    let world = world().await;
    let scene = Scene::begin(&world).await;
    let begun = begun(&[frame(HEADERS, 0, 1, &asks("GET", "/", &[]))]);
    for slow in [&PREFACE[..0], &PREFACE[..11], PREFACE, &begun] {
        let mut socket = connect(&world).await;
        let started = Instant::now();
        socket.write_all(slow).await.unwrap();
        let end = read_to_end(&mut socket, 5 * DEADLINE).await;
        assert!(matches!(end, End::Finished | End::Reset), "{slow:?}: {end:?}");
        assert!(started.elapsed() > Duration::from_secs(1), "{slow:?}");
    }
    let mut drip = connect(&world).await;
    let started = Instant::now();
    for byte in begun.iter().chain(frame(CONTINUATION, 0, 1, &[0; 250]).iter()) {
        if drip.write_all(&[*byte]).await.is_err() || drip.flush().await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() < 8 * DEADLINE, "a byte now and then does not help");
    scene.end().await;
}
