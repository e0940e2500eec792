//! Floods of HTTP/2 by unauthenticated peers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::attack::{AttackScenario, DEADLINE, End, FLOOD_ENDS, deployment, flooded, read_to_end};
use crate::support::deployment::Deployment;
use crate::support::http2_frames::{
    END_STREAM_AND_HEADERS, HEADERS, PREFACE, SETTINGS, frame, open_connection, request_fields,
};
use crate::support::raw::dial_offering;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// More streams than a gateway may accept.
const STREAMS: u32 = 60_000;

async fn connect(deployment: &Deployment) -> TlsStream<TcpStream> {
    dial_offering(deployment.address(), &deployment.ca(), &[b"h2"]).await
}

fn opened(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, &request_fields("POST", "/", &[]))
}

/// Names of floods, what is sent first, and what is then repeated.
fn floods() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let each = |frames: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..STREAMS).flat_map(|number| frames(number * 2 + 1)).collect()
    };
    let rapid =
        each(&|stream| [opened(stream, END_STREAM_AND_HEADERS), frame(RST_STREAM, 0, stream, &CANCEL)].concat());
    let made = each(&|stream| [opened(stream, END_HEADERS), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat());
    let open = open_connection(&[opened(1, END_HEADERS)]);
    vec![
        ("rapid resets", open_connection(&[]), rapid),
        ("resets that the server is made to send", open_connection(&[]), made),
        (
            "CONTINUATION",
            open_connection(&[frame(HEADERS, 0, 1, &request_fields("GET", "/", &[]))]),
            frame(CONTINUATION, 0, 1, b"").repeat(1000),
        ),
        ("long CONTINUATION", open_connection(&[frame(HEADERS, 0, 1, &request_fields("GET", "/", &[]))]), {
            let mut value = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
            value.resize(16_000, b'y');
            frame(CONTINUATION, 0, 1, &value).repeat(10)
        }),
        ("SETTINGS", open_connection(&[]), frame(SETTINGS, 0, 0, &[]).repeat(1000)),
        ("PING", open_connection(&[]), frame(PING, 0, 0, b"12345678").repeat(1000)),
        ("PRIORITY", open_connection(&[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]).repeat(1000)),
        ("unknown frames", open_connection(&[]), frame(77, 0, 0, b"x").repeat(1000)),
        ("empty DATA", open.clone(), frame(DATA, 0, 1, b"").repeat(1000)),
        ("WINDOW_UPDATE", open, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(1000)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    for (name, first, bytes) in floods() {
        let attackers = (0..3).map(|_| async {
            let mut socket = connect(&deployment).await;
            socket.write_all(&first).await.unwrap();
            flooded(socket, &bytes).await
        });
        for (took, end) in join_all(attackers).await {
            assert!(took < FLOOD_ENDS, "{name}: {took:?}");
            assert!(matches!(end, End::Finished | End::Reset), "{name}: {end:?}");
        }
    }
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_cost_no_memory() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let bombs = (0..20).map(|_| async {
        let mut socket = connect(&deployment).await;
        let mut fields = request_fields("GET", "/", &[]);
        fields.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        fields.extend([b'y'; 4000]);
        fields.extend([0xbe; 12_000]);
        socket.write_all(&open_connection(&[frame(HEADERS, END_STREAM_AND_HEADERS, 1, &fields)])).await.unwrap();
        read_to_end(&mut socket, 3 * DEADLINE).await
    });
    let ends = join_all(bombs).await;
    assert!(ends.iter().all(|end| matches!(end, End::Finished | End::Reset)), "{ends:?}");
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_http2_connections_end_at_the_deadline() {
    let deployment = deployment().await;
    let scenario = AttackScenario::begin(&deployment).await;
    let begun = open_connection(&[frame(HEADERS, 0, 1, &request_fields("GET", "/", &[]))]);
    for slow in [&PREFACE[..0], &PREFACE[..11], PREFACE, &begun] {
        let mut socket = connect(&deployment).await;
        let started = Instant::now();
        socket.write_all(slow).await.unwrap();
        let end = read_to_end(&mut socket, 5 * DEADLINE).await;
        assert!(matches!(end, End::Finished | End::Reset), "{slow:?}: {end:?}");
        assert!(started.elapsed() > Duration::from_secs(1), "{slow:?}");
    }
    let mut drip = connect(&deployment).await;
    let started = Instant::now();
    for byte in begun.iter().chain(frame(CONTINUATION, 0, 1, &[0; 250]).iter()) {
        if drip.write_all(&[*byte]).await.is_err() || drip.flush().await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() < 8 * DEADLINE, "a byte now and then does not help");
    scenario.end().await;
}
