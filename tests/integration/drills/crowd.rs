//! Tunnels under way that nothing happens to.

use super::scale;
use super::site::Site;
use crate::support::database::Kind;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_without_a_drop() {
    let site = Site::build("crowd", Kind::Postgres, &[]).await;
    let crowd = site.crowd().await;
    tokio::time::sleep(scale().phase * 4).await;
    assert_eq!(crowd.lost(), 0, "idle tunnels");
    let tally = crowd.leave().await;
    assert_eq!(tally.failures, 0, "{tally:?}");
    eventually(|| async {
        match site.world.metric("httvps_streams").await {
            0 => Ok(()),
            open => Err(format!("{open} streams")),
        }
    })
    .await;
    site.exact().await;
    site.ends_clean(&format!("{} transfers, slowest {:?}", tally.transfers, tally.slowest)).await;
}
