//! Delivery of changes to gateways, and their acknowledgements.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{Control, id};
use crate::support::process::Process;
use crate::support::wait::eventually;

/// Reports and heartbeats so rare that only events can deliver a change.
pub(crate) const RARE_REPORTS: [(&str, &str); 2] =
    [("GATEWAY__REPORT_INTERVAL", "1h"), ("GATEWAY__HEARTBEAT_INTERVAL", "30s")];

pub(crate) const PROMPTLY: Duration = Duration::from_secs(3);

/// Waits until this many gateways acknowledge changes.
pub(crate) async fn wait_for_followers(control: &Control, gateways: u64) {
    let name = format!("{}@example.com", Uuid::new_v4());
    let user = id(&control.create("users", json!({ "identifier": name })).await);
    eventually(|| async {
        control.update("users", &user, json!({ "status": "active" })).await;
        let banned = control.update("users", &user, json!({ "status": "banned" })).await;
        let delivery = &banned["delivery"];
        if (&delivery["acked"], &delivery["of"]) == (&json!(gateways), &json!(gateways)) {
            Ok(())
        } else {
            Err(format!("{delivery}"))
        }
    })
    .await;
}

pub(crate) fn assert_acked(answer: &Value, gateways: u64) {
    let delivery = &answer["delivery"];
    assert_eq!((&delivery["acked"], &delivery["of"]), (&json!(gateways), &json!(gateways)), "{answer}");
    assert!(delivery["ms"].as_u64().unwrap() < 2000, "{answer}");
}

/// Waits until a client is refused for good, which must happen soon after `since`.
pub(crate) async fn assert_refused_promptly(client: Process, codes: &[&str], since: Instant) {
    let ended = client.ended().await;
    assert!(since.elapsed() < PROMPTLY, "{:?}", since.elapsed());
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let last = ended.stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
    assert!(codes.contains(&last.split(':').next().unwrap_or_default()), "{}", ended.stderr);
}
