//! SIGKILL and SIGSTOP for each process in turn.

use std::time::{Duration, Instant};

use serde_json::json;

use super::deployment::{DrillDeployment, seconds};
use super::scale;
use crate::support::control::Control;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::postgres::Cluster;

/// What a killed gateway may lose: two flush intervals of 100 ms at full speed.
const LOST_AT_MOST: u64 = 500_000_000;
/// Three times what the documents promise for a node that comes back.
const AT_MOST: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_killed() {
    let mut drill = DrillDeployment::build("gateway killed", Kind::Postgres, &[]).await;
    let mut crowd = drill.crowd().await;
    drill.deployment.gateway.take().unwrap().kill().await;
    let killed = Instant::now();
    drill.deployment.start_gateway().await;
    let back = killed.elapsed();
    let served = crowd.served_since(killed).await;
    assert_eq!(crowd.lost(), scale().idle, "tunnels end with their gateway");
    let tally = crowd.leave().await;
    assert_eq!(tally.cut_short, 0, "{tally:?}");
    let mark = drill.between(&tally, LOST_AT_MOST).await;
    drill.crowd().await.leave().await;
    drill.exact_since(mark).await;
    drill.ends_clean(&format!("ready after {}, all served after {}", seconds(back), seconds(served))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed() {
    let mut drill = DrillDeployment::build("control plane killed", Kind::Postgres, &[]).await;
    let mut crowd = drill.crowd().await;
    drill.deployment.control.kill().await;
    let killed = Instant::now();
    let served = crowd.served_since(killed).await;
    tokio::time::sleep(scale().phase).await;
    let newcomers = super::load::tunnels(&drill.dialer(), 2).await;
    drill.deployment.control.resume().await;
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    drop(newcomers);
    drill.ends_without_failure(crowd, served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_killed() {
    let cluster = Cluster::start();
    let control = Control::start_on(&cluster.url(), tempfile::tempdir().unwrap(), &[]).await;
    let deployment = Deployment::around(control, &[CHACHA], json!({}), &[]).await;
    let source = Destination::start(Behavior::Source);
    let drill = DrillDeployment::of("database killed", Kind::Postgres, deployment, source).await;
    let mut crowd = drill.crowd().await;
    cluster.crash();
    let killed = Instant::now();
    let served = crowd.served_since(killed).await;
    tokio::time::sleep(scale().phase * 2).await;
    cluster.resume();
    let back = Instant::now();
    drill.ready_is("control", true).await;
    let used = back.elapsed();
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    let tally = crowd.leave().await;
    assert_eq!(tally.failures, 0, "{tally:?}");
    drill.exact().await;
    let (served, used, slowest) = (seconds(served), seconds(used), seconds(tally.slowest));
    drill
        .ends_clean(&format!("served meanwhile within {served}, slowest {slowest}; used {used} after it was back"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_killed() {
    let mut drill = DrillDeployment::build("node killed", Kind::Postgres, &[]).await;
    let mut crowd = drill.crowd().await;
    drill.deployment.nodes[0].kill().await;
    tokio::time::sleep(scale().phase).await;
    drill.deployment.nodes[0].resume().await;
    let back = Instant::now();
    let served = crowd.served_since(back).await;
    assert_eq!(crowd.lost(), 0, "tunnels outlive their node");
    let tally = crowd.leave().await;
    assert_eq!(tally.cut_short, 0, "{tally:?}");
    let newcomers = super::load::tunnels(&drill.dialer(), 1).await;
    let admitted = back.elapsed();
    assert!(admitted < AT_MOST, "{admitted:?}");
    drop(newcomers);
    let mark = drill.between(&tally, 0).await;
    drill.crowd().await.leave().await;
    drill.exact_since(mark).await;
    let (served, admitted) = (seconds(served), seconds(admitted));
    drill.ends_clean(&format!("all served {served}, newcomers let in {admitted} after it was back")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_hangs() {
    let drill = DrillDeployment::build("control plane hangs", Kind::Postgres, &[]).await;
    let mut crowd = drill.crowd().await;
    let control = drill.deployment.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let stopped = Instant::now();
    let served = crowd.served_since(stopped).await;
    tokio::time::sleep(scale().phase * 2).await;
    control.signal("-CONT");
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    drill.ends_without_failure(crowd, served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_hangs() {
    let drill = DrillDeployment::build("node hangs", Kind::Postgres, &[]).await;
    let mut crowd = drill.crowd().await;
    drill.deployment.nodes[0].signal("-STOP");
    tokio::time::sleep(scale().phase * 2).await;
    drill.deployment.nodes[0].signal("-CONT");
    let back = Instant::now();
    let served = crowd.served_since(back).await;
    assert_eq!(crowd.lost(), 0, "tunnels outlive their node");
    let tally = crowd.leave().await;
    assert_eq!(tally.cut_short, 0, "{tally:?}");
    let mark = drill.between(&tally, 0).await;
    drill.crowd().await.leave().await;
    drill.exact_since(mark).await;
    drill.ends_clean(&format!("all served {} after it went on", seconds(served))).await;
}
