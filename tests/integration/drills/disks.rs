//! Full disks under the gateway's journal and under SQLite.

use std::time::Instant;

use serde_json::json;

use super::scale;
use super::site::{Site, seconds};
use crate::support::control::ADMIN_KEY;
use crate::support::database::Kind;
use crate::support::small_disk::Disk;
use crate::support::wait::eventually;

const MIB: u32 = 16;

/// Writes until something is refused: a file that has free pages takes more for a while.
async fn grows_no_more(site: &Site) {
    let url = format!("{}/api/v1/admin/plans", site.world.control.url);
    eventually(|| async {
        let plan = json!({ "name": uuid::Uuid::now_v7().to_string().repeat(2) });
        let answer = site.world.control.http.post(&url).bearer_auth(ADMIN_KEY).json(&plan).send().await.unwrap();
        if answer.status() == 503 { Ok(()) } else { Err(format!("still {}", answer.status())) }
    })
    .await;
}

/// Fills a disk under load and frees it again; nobody is to notice.
async fn filled(site: Site, disk: Disk, role: &str) {
    let mut crowd = site.crowd().await;
    disk.fill();
    let full = Instant::now();
    let served = crowd.served_since(full).await;
    if role == "control" {
        grows_no_more(&site).await;
    }
    let reason = site.ready_is(role, false).await;
    assert!(reason.contains("full") || reason.contains("No space"), "{reason}");
    tokio::time::sleep(scale().phase * 2).await;
    crowd.served_since(Instant::now()).await;
    disk.free();
    site.ready_is(role, true).await;
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    let tally = crowd.leave().await;
    assert_eq!(tally.failures, 0, "{tally:?}");
    site.exact().await;
    site.ends_clean(&format!("served meanwhile within {}, slowest {}", seconds(served), seconds(tally.slowest))).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_disk_is_full() {
    let mut site = Site::build("gateway's disk full", Kind::Postgres, &[]).await;
    site.world.gateway.take().unwrap().stop().await;
    let Some(disk) = Disk::over(site.world.state.path(), MIB) else {
        return println!("drill gateway's disk full: left out, only root may mount");
    };
    site.world.start_gateway().await;
    filled(site, disk, "gateway").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_disk_is_full() {
    let mut site = Site::build("SQLite's disk full", Kind::Sqlite, &[]).await;
    site.world.control.kill().await;
    let Some(disk) = Disk::over(site.world.control.folder.path(), MIB) else {
        return println!("drill SQLite's disk full: left out, only root may mount");
    };
    site.world.control.resume().await;
    filled(site, disk, "control").await;
}
