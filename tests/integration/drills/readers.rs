//! Destinations that read nothing: memory for their data is bounded and released.

use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::Target;
use serde_json::json;

use super::deployment::{DrillDeployment, seconds};
use super::scale;
use crate::support::database::Kind;
use crate::support::destination::{Behavior, Destination};
use crate::support::in_process::{InProcessTunnel, TunnelDialer, send};
use crate::support::procfs;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

const SESSIONS_OF_A_USER: usize = 10;
const STREAMS: usize = 2;
const BACK_TO_KIB: u64 = 100 * 1024;
const PATIENT: [(&str, &str); 1] = [("MUX__STALL_AFTER", "1h")];

async fn stuff(session: InProcessTunnel, stalled: &Destination) {
    let uploads = (0..STREAMS).map(|_| async {
        let stream = session.tunnel.open(&Target::Ip(stalled.address), Bytes::new()).unwrap();
        while send(&stream, &[0; 64 * 1024]).await.is_ok() {}
    });
    futures_util::future::join_all(uploads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_from_slow_readers() {
    let drill = DrillDeployment::build("slow readers", Kind::Sqlite, &PATIENT).await;
    let pid = drill.deployment.gateway().pid();
    let stalled = Destination::start(Behavior::Stalled);
    let mut subscriber = drill.deployment.subscriber.clone();
    let mut entered = Vec::new();
    for at in 0..scale().stalled {
        if at % SESSIONS_OF_A_USER == 0 {
            subscriber = Subscriber::create(&drill.deployment.control, json!({})).await;
        }
        entered.push(TunnelDialer::of(&drill.deployment, &subscriber).enter().await.unwrap());
    }
    let uploads = async {
        futures_util::future::join_all(entered.into_iter().map(|session| stuff(session, &stalled))).await;
    };
    let each = 256 * 1024 * scale().stalled as u64;
    let full = async {
        eventually(|| async {
            let waiting = drill.deployment.metric("httvps_waiting_bytes").await;
            if waiting >= each { Ok(()) } else { Err(format!("{waiting} bytes wait")) }
        })
        .await;
        procfs::resident_kib(pid)
    };
    let most = tokio::select! {
        () = uploads => panic!("destinations that take nothing took all"),
        most = full => most,
    };
    let gone = Instant::now();
    eventually(|| async {
        let now = procfs::resident_kib(pid);
        if now < BACK_TO_KIB { Ok(()) } else { Err(format!("{now} KiB")) }
    })
    .await;
    let took = gone.elapsed();
    assert!(took < Duration::from_mins(1), "{took:?}");
    drill.ends_clean(&format!("{} MiB, under 100 again after {}", most / 1024, seconds(took))).await;
}
