//! Memory for buffered bytes: one customer cannot exhaust it for others, and it is released.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{StreamCode, Target};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::in_process::{InProcessTunnel, TunnelDialer, fetch, send};
use crate::support::node::CHACHA;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// Uploads to a destination that reads nothing, until the stream ends.
async fn stuff(session: Arc<InProcessTunnel>, stalled: SocketAddr) -> StreamCode {
    let stream = session.tunnel.open(&Target::Ip(stalled), Bytes::new()).unwrap();
    loop {
        if let Err(code) = send(&stream, &[0; 64 * 1024]).await {
            return code;
        }
    }
}

async fn uploads(
    dialer: &TunnelDialer,
    stalled: &Destination,
    sessions: usize,
    each: usize,
) -> Vec<JoinHandle<StreamCode>> {
    let mut uploads = Vec::new();
    for _ in 0..sessions {
        let session = Arc::new(dialer.enter().await.unwrap());
        uploads.extend((0..each).map(|_| tokio::spawn(stuff(Arc::clone(&session), stalled.address))));
    }
    uploads
}

async fn waits(deployment: &Deployment, wanted: impl Fn(u64) -> bool) {
    eventually(|| async {
        let waiting = deployment.metric("httvps_waiting_bytes").await;
        if wanted(waiting) { Ok(()) } else { Err(format!("{waiting} bytes wait")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_with_stalled_destinations_does_not_block_others() {
    let more = [
        ("MUX__PROCESS_POOL", "1 MiB"),
        ("MUX__ACCOUNT_POOL", "512 KiB"),
        ("MUX__STALL_AFTER", "1s"),
        ("MUX__WINDOW", "64 KiB"),
    ];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let stalled = Destination::start(Behavior::Stalled);
    let source = Destination::start(Behavior::Source);
    let newcomer = Subscriber::create(&deployment.control, json!({})).await;
    let (greedy, newcomer) =
        (TunnelDialer::of(&deployment, &deployment.subscriber), TunnelDialer::of(&deployment, &newcomer));
    let uploads = uploads(&greedy, &stalled, 3, 6).await;
    waits(&deployment, |waiting| waiting >= 512 * 1024).await;
    let began = Instant::now();
    let session = eventually(|| newcomer.enter()).await;
    eventually(|| async {
        let fetched = fetch(&session.tunnel, source.address, 100_000).await;
        if fetched == (100_000, Ok(())) { Ok(()) } else { Err(format!("{fetched:?}")) }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(15), "served after {:?}", began.elapsed());
    waits(&deployment, |waiting| waiting <= 512 * 1024 * 7 / 8).await;
    let mut ended = Vec::new();
    for upload in uploads {
        if upload.is_finished() {
            ended.push(upload.await.unwrap());
        } else {
            upload.abort();
        }
    }
    assert!(!ended.is_empty() && ended.iter().all(|code| *code == StreamCode::Limit), "{ended:?}");
}
