//! What an outage of the control plane is prepared with.

use serde_json::{Value, json};

use crate::support::deployment::World;
use crate::support::destination::Destination;
use crate::support::raw_session::{enter, is_ok, open, read};
use crate::support::settling::settles;

pub(crate) const PATIENT: (&str, &str) = ("GATEWAY__CONTROL_PATIENCE", "250ms");

pub(crate) fn plan() -> Value {
    json!({ "traffic_limit_gb": 10, "fail_open_mb": 5 })
}

/// The subscriber's device is let in, moves something and leaves.
pub(crate) async fn become_known(world: &World, source: &Destination) {
    let (mut raw, answer) = enter(world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    open(&mut raw, 1, source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1000, None));
    drop(raw);
    settles(world).await;
}
