//! Rotation of passwords, and draining of nodes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::transfer::{open_echo, ping};
use crate::support::wait::eventually;

const NEW: &str = "another battery staple";

/// A deployment with one node that is probed through itself.
async fn probing(echo: &Destination) -> (Deployment, String) {
    let target = echo.address.to_string();
    let more = [("PROBE__TARGET", target.as_str()), ("PROBE__TIMEOUT", "1s")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let node = id(&deployment.control.list("nodes").await[0]);
    (deployment, node)
}

/// Waits until the gateway's last probe has this result.
async fn probe_says(deployment: &Deployment, node: &str, healthy: bool, error: &Value) {
    eventually(|| async {
        let view = deployment.control.get("nodes", &format!("{node}/health")).await["items"][0].clone();
        if (&view["healthy"], &view["error"]) == (&json!(healthy), error) { Ok(()) } else { Err(view.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_rotated_without_losing_a_stream() {
    let echo = Destination::start(Behavior::Echo);
    let (mut deployment, node) = probing(&echo).await;
    let client = deployment.connect("v2").await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    let rotated = deployment.control.create(&format!("nodes/{node}/password"), json!({ "password": NEW })).await;
    assert_eq!((&rotated["generation"], &rotated["oldest_generation"]), (&json!(2), &json!(1)));
    assert_eq!(rotated["keeps_old_password"], true);
    probe_says(&deployment, &node, true, &json!("answers to the old password only")).await;
    ping(&mut stream).await.unwrap();
    open_echo(&client, &echo).await.unwrap();
    deployment.nodes[0].kill().await;
    deployment.nodes[0].resume_with(NEW).await;
    probe_says(&deployment, &node, true, &Value::Null).await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    let done = deployment.control.create(&format!("nodes/{node}/password"), json!({ "now": true })).await;
    assert_eq!((&done["oldest_generation"], &done["keeps_old_password"]), (&json!(2), &json!(false)));
    ping(&mut stream).await.unwrap();
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_revoked_now_ends_its_streams() {
    let echo = Destination::start(Behavior::Echo);
    let (mut deployment, node) = probing(&echo).await;
    let client = deployment.connect("v2").await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    let body = json!({ "password": NEW, "now": true });
    let rotated = deployment.control.create(&format!("nodes/{node}/password"), body).await;
    assert_eq!((&rotated["oldest_generation"], &rotated["keeps_old_password"]), (&json!(2), &json!(false)));
    let end = timeout(Duration::from_secs(30), stream.read(&mut [0; 1])).await.expect("the stream ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    deployment.nodes[0].kill().await;
    deployment.nodes[0].resume_with(NEW).await;
    eventually(|| async { open_echo(&client, &echo).await }).await;
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_draining_node_with_their_next_stream() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA, CHACHA], json!({}), &[]).await;
    let echo = Destination::start(Behavior::Echo);
    let client = deployment.connect("v2").await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    let place = async || deployment.control.list("sessions").await[0]["outline_node_id"].as_str().unwrap().to_owned();
    let first = place().await;
    let drained = deployment.control.update("nodes", &first, json!({ "state": "draining" })).await;
    assert_eq!((&drained["status"], &drained["sessions_left"]), (&json!("draining"), &json!(1)));
    eventually(|| async {
        open_echo(&client, &echo).await?;
        let now = place().await;
        if now == first { Err("it stays".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(deployment.control.get("nodes", &first).await["sessions_left"], 0);
    ping(&mut stream).await.unwrap();
    let second = place().await;
    deployment.control.update("nodes", &second, json!({ "state": "draining" })).await;
    open_echo(&client, &echo).await.expect("where there is no other node it stays");
    assert_eq!(client.stop().await.code, Some(0));
}
