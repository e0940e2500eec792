//! Bans, kills and limits end sessions that are streaming.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::{read_until_closed, start_streaming};
use crate::support::wait::eventually;

async fn cut(encoding: &str, code: &str, act: impl AsyncFnOnce(&Deployment)) {
    let deployment = Deployment::start(Kind::Postgres, CHACHA).await;
    let client = deployment.connect(encoding).await;
    let endless = Destination::start(Behavior::Endless);
    let socket = start_streaming(&client, &endless).await;
    let reading = tokio::spawn(read_until_closed(socket));
    act(&deployment).await;
    let ended = client.ended().await;
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.lines().any(|line| line.starts_with(&format!("error: {code}: "))), "{}", ended.stderr);
    reading.await.unwrap();
    let refused = Process::try_start(&["connect"], &deployment.client_env(encoding)).await;
    if code != "SESSION_KILLED" {
        let refused = refused.err().expect("the next hello is refused");
        assert_eq!((refused.code, refused.stderr.contains(code)), (Some(4), true), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_user() {
    for encoding in ["v1", "v2"] {
        cut(encoding, "USER_BANNED", async |deployment| {
            deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device() {
    cut("v2", "DEVICE_BANNED", async |deployment| {
        deployment.control.update("devices", &deployment.subscriber.device, json!({ "status": "revoked" })).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_subscription() {
    cut("v2", "SUBSCRIPTION_EXPIRED", async |deployment| {
        let past = json!({ "valid_until": "2026-01-01T00:00:00Z", "status": "expired" });
        let path = format!("/api/v1/admin/subscriptions/{}", deployment.subscriber.subscription);
        let (status, _) =
            deployment.control.ask(Method::PATCH, &path, crate::support::control::ADMIN_KEY, Some(&past)).await;
        assert_eq!(status.as_u16(), 422, "not before its start");
        deployment
            .control
            .update("subscriptions", &deployment.subscriber.subscription, json!({ "status": "expired" }))
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session() {
    for encoding in ["v1", "v2"] {
        cut(encoding, "SESSION_KILLED", async |deployment| {
            let session = deployment.control.list("sessions").await[0]["id"].as_str().unwrap().to_owned();
            let killed = deployment.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await;
            assert_eq!(killed["state"], "killed");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_limit() {
    for encoding in ["v1", "v2"] {
        let limit = 20_000_000u64;
        let plan = json!({ "traffic_limit_gb": 0.02 });
        let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan, &[]).await;
        let client = deployment.connect(encoding).await;
        let endless = Destination::start(Behavior::Endless);
        let reading = tokio::spawn(read_until_closed(start_streaming(&client, &endless).await));
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        let delivered = reading.await.unwrap();
        let total = eventually(|| async {
            let sessions = deployment.control.list("sessions").await;
            match sessions[0]["state"].as_str() {
                Some("ended") => {
                    Ok(sessions[0]["bytes_down"].as_u64().unwrap() + sessions[0]["bytes_up"].as_u64().unwrap())
                }
                state => Err(format!("{state:?}")),
            }
        })
        .await;
        assert!(total >= limit, "{total}");
        assert!(total < limit + 1_000_000, "overshoot is what was being read: {total}");
        assert!(delivered <= total);
        let refused = Process::try_start(&["connect"], &deployment.client_env(encoding)).await.err().unwrap();
        assert!(refused.stderr.contains("error: LIMIT_REACHED"), "{}", refused.stderr);
        deployment.control.update("plans", &deployment.subscriber.plan, json!({ "traffic_limit_gb": null })).await;
        let back = deployment.connect(encoding).await;
        assert_eq!(back.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_replaced_for_new_streams() {
    for encoding in ["v1", "v2"] {
        let mut deployment = Deployment::build(Kind::Postgres, &[CHACHA, CHACHA], json!({}), &[]).await;
        let client = deployment.connect(encoding).await;
        let greeter = Destination::start(Behavior::Greeter);
        let greet = async |client: &Process| {
            let mut socket = socks::connect(client.line("socks"), greeter.address).await?;
            let mut greeting = [0; 11];
            socket.read_exact(&mut greeting).await
        };
        greet(&client).await.unwrap();
        let used = deployment.control.list("sessions").await[0]["outline_node_id"].clone();
        let rows = deployment.control.list("nodes").await;
        let at = rows.iter().find(|node| node["id"] == used).unwrap()["ss_port"].as_u64().unwrap();
        let node = deployment.nodes.iter_mut().find(|node| u64::from(node.key.port) == at).unwrap();
        node.kill().await;
        greet(&client).await.unwrap();
        let moved = deployment.control.list("sessions").await[0]["outline_node_id"].clone();
        assert_ne!(moved, used);
        eventually(|| async {
            let nodes = deployment.control.list("nodes").await;
            let of = |id: &Value| nodes.iter().find(|node| node["id"] == *id).unwrap().clone();
            let (old, new) = (of(&used), of(&moved));
            let counts = (old["active_sessions"].as_i64(), new["active_sessions"].as_i64());
            let health = (old["health_status"].as_str(), new["health_status"].as_str());
            if counts == (Some(0), Some(1)) && health == (Some("unhealthy"), Some("healthy")) {
                Ok(())
            } else {
                Err(format!("{counts:?} {health:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_survives_restarts_of_control_plane_and_gateway() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    let greet = async || {
        let mut socket =
            socks::connect(client.line("socks"), greeter.address).await.map_err(|error| error.to_string())?;
        let mut greeting = [0; 11];
        socket.read_exact(&mut greeting).await.map_err(|error| error.to_string())
    };
    greet().await.unwrap();
    deployment.control.kill().await;
    deployment.control.resume().await;
    greet().await.unwrap();
    deployment.gateway.take().unwrap().stop().await;
    deployment.start_gateway().await;
    eventually(greet).await;
}
