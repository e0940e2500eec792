//! Full disks under the gateway's journal and under SQLite.

use std::time::Instant;

use serde_json::json;

use super::deployment::DrillDeployment;
use super::scale;
use crate::support::control::ADMIN_KEY;
use crate::support::database::Kind;
use crate::support::environment::{TO_MOUNT, skip};
use crate::support::small_disk::Disk;
use crate::support::wait::eventually;

const MIB: u32 = 16;

/// Creates rows until one is refused: a database file with free pages accepts some more.
async fn grows_no_more(drill: &DrillDeployment) {
    let url = format!("{}/api/v1/admin/plans", drill.deployment.control.url);
    eventually(|| async {
        let plan = json!({ "name": uuid::Uuid::now_v7().to_string().repeat(2) });
        let answer = drill.deployment.control.http.post(&url).bearer_auth(ADMIN_KEY).json(&plan).send().await.unwrap();
        if answer.status() == 503 { Ok(()) } else { Err(format!("still {}", answer.status())) }
    })
    .await;
}

/// Fills a disk under load and frees it again, without anybody noticing.
async fn filled(drill: DrillDeployment, disk: Disk, role: &str) {
    let mut crowd = drill.crowd().await;
    disk.fill();
    let full = Instant::now();
    let served = crowd.served_since(full).await;
    if role == "control" {
        grows_no_more(&drill).await;
    }
    let reason = drill.ready_is(role, false).await;
    assert!(reason.contains("full") || reason.contains("No space"), "{reason}");
    tokio::time::sleep(scale().phase * 2).await;
    crowd.served_since(Instant::now()).await;
    disk.free();
    drill.ready_is(role, true).await;
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    drill.ends_without_failure(crowd, served).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_disk_is_full() {
    let mut drill = DrillDeployment::build("gateway's disk full", Kind::Postgres, &[]).await;
    drill.deployment.gateway.take().unwrap().stop().await;
    let Some(disk) = Disk::over(drill.deployment.state.path(), MIB) else {
        return skip("drill gateway's disk full", TO_MOUNT);
    };
    drill.deployment.start_gateway().await;
    filled(drill, disk, "gateway").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_disk_is_full() {
    let mut drill = DrillDeployment::build("SQLite's disk full", Kind::Sqlite, &[]).await;
    drill.deployment.control.kill().await;
    let Some(disk) = Disk::over(drill.deployment.control.folder.path(), MIB) else {
        return skip("drill SQLite's disk full", TO_MOUNT);
    };
    drill.deployment.control.resume().await;
    filled(drill, disk, "control").await;
}
