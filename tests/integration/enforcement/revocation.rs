//! What is revoked ends at once, whatever the reports; nothing that a gateway missed is lost.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::{AT_ONCE, RARELY, assert_acked, followed_by, refused};
use crate::support::deployment::{World, metric};
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::socks;
use crate::support::transfer::{drain, streaming};

async fn cut(kind: Kind, code: &str, act: impl AsyncFnOnce(&World) -> Value) {
    let world = World::build(kind, &[CHACHA], json!({}), &RARELY).await;
    followed_by(&world.control, 1).await;
    let client = world.connect("v2").await;
    let endless = Destination::start(Manner::Endless);
    let reading = tokio::spawn(drain(streaming(&client, &endless).await));
    let since = Instant::now();
    let answer = act(&world).await;
    refused(client, &[code], since).await;
    assert_acked(&answer, 1);
    reading.await.unwrap();
    let ops = world.control.process.as_ref().unwrap().line("ops-control");
    assert!(metric(&world.control.http, ops, "httvps_revocation_seconds_count").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_user_is_cut_off_at_once() {
    for kind in BOTH {
        cut(kind, "USER_BANNED", async |world| {
            world.control.update("users", &world.subscriber.user, json!({ "status": "banned" })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_off_at_once() {
    cut(Kind::Postgres, "DEVICE_BANNED", async |world| {
        world.control.update("devices", &world.subscriber.device, json!({ "status": "revoked" })).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_is_cut_off_at_once() {
    cut(Kind::Postgres, "SESSION_KILLED", async |world| {
        let session = id(&world.control.list("sessions").await[0]);
        world.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_subscription_is_cut_off_at_once() {
    cut(Kind::Sqlite, "SUBSCRIPTION_EXPIRED", async |world| {
        world.control.update("subscriptions", &world.subscriber.subscription, json!({ "status": "expired" })).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_limit_is_used_up_is_cut_off_at_once() {
    for kind in BOTH {
        cut(kind, "LIMIT_REACHED", async |world| {
            world.control.update("plans", &world.subscriber.plan, json!({ "traffic_limit_gb": 0 })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_gets_a_smaller_plan_is_cut_off_at_once() {
    cut(Kind::Postgres, "LIMIT_REACHED", async |world| {
        let plan = id(&world.control.create("plans", json!({ "name": "nothing", "traffic_limit_gb": 0 })).await);
        world.control.update("subscriptions", &world.subscriber.subscription, json!({ "plan_id": plan })).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_leaves_out_the_sessions_region_cuts_it_off_at_once() {
    for kind in BOTH {
        cut(kind, "UNKNOWN_REGION", async |world| {
            world.control.create("regions", json!({ "code": "as-1" })).await;
            world.control.update("plans", &world.subscriber.plan, json!({ "regions": ["as-1"] })).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plans_new_rate_holds_for_a_session_at_once() {
    const MEGABITS: u64 = 8;
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &RARELY).await;
    followed_by(&world.control, 1).await;
    let client = world.connect("v2").await;
    let endless = Destination::start(Manner::Endless);
    let reading = tokio::spawn(drain(streaming(&client, &endless).await));
    let answer = world.control.update("plans", &world.subscriber.plan, json!({ "rate_limit_mbps": MEGABITS })).await;
    assert_acked(&answer, 1);
    let changed = Instant::now();
    let window = Duration::from_millis(500);
    loop {
        let (before, started) = (world.metric("httvps_bytes_total{direction=\"down\"}").await, Instant::now());
        tokio::time::sleep(window).await;
        let moved = world.metric("httvps_bytes_total{direction=\"down\"}").await - before;
        let megabits = moved as f64 * 8e-6 / started.elapsed().as_secs_f64();
        if megabits < 2.0 * MEGABITS as f64 {
            assert!(moved > 0, "it goes on");
            break;
        }
        assert!(changed.elapsed() < AT_ONCE, "{megabits} Mbit/s");
    }
    assert_eq!(client.stop().await.code, Some(0));
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gets_no_new_streams_at_once_and_keeps_those_it_has() {
    let world = World::build(Kind::Postgres, &[CHACHA, CHACHA], json!({}), &RARELY).await;
    followed_by(&world.control, 1).await;
    let client = world.connect("v2").await;
    let greeter = Destination::start(Manner::Greeter);
    let greet = async || {
        let mut socket = socks::connect(client.line("socks"), greeter.address).await.unwrap();
        socket.read_exact(&mut [0; 11]).await.unwrap();
        socket
    };
    let mut old = greet().await;
    let used = world.control.list("sessions").await[0]["outline_node_id"].clone();
    let answer = world.control.update("nodes", used.as_str().unwrap(), json!({ "state": "draining" })).await;
    assert_acked(&answer, 1);
    let since = Instant::now();
    loop {
        greet().await;
        if world.control.list("sessions").await[0]["outline_node_id"] != used {
            break;
        }
        assert!(since.elapsed() < AT_ONCE, "new streams still go to the node");
    }
    old.write_all(b"still there").await.unwrap();
    let mut echo = [0; 11];
    old.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still there");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gateway_is_not_waited_for_and_hears_of_it_later() {
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &RARELY).await;
    followed_by(&world.control, 1).await;
    let client = world.connect("v2").await;
    let endless = Destination::start(Manner::Endless);
    let reading = tokio::spawn(drain(streaming(&client, &endless).await));
    world.gateway().signal("-STOP");
    let answer = world.control.update("users", &world.subscriber.user, json!({ "status": "banned" })).await;
    assert_eq!(answer["delivery"]["acked"], 0, "{answer}");
    world.gateway().signal("-CONT");
    refused(client, &["USER_BANNED"], Instant::now()).await;
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_missed_while_its_stream_was_cut_is_closed_by_a_snapshot() {
    for kind in BOTH {
        let mut world = World::build(kind, &[CHACHA], json!({}), &RARELY).await;
        followed_by(&world.control, 1).await;
        let client = world.connect("v2").await;
        let endless = Destination::start(Manner::Endless);
        let reading = tokio::spawn(drain(streaming(&client, &endless).await));
        world.gateway().signal("-STOP");
        world.control.kill().await;
        world.control.resume().await;
        world.control.update("users", &world.subscriber.user, json!({ "status": "banned" })).await;
        world.control.kill().await;
        world.control.resume().await;
        world.gateway().signal("-CONT");
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        let known = ["error: USER_BANNED", "error: SESSION_KILLED"];
        assert!(known.iter().any(|line| ended.stderr.contains(line)), "{}", ended.stderr);
        reading.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_acknowledges_what_concerns_itself_and_what_follows() {
    let world = World::start(Kind::Postgres, CHACHA).await;
    followed_by(&world.control, 1).await;
    let gateway = id(&world.control.list("gateways").await[0]);
    let all = json!([1, 1]);
    let acked = |answer: &Value| json!([answer["delivery"]["acked"], answer["delivery"]["of"]]);
    for draining in [true, false] {
        let answer = world.control.update("gateways", &gateway, json!({ "draining": draining })).await;
        assert_eq!(acked(&answer), all, "{answer}");
        let answer = world.control.update("plans", &world.subscriber.plan, json!({ "price": 1 })).await;
        assert_eq!(acked(&answer), all, "{answer}");
    }
}
