//! Memory for bytes that wait: one customer does not use up what others need, and it comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{StreamCode, Target};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::in_process::{Entrance, InProcess, fetch, send};
use crate::support::node::CHACHA;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// Uploads to a destination that takes nothing, until the stream ends.
async fn stuff(session: Arc<InProcess>, stalled: SocketAddr) -> StreamCode {
    let stream = session.tunnel.open(&Target::Ip(stalled), Bytes::new()).unwrap();
    loop {
        if let Err(code) = send(&stream, &[0; 64 * 1024]).await {
            return code;
        }
    }
}

async fn uploads(
    entrance: &Entrance,
    stalled: &Destination,
    sessions: usize,
    each: usize,
) -> Vec<JoinHandle<StreamCode>> {
    let mut uploads = Vec::new();
    for _ in 0..sessions {
        let session = Arc::new(entrance.enter().await.unwrap());
        uploads.extend((0..each).map(|_| tokio::spawn(stuff(Arc::clone(&session), stalled.address))));
    }
    uploads
}

async fn waits(world: &World, wanted: impl Fn(u64) -> bool) {
    eventually(|| async {
        let waiting = world.metric("httvps_waiting_bytes").await;
        if wanted(waiting) { Ok(()) } else { Err(format!("{waiting} bytes wait")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_whose_destinations_take_nothing_is_in_nobodys_way() {
    let more = [
        ("MUX__PROCESS_POOL", "1 MiB"),
        ("MUX__ACCOUNT_POOL", "512 KiB"),
        ("MUX__STALL_AFTER", "1s"),
        ("MUX__WINDOW", "64 KiB"),
    ];
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let stalled = Destination::start(Manner::Stalled);
    let source = Destination::start(Manner::Source);
    let newcomer = Subscriber::create(&world.control, json!({})).await;
    let (greedy, newcomer) = (Entrance::of(&world, &world.subscriber), Entrance::of(&world, &newcomer));
    let uploads = uploads(&greedy, &stalled, 3, 6).await;
    waits(&world, |waiting| waiting >= 512 * 1024).await;
    let began = Instant::now();
    let session = eventually(|| newcomer.enter()).await;
    eventually(|| async {
        let fetched = fetch(&session.tunnel, source.address, 100_000).await;
        if fetched == (100_000, Ok(())) { Ok(()) } else { Err(format!("{fetched:?}")) }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(15), "served after {:?}", began.elapsed());
    waits(&world, |waiting| waiting <= 512 * 1024 * 7 / 8).await;
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
