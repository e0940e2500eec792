//! Preparations for an outage of the control plane.

use serde_json::{Value, json};

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw_session::{is_ok, open_stream, read_stream, say_hello};

pub(crate) const SHORT_CONTROL_PATIENCE: (&str, &str) = ("GATEWAY__CONTROL_PATIENCE", "250ms");

pub(crate) fn plan_with_outage_allowance() -> Value {
    json!({ "traffic_limit_gb": 10, "fail_open_mb": 5 })
}

/// Connects the subscriber's device once, so that the gateway knows it during an outage.
pub(crate) async fn make_device_known(deployment: &Deployment, source: &Destination) {
    let (mut raw, answer) = say_hello(deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    open_stream(&mut raw, 1, source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (1000, None));
    drop(raw);
    deployment.usage_settles().await;
}

/// A deployment whose gateway gives up on the control plane soon and knows the subscriber's device, and a source.
pub(crate) async fn deployment_with_known_device(kind: Kind) -> (Deployment, Destination) {
    let plan = plan_with_outage_allowance();
    let deployment = Deployment::build(kind, &[CHACHA], plan, &[SHORT_CONTROL_PATIENCE]).await;
    let source = Destination::start(Behavior::Source);
    make_device_known(&deployment, &source).await;
    (deployment, source)
}
