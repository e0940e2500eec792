//! A crowd of tunnels without any failure.

use super::deployment::DrillDeployment;
use super::scale;
use crate::support::database::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_without_a_drop() {
    let drill = DrillDeployment::build("crowd", Kind::Postgres, &[]).await;
    let crowd = drill.crowd().await;
    tokio::time::sleep(scale().phase * 4).await;
    assert_eq!(crowd.lost(), 0, "idle tunnels");
    let tally = crowd.leave().await;
    assert_eq!(tally.failures, 0, "{tally:?}");
    drill.deployment.metric_is("httvps_streams", 0).await;
    drill.exact().await;
    drill.ends_clean(&format!("{} transfers, slowest {:?}", tally.transfers, tally.slowest)).await;
}
