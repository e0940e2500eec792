//! Revocations take effect at once, independently of reports, and reach gateways that missed them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::{PROMPTLY, RARE_REPORTS, assert_acked, assert_refused_promptly, wait_for_followers};
use crate::support::deployment::{Deployment, metric};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::socks;
use crate::support::transfer::stream_in_background;

async fn cut(kind: Kind, code: &str, act: impl AsyncFnOnce(&Deployment) -> Value) {
    let deployment = Deployment::build(kind, &[CHACHA], json!({}), &RARE_REPORTS).await;
    wait_for_followers(&deployment.control, 1).await;
    let (client, _endless, reading) = stream_in_background(&deployment).await;
    let since = Instant::now();
    let answer = act(&deployment).await;
    assert_refused_promptly(client, &[code], since).await;
    assert_acked(&answer, 1);
    reading.await.unwrap();
    let ops = deployment.control.process.as_ref().unwrap().line("ops-control");
    assert!(metric(&deployment.control.http, ops, "httvps_revocation_seconds_count").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_user_is_cut_off_at_once() {
    for kind in BOTH {
        cut(kind, "USER_BANNED", async |deployment| {
            deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_off_at_once() {
    cut(Kind::Postgres, "DEVICE_BANNED", async |deployment| {
        deployment.control.update("devices", &deployment.subscriber.device, json!({ "status": "revoked" })).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_is_cut_off_at_once() {
    cut(Kind::Postgres, "SESSION_KILLED", async |deployment| {
        let session = id(&deployment.control.list("sessions").await[0]);
        deployment.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_subscription_is_cut_off_at_once() {
    cut(Kind::Sqlite, "SUBSCRIPTION_EXPIRED", async |deployment| {
        deployment
            .control
            .update("subscriptions", &deployment.subscriber.subscription, json!({ "status": "expired" }))
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_limit_is_used_up_is_cut_off_at_once() {
    for kind in BOTH {
        cut(kind, "LIMIT_REACHED", async |deployment| {
            deployment.control.update("plans", &deployment.subscriber.plan, json!({ "traffic_limit_gb": 0 })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_gets_a_smaller_plan_is_cut_off_at_once() {
    cut(Kind::Postgres, "LIMIT_REACHED", async |deployment| {
        let plan = id(&deployment.control.create("plans", json!({ "name": "nothing", "traffic_limit_gb": 0 })).await);
        deployment
            .control
            .update("subscriptions", &deployment.subscriber.subscription, json!({ "plan_id": plan }))
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_the_sessions_region_cuts_it_off_at_once() {
    for kind in BOTH {
        cut(kind, "UNKNOWN_REGION", async |deployment| {
            deployment.control.create("regions", json!({ "code": "as-1" })).await;
            deployment.control.update("plans", &deployment.subscriber.plan, json!({ "regions": ["as-1"] })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plans_new_rate_applies_to_live_sessions_at_once() {
    const MEGABITS: u64 = 8;
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &RARE_REPORTS).await;
    wait_for_followers(&deployment.control, 1).await;
    let (client, _endless, reading) = stream_in_background(&deployment).await;
    let answer =
        deployment.control.update("plans", &deployment.subscriber.plan, json!({ "rate_limit_mbps": MEGABITS })).await;
    assert_acked(&answer, 1);
    let changed = Instant::now();
    let window = Duration::from_millis(500);
    loop {
        let (before, started) = (deployment.metric("httvps_bytes_total{direction=\"down\"}").await, Instant::now());
        tokio::time::sleep(window).await;
        let moved = deployment.metric("httvps_bytes_total{direction=\"down\"}").await - before;
        let megabits = moved as f64 * 8e-6 / started.elapsed().as_secs_f64();
        if megabits < 2.0 * MEGABITS as f64 {
            assert!(moved > 0, "it goes on");
            break;
        }
        assert!(changed.elapsed() < PROMPTLY, "{megabits} Mbit/s");
    }
    assert_eq!(client.stop().await.code, Some(0));
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_keeps_its_streams_and_gets_no_new_ones() {
    let deployment = Deployment::build(Kind::Postgres, &[CHACHA, CHACHA], json!({}), &RARE_REPORTS).await;
    wait_for_followers(&deployment.control, 1).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    let greet = async || {
        let mut socket = socks::connect(client.line("socks"), greeter.address).await.unwrap();
        socket.read_exact(&mut [0; 11]).await.unwrap();
        socket
    };
    let mut old = greet().await;
    let used = deployment.control.list("sessions").await[0]["outline_node_id"].clone();
    let answer = deployment.control.update("nodes", used.as_str().unwrap(), json!({ "state": "draining" })).await;
    assert_acked(&answer, 1);
    let since = Instant::now();
    loop {
        greet().await;
        if deployment.control.list("sessions").await[0]["outline_node_id"] != used {
            break;
        }
        assert!(since.elapsed() < PROMPTLY, "new streams still go to the node");
    }
    old.write_all(b"still there").await.unwrap();
    let mut echo = [0; 11];
    old.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still there");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gateway_holds_up_nobody_and_catches_up_later() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &RARE_REPORTS).await;
    wait_for_followers(&deployment.control, 1).await;
    let (client, _endless, reading) = stream_in_background(&deployment).await;
    deployment.gateway().signal("-STOP");
    let answer = deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
    assert_eq!(answer["delivery"]["acked"], 0, "{answer}");
    deployment.gateway().signal("-CONT");
    assert_refused_promptly(client, &["USER_BANNED"], Instant::now()).await;
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_covers_what_a_gateway_missed() {
    for kind in BOTH {
        let mut deployment = Deployment::build(kind, &[CHACHA], json!({}), &RARE_REPORTS).await;
        wait_for_followers(&deployment.control, 1).await;
        let (client, _endless, reading) = stream_in_background(&deployment).await;
        deployment.gateway().signal("-STOP");
        deployment.control.kill().await;
        deployment.control.resume().await;
        deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
        deployment.control.kill().await;
        deployment.control.resume().await;
        deployment.gateway().signal("-CONT");
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        let known = ["error: USER_BANNED", "error: SESSION_KILLED"];
        assert!(known.iter().any(|line| ended.stderr.contains(line)), "{}", ended.stderr);
        reading.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_acknowledges_its_own_changes_and_later_ones() {
    let deployment = Deployment::start(Kind::Postgres, CHACHA).await;
    wait_for_followers(&deployment.control, 1).await;
    let gateway = id(&deployment.control.list("gateways").await[0]);
    let all = json!([1, 1]);
    let acked = |answer: &Value| json!([answer["delivery"]["acked"], answer["delivery"]["of"]]);
    for draining in [true, false] {
        let answer = deployment.control.update("gateways", &gateway, json!({ "draining": draining })).await;
        assert_eq!(acked(&answer), all, "{answer}");
        let answer = deployment.control.update("plans", &deployment.subscriber.plan, json!({ "price": 1 })).await;
        assert_eq!(acked(&answer), all, "{answer}");
    }
}
