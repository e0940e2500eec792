//! Several tunnels on one connection do not block each other.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use httvps::frame::{Encoding, Frame, StreamId, Target};
use httvps::net::tunnel::Tunnel;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::AbortHandle;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, pattern_bytes, sum};
use crate::support::http2_peer::{Peer, request};
use crate::support::in_process::{fetch, receive, send};
use crate::support::node::AEAD_2022;
use crate::support::wait::{TIMEOUT, eventually};

const EACH: usize = 5_000_000;
/// More than a stream's window.
const UPLOAD: usize = 6 << 20;
const SLACK: Duration = Duration::from_secs(1);

async fn deployment() -> Deployment {
    Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 20 }), &[]).await
}

/// Transfers in both directions at once.
async fn works(tunnel: &Tunnel, source: &Destination, sink: &Destination) {
    let bytes = pattern_bytes(EACH);
    let up = async {
        let stream = tunnel.open(&Target::Ip(sink.address), Bytes::new()).unwrap();
        send(&stream, &bytes).await.unwrap();
        stream.finish();
        let mut answer = Vec::new();
        while let httvps::mux::Received::Data(bytes) = poll_fn(|cx| stream.poll_receive(cx)).await {
            stream.consumed(bytes.len());
            answer.extend_from_slice(&bytes);
        }
        assert_eq!(answer, sum(&bytes, 0).to_be_bytes());
    };
    let both = async { tokio::join!(up, fetch(tunnel, source.address, EACH as u64)).1 };
    let got = tokio::time::timeout(TIMEOUT, both).await.expect("it goes on");
    assert_eq!(got, (EACH as u64, Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_of_every_kind_alongside_requests() {
    let deployment = deployment().await;
    let peer = Peer::dial(&deployment).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(peer.plain(&deployment).await);
        tunnels.push(peer.websocket(&deployment, Encoding::V2).await);
    }
    let (source, sink) = (Destination::start(Behavior::Source), Destination::start(Behavior::Sink));
    let asking = async {
        for _ in 0..50 {
            let answer = peer.ask(request("GET", "/", &[]), b"").await.unwrap();
            assert_eq!(answer.status, 404);
        }
    };
    tokio::join!(join_all(tunnels.iter().map(|tunnel| works(tunnel, &source, &sink))), asking);
    deployment.totals_are(source.got() + sink.got(), source.gave() + sink.gave()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_reader_blocks_only_its_own_stream() {
    let deployment = deployment().await;
    let peer = Peer::dial(&deployment).await;
    let (stopped, others) = (
        peer.plain(&deployment).await,
        [peer.plain(&deployment).await, peer.websocket(&deployment, Encoding::V2).await],
    );
    let endless = Destination::start(Behavior::Endless);
    let unread: Vec<_> = (0..20).map(|_| stopped.open(&Target::Ip(endless.address), Bytes::new()).unwrap()).collect();
    let (source, sink) = (Destination::start(Behavior::Source), Destination::start(Behavior::Sink));
    join_all(others.iter().map(|tunnel| works(tunnel, &source, &sink))).await;
    works(&stopped, &source, &sink).await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_tunnel_blocks_only_itself() {
    let deployment = deployment().await;
    let peer = Peer::dial(&deployment).await;
    let endless = Destination::start(Behavior::Endless);
    let (id, target) = (StreamId(1), Some(Target::Ip(endless.address)));
    let open = Frame::Open { id, target, payload: Bytes::new(), fin: false, udp: false };
    let all = Frame::Window { id, consumed: 0, limit: u64::MAX };
    let unread = peer.unread(&deployment, &[open, all]).await;
    eventually(|| async {
        match endless.gave() {
            few @ 0..1_000_000 => Err(format!("{few} bytes")),
            _ => Ok(()),
        }
    })
    .await;
    let (source, sink) = (Destination::start(Behavior::Source), Destination::start(Behavior::Sink));
    let others = [peer.plain(&deployment).await, peer.websocket(&deployment, Encoding::V2).await];
    join_all(others.iter().map(|tunnel| works(tunnel, &source, &sink))).await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_tunnels_do_not_block_the_connection() {
    let deployment = deployment().await;
    let peer = Peer::dial(&deployment).await;
    let stalled = Destination::start(Behavior::Stalled);
    let bytes = vec![1; 64_000];
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let tunnel = peer.websocket(&deployment, Encoding::V1).await;
        let stream = tunnel.open(&Target::Ip(stalled.address), Bytes::new()).unwrap();
        let fill = async { while send(&stream, &bytes).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_secs(2), fill).await.is_err(), "the destination takes nothing");
        stuck.push((tunnel, stream));
    }
    let waiting = deployment.metric("httvps_waiting_bytes").await;
    assert!(waiting > 3 * 400_000, "all three are not read any more: {waiting}");
    let tunnel = peer.plain(&deployment).await;
    let (source, sink) = (Destination::start(Behavior::Source), Destination::start(Behavior::Sink));
    works(&tunnel, &source, &sink).await;
    drop(stuck);
    deployment.metric_is("httvps_streams", 0).await;
}

/// A web server that accepts connections and reads nothing.
fn stalled_site() -> (String, AbortHandle) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(100).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = listener.accept().await {
            held.push(connection);
        }
    });
    (address, task.abort_handle())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_the_site_does_not_read_do_not_block_tunnels() {
    let (upstream, _site) = stalled_site();
    let more = [("DECOY__UPSTREAM", upstream.as_str())];
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 20 }), &more).await;
    let peer = Peer::dial(&deployment).await;
    let tunnel = peer.plain(&deployment).await;
    let (source, sink) = (Destination::start(Behavior::Source), Destination::start(Behavior::Sink));
    works(&tunnel, &source, &sink).await;
    let began = Instant::now();
    works(&tunnel, &source, &sink).await;
    let alone = began.elapsed();
    let mut stalled = vec![peer.upload("/upload", UPLOAD).await];
    eventually(|| async { stalled[0].is_held_up() }).await;
    let began = Instant::now();
    works(&tunnel, &source, &sink).await;
    assert!(began.elapsed() < 3 * alone + SLACK, "beside one: {:?} instead of {alone:?}", began.elapsed());
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"unread\"}").await, 0, "one upload may wait");
    for _ in 0..20 {
        stalled.push(peer.upload("/upload", UPLOAD).await);
    }
    eventually(|| async {
        match deployment.metric("httvps_refused_total{reason=\"unread\"}").await {
            0 => Err("none was reset".into()),
            _ => Ok(()),
        }
    })
    .await;
    for _ in 0..3 {
        let began = Instant::now();
        works(&tunnel, &source, &sink).await;
        assert!(began.elapsed() < 3 * alone + SLACK, "beside all: {:?} instead of {alone:?}", began.elapsed());
    }
    drop(stalled);
    works(&peer.plain(&deployment).await, &source, &sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_in_each_of_four_tunnels() {
    let deployment = deployment().await;
    let peer = Peer::dial(&deployment).await;
    let tunnels = [
        peer.plain(&deployment).await,
        peer.websocket(&deployment, Encoding::V2).await,
        peer.plain(&deployment).await,
        peer.websocket(&deployment, Encoding::V2).await,
    ];
    let source = Destination::start(Behavior::Source);
    let fetches = tunnels.iter().flat_map(|tunnel| (0..100u64).map(move |at| (tunnel, 10_000 + at * 137)));
    let got =
        join_all(fetches.map(|(tunnel, len)| async move { (len, fetch(tunnel, source.address, len).await) })).await;
    for (len, (got, ended)) in got {
        assert_eq!((got, ended), (len, Ok(())));
    }
    let stream = tunnels[0].open(&Target::Ip(source.address), Bytes::copy_from_slice(&1u64.to_be_bytes())).unwrap();
    assert_eq!(receive(&stream).await.0, 1);
}
