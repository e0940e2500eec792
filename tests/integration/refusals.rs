//! Clients that may not connect are told why, and `connect` ends with exit code 4.

use httvps::token::Issuer;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::database::Kind;
use crate::node::CHACHA;
use crate::process::{PATIENCE, Process, eventually};
use crate::world::{Env, REGION, SEED, Subscriber, World, free_port};

fn with(mut env: Env, key: &str, value: &str) -> Env {
    env.retain(|(name, _)| name != key);
    env.push((key.to_owned(), value.to_owned()));
    env
}

async fn refused(env: &Env) -> String {
    let ended = Process::try_start(&["connect"], env).await.err().expect("it is refused");
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix("error: ").map(str::to_owned));
    line.expect("a line with the code")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_regions() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let device: uuid::Uuid = world.subscriber.device.parse().unwrap();
    let user: uuid::Uuid = world.subscriber.user.parse().unwrap();
    let other = Subscriber::create(&world.control, json!({})).await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let ours = Issuer::new(&SEED).unwrap();
    let expired = ours.issue(device, user, now - 7200, 3600).unwrap();
    let foreign = Issuer::new(&[9; 32]).unwrap().issue(device, user, now, 3600).unwrap();
    let stranger = ours.issue(uuid::Uuid::now_v7(), user, now, 3600).unwrap();
    let mixed = ours.issue(device, other.user.parse().unwrap(), now, 3600).unwrap();
    for encoding in ["v1", "v2"] {
        let env = world.client_env(encoding);
        let token = |token: &str| with(env.clone(), "HTTVPS_CLIENT__TOKEN", token);
        assert_eq!(refused(&token("nonsense")).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&format!("{}x", world.subscriber.token))).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&expired)).await, "TOKEN_EXPIRED");
        assert_eq!(refused(&token(&foreign)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&stranger)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&other.token)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&mixed)).await, "INVALID_TOKEN");
        assert_eq!(refused(&with(env.clone(), "HTTVPS_CLIENT__DEVICE_ID", "nobody")).await, "INVALID_TOKEN");
        assert_eq!(refused(&with(env.clone(), "HTTVPS_CLIENT__REGION", "nowhere-1")).await, "UNKNOWN_REGION");
    }
    let asked = world.metric("httvps_refused_total{reason=\"INVALID_TOKEN\"}").await;
    assert_eq!(asked, 14);
    world.control.create("regions", json!({ "code": "us-1" })).await;
    let elsewhere = with(world.client_env("v2"), "HTTVPS_CLIENT__REGION", "us-1");
    assert_eq!(refused(&elsewhere).await, "UNKNOWN_REGION", "not an exit region of this gateway");
    assert_eq!(world.control.list("sessions").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_user_device_and_subscription() {
    let world = World::start(Kind::Postgres, CHACHA).await;
    let env = world.client_env("v2");
    let Subscriber { user, subscription, plan, device, .. } = world.subscriber.clone();
    let control = &world.control;
    control.update("users", &user, json!({ "status": "pending" })).await;
    assert_eq!(refused(&env).await, "USER_PENDING");
    control.update("users", &user, json!({ "status": "banned" })).await;
    assert_eq!(refused(&env).await, "USER_BANNED");
    control.update("users", &user, json!({ "status": "active" })).await;
    control.update("devices", &device, json!({ "status": "revoked" })).await;
    assert_eq!(refused(&env).await, "DEVICE_BANNED");
    control.update("devices", &device, json!({ "status": "active" })).await;
    control.update("subscriptions", &subscription, json!({ "status": "cancelled" })).await;
    assert_eq!(refused(&env).await, "NO_SUBSCRIPTION");
    control.update("subscriptions", &subscription, json!({ "status": "active" })).await;
    control.create("devices", json!({ "user_id": user })).await;
    let newer = control.create("devices", json!({ "user_id": user })).await;
    control.update("plans", &plan, json!({ "max_devices": 2 })).await;
    let newest = with(env.clone(), "HTTVPS_CLIENT__DEVICE_ID", newer["id"].as_str().unwrap());
    let newest = with(newest, "HTTVPS_CLIENT__TOKEN", newer["access_token"].as_str().unwrap());
    assert_eq!(refused(&newest).await, "DEVICE_LIMIT");
    control
        .update("nodes", control.list("nodes").await[0]["id"].as_str().unwrap(), json!({ "state": "maintenance" }))
        .await;
    let mut unlucky = crate::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async {
        match world.metric("httvps_refused_total{reason=\"NO_NODE_AVAILABLE\"}").await {
            0 | 1 => Err("not refused twice yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    unlucky.kill().await.unwrap();
    control.update("nodes", control.list("nodes").await[0]["id"].as_str().unwrap(), json!({ "state": "active" })).await;
    control.update("plans", &plan, json!({ "max_sessions": 1 })).await;
    let first = world.connect("v2").await;
    let mut second = crate::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async {
        match world.metric("httvps_refused_total{reason=\"TOO_MANY_SESSIONS\"}").await {
            0 => Err("not refused yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    second.kill().await.unwrap();
    assert_eq!(first.stop().await.code, Some(0));
    assert_eq!(REGION, "eu-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_answered_before_there_is_a_tunnel() {
    let socks = format!("127.0.0.1:{}", free_port());
    let env = crate::world::env(&[
        ("CLIENT__GATEWAY", "wss://127.0.0.1:1/tunnel"),
        ("CLIENT__DEVICE_ID", "device"),
        ("CLIENT__TOKEN", "token"),
        ("CLIENT__REGION", REGION),
        ("CLIENT__SOCKS", &socks),
        ("CLIENT__HTTP", ""),
        ("CLIENT__CONNECT_TIMEOUT", "100ms"),
    ]);
    let client = crate::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async { TcpStream::connect(&socks).await.map(drop).map_err(|error| error.to_string()) }).await;
    let asked = timeout(PATIENCE, crate::socks::connect(&socks, "127.0.0.1:9".parse().unwrap())).await;
    let refused = asked.expect("an answer in time").expect_err("no tunnel");
    assert_eq!(refused.to_string(), "SOCKS5 reply 1");
    drop(client);
}
