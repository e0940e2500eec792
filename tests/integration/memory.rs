//! Memory for bytes that wait: one customer does not use up what others need, and it comes back.

use std::time::Duration;

use httvps::frame::{StreamCode, Target};
use serde_json::json;

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::node::CHACHA;
use crate::process::eventually;
use crate::tunnels::{Entrance, InProcess, fetch, send};
use crate::world::{Subscriber, World};

const MIB: usize = 1 << 20;

/// Uploads to a destination that takes nothing, until the stream ends.
async fn stuff(session: &InProcess, stalled: &Destination) -> StreamCode {
    let stream = session.tunnel.open(&Target::Ip(stalled.address), bytes::Bytes::new()).unwrap();
    loop {
        if let Err(code) = send(&stream, &[0; 64 * 1024]).await {
            return code;
        }
    }
}

async fn waits_at_least(world: &World, bytes: u64) {
    eventually(|| async {
        let waiting = world.metric("httvps_waiting_bytes").await;
        if waiting >= bytes { Ok(()) } else { Err(format!("{waiting} bytes wait")) }
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
    let stalled = Destination::start(Manner::Stalled).await;
    let source = Destination::start(Manner::Source).await;
    let newcomer = Subscriber::create(&world.control, json!({})).await;
    let (greedy, newcomer) = (Entrance::of(&world, &world.subscriber), Entrance::of(&world, &newcomer));
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(greedy.enter().await.unwrap());
    }
    let uploads =
        futures_util::future::join_all(sessions.iter().flat_map(|session| (0..6).map(|_| stuff(session, &stalled))));
    let others = async {
        waits_at_least(&world, 512 * 1024).await;
        let began = std::time::Instant::now();
        let session = eventually(|| newcomer.enter()).await;
        assert_eq!(fetch(&session.tunnel, source.address, 100_000).await, (100_000, Ok(())));
        assert!(began.elapsed() < Duration::from_secs(15), "served after {:?}", began.elapsed());
    };
    let (ends, ()) = tokio::join!(uploads, others);
    assert!(ends.iter().all(|code| *code == StreamCode::Limit), "{ends:?}");
}
