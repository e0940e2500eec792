use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{DuplexStream, ReadBuf};

use super::*;
use crate::frame::{Encoding, HelloOk, Padding, Target};
use crate::mux::tests::{hello, limits};
use crate::mux::{Event, Limits, Role};
use crate::net::tunnel::{Driver, Framing, Transport, Tunnel};
use crate::net::websocket::Side;

const PIECE: usize = 30_000;
const PIECES: usize = 5;
const YIELDS: usize = 1_000;

fn end(role: Role, side: Side, socket: DuplexStream) -> Tunnel {
    let tunnel = Tunnel::new(role, Encoding::V1, Arc::new(Limits { v1_buffer: 1 << 20, ..limits() }));
    let transport = Transport {
        framing: Framing::WebSocket(side),
        encoding: Encoding::V1,
        message_max: 4 * CHUNK,
        hello_max: CHUNK,
        fragments_max: 1,
        close_timeout: Duration::from_secs(1),
    };
    tokio::spawn(Driver::new(socket, Bytes::new(), tunnel.clone(), transport).run());
    tunnel
}

/// A stream as both ends of a session have it.
async fn streams() -> (TunnelStream, TunnelStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (client, gateway) = (end(Role::Client, Side::Client, near), end(Role::Gateway, Side::Server, far));
    client.hello(hello(), &Padding::default());
    assert!(matches!(gateway.next_event().await, Some(Event::Hello(_))));
    gateway.accept(HelloOk::default());
    assert!(matches!(client.next_event().await, Some(Event::Accepted(_))));
    let stream = client.open(&Target::Name("example.com".into(), 443), Bytes::new()).unwrap();
    let Some(Event::Opened { key, .. }) = gateway.next_event().await else { panic!("nothing was opened") };
    (stream, gateway.stream(key))
}

/// Lets nothing move while it is shut.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    passed: AtomicUsize,
}

impl Meter for Gate {
    fn hold(&self) -> Option<Instant> {
        self.shut.load(Ordering::Relaxed).then(|| Instant::now() + Duration::from_millis(1))
    }

    fn sent(&self, bytes: usize) -> Option<Instant> {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        None
    }

    fn received(&self, _: usize) -> Option<Instant> {
        None
    }

    fn chunk_limit(&self) -> usize {
        CHUNK
    }
}

/// Takes everything and notes how much it had before a flush.
struct Sink {
    unflushed: usize,
    most: Arc<AtomicUsize>,
}

impl AsyncRead for Sink {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unflushed += bytes.len();
        self.most.fetch_max(self.unflushed, Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl ResetOnClose for Sink {
    fn reset_on_close(&self, _: bool) {}
}

async fn send(stream: &TunnelStream) {
    while poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap() < PIECE {
        tokio::task::yield_now().await;
    }
    stream.send(Payload::from(&[7u8; PIECE][..]));
}

#[tokio::test]
async fn an_upload_has_a_chunk_in_flight_at_most() {
    let (client, gateway) = streams().await;
    let (gate, most) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (meter, socket) = (Arc::clone(&gate), Sink { unflushed: 0, most: Arc::clone(&most) });
    let timeouts = Timeouts { idle: Duration::from_secs(30), half_open: Duration::ZERO, linger: Duration::ZERO };
    tokio::spawn(async move { Relay::new(gateway, socket, &*meter, timeouts).run().await });
    let mut sent = 0;
    for shut in [true, false] {
        gate.shut.store(shut, Ordering::Relaxed);
        for _ in 0..PIECES {
            send(&client).await;
            sent += PIECE;
        }
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }
    while gate.passed.load(Ordering::Relaxed) < sent {
        tokio::task::yield_now().await;
    }
    let most = most.load(Ordering::Relaxed);
    assert!(most <= CHUNK, "{most}");
}
