//! Bans, kills and limits reach sessions that are streaming.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::node::CHACHA;
use crate::process::{Process, eventually};
use crate::socks;
use crate::world::World;

async fn streaming(client: &Process, endless: &Destination) -> TcpStream {
    let mut socket = socks::connect(client.line("socks"), endless.address).await.unwrap();
    socket.write_all(b"x").await.unwrap();
    socket.read_exact(&mut [0; 100_000]).await.unwrap();
    socket
}

/// Reads on until the stream ends; gives how much came.
async fn drain(mut socket: TcpStream) -> u64 {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        total += read as u64;
    }
    total
}

async fn cut(encoding: &str, code: &str, act: impl AsyncFnOnce(&World)) {
    let world = World::start(Kind::Postgres, CHACHA).await;
    let client = world.connect(encoding).await;
    let endless = Destination::start(Manner::Endless);
    let socket = streaming(&client, &endless).await;
    let reading = tokio::spawn(drain(socket));
    act(&world).await;
    let ended = client.ended().await;
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.lines().any(|line| line.starts_with(&format!("error: {code}: "))), "{}", ended.stderr);
    reading.await.unwrap();
    let refused = Process::try_start(&["connect"], &world.client_env(encoding)).await;
    if code != "SESSION_KILLED" {
        let refused = refused.err().expect("the next hello is refused");
        assert_eq!((refused.code, refused.stderr.contains(code)), (Some(4), true), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_user() {
    for encoding in ["v1", "v2"] {
        cut(encoding, "USER_BANNED", async |world| {
            world.control.update("users", &world.subscriber.user, json!({ "status": "banned" })).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device() {
    cut("v2", "DEVICE_BANNED", async |world| {
        world.control.update("devices", &world.subscriber.device, json!({ "status": "revoked" })).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_subscription() {
    cut("v2", "SUBSCRIPTION_EXPIRED", async |world| {
        let past = json!({ "valid_until": "2026-01-01T00:00:00Z", "status": "expired" });
        let path = format!("/api/v1/admin/subscriptions/{}", world.subscriber.subscription);
        let (status, _) = world.control.ask(Method::PATCH, &path, crate::world::ADMIN_KEY, Some(&past)).await;
        assert_eq!(status.as_u16(), 422, "not before its start");
        world.control.update("subscriptions", &world.subscriber.subscription, json!({ "status": "expired" })).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session() {
    for encoding in ["v1", "v2"] {
        cut(encoding, "SESSION_KILLED", async |world| {
            let session = world.control.list("sessions").await[0]["id"].as_str().unwrap().to_owned();
            let killed = world.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await;
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
        let world = World::build(Kind::Sqlite, &[CHACHA], plan, &[]).await;
        let client = world.connect(encoding).await;
        let endless = Destination::start(Manner::Endless);
        let reading = tokio::spawn(drain(streaming(&client, &endless).await));
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        let delivered = reading.await.unwrap();
        let total = eventually(|| async {
            let sessions = world.control.list("sessions").await;
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
        let refused = Process::try_start(&["connect"], &world.client_env(encoding)).await.err().unwrap();
        assert!(refused.stderr.contains("error: LIMIT_REACHED"), "{}", refused.stderr);
        world.control.update("plans", &world.subscriber.plan, json!({ "traffic_limit_gb": "" })).await;
        let back = world.connect(encoding).await;
        assert_eq!(back.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_replaced_for_new_streams() {
    for encoding in ["v1", "v2"] {
        let mut world = World::build(Kind::Postgres, &[CHACHA, CHACHA], json!({}), &[]).await;
        let client = world.connect(encoding).await;
        let greeter = Destination::start(Manner::Greeter);
        let greet = async |client: &Process| {
            let mut socket = socks::connect(client.line("socks"), greeter.address).await?;
            let mut greeting = [0; 11];
            socket.read_exact(&mut greeting).await
        };
        greet(&client).await.unwrap();
        let used = world.control.list("sessions").await[0]["outline_node_id"].clone();
        let rows = world.control.list("nodes").await;
        let at = rows.iter().find(|node| node["id"] == used).unwrap()["ss_port"].as_u64().unwrap();
        let node = world.nodes.iter_mut().find(|node| u64::from(node.key.port) == at).unwrap();
        node.kill().await;
        greet(&client).await.unwrap();
        let moved = world.control.list("sessions").await[0]["outline_node_id"].clone();
        assert_ne!(moved, used);
        eventually(|| async {
            let nodes = world.control.list("nodes").await;
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
async fn a_restarted_control_plane_and_gateway_are_outlived_by_the_client() {
    let mut world = World::start(Kind::Sqlite, CHACHA).await;
    let client = world.connect("v2").await;
    let greeter = Destination::start(Manner::Greeter);
    let greet = async || {
        let mut socket =
            socks::connect(client.line("socks"), greeter.address).await.map_err(|error| error.to_string())?;
        let mut greeting = [0; 11];
        socket.read_exact(&mut greeting).await.map_err(|error| error.to_string())
    };
    greet().await.unwrap();
    world.control.kill().await;
    world.control.resume().await;
    greet().await.unwrap();
    world.gateway.take().unwrap().stop().await;
    world.start_gateway().await;
    eventually(greet).await;
}
