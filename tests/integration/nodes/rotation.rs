//! Rotation of passwords, and draining.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::node::{CHACHA, Node};
use crate::support::transfer::{echoes, opened};
use crate::support::wait::eventually;

const NEW: &str = "another battery staple";

/// A server at a node's address with another password.
async fn ss_server(node: &Node, password: &str) -> Child {
    let port = node.key.port.to_string();
    let args = ["-s", &node.key.host, "-p", &port, "-k", password, "-m", &node.key.method, "-t", "600", "-u"];
    let child = Command::new("ss-server")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("ss-server of Debian's shadowsocks-libev");
    let address = format!("{}:{port}", node.key.host);
    eventually(|| async { TcpStream::connect(&address).await.map_err(|error| error.to_string()) }).await;
    child
}

/// A world with one node that is probed through itself.
async fn probing(echo: &Destination) -> (World, String) {
    let target = echo.address.to_string();
    let more = [("PROBE__TARGET", target.as_str()), ("PROBE__TIMEOUT", "1s")];
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let node = id(&world.control.list("nodes").await[0]);
    (world, node)
}

/// Waits until the gateway's last probe ended so.
async fn probe_says(world: &World, node: &str, healthy: bool, error: &Value) {
    eventually(|| async {
        let view = world.control.get("nodes", &format!("{node}/health")).await["items"][0].clone();
        if (&view["healthy"], &view["error"]) == (&json!(healthy), error) { Ok(()) } else { Err(view.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_rotated_without_losing_a_stream() {
    let echo = Destination::start(Manner::Echo);
    let (mut world, node) = probing(&echo).await;
    let client = world.connect("v2").await;
    let mut stream = opened(&client, &echo).await.unwrap();
    let rotated = world.control.create(&format!("nodes/{node}/password"), json!({ "password": NEW })).await;
    assert_eq!((&rotated["generation"], &rotated["oldest_generation"]), (&json!(2), &json!(1)));
    assert_eq!(rotated["keeps_old_password"], true);
    probe_says(&world, &node, true, &json!("answers to the old password only")).await;
    echoes(&mut stream).await.unwrap();
    opened(&client, &echo).await.unwrap();
    world.nodes[0].kill().await;
    let _server = ss_server(&world.nodes[0], NEW).await;
    probe_says(&world, &node, true, &Value::Null).await;
    let mut stream = opened(&client, &echo).await.unwrap();
    let done = world.control.create(&format!("nodes/{node}/password"), json!({ "now": "true" })).await;
    assert_eq!((&done["oldest_generation"], &done["keeps_old_password"]), (&json!(2), &json!(false)));
    echoes(&mut stream).await.unwrap();
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_ends_now_ends_its_streams() {
    let echo = Destination::start(Manner::Echo);
    let (mut world, node) = probing(&echo).await;
    let client = world.connect("v2").await;
    let mut stream = opened(&client, &echo).await.unwrap();
    let body = json!({ "password": NEW, "now": true });
    let rotated = world.control.create(&format!("nodes/{node}/password"), body).await;
    assert_eq!((&rotated["oldest_generation"], &rotated["keeps_old_password"]), (&json!(2), &json!(false)));
    let end = timeout(Duration::from_secs(30), stream.read(&mut [0; 1])).await.expect("the stream ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    world.nodes[0].kill().await;
    let _server = ss_server(&world.nodes[0], NEW).await;
    eventually(|| async { opened(&client, &echo).await }).await;
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_draining_node_with_their_next_stream() {
    let world = World::build(Kind::Sqlite, &[CHACHA, CHACHA], json!({}), &[]).await;
    let echo = Destination::start(Manner::Echo);
    let client = world.connect("v2").await;
    let mut stream = opened(&client, &echo).await.unwrap();
    let place = async || world.control.list("sessions").await[0]["outline_node_id"].as_str().unwrap().to_owned();
    let first = place().await;
    let drained = world.control.update("nodes", &first, json!({ "state": "draining" })).await;
    assert_eq!((&drained["status"], &drained["sessions_left"]), (&json!("draining"), &json!(1)));
    eventually(|| async {
        opened(&client, &echo).await?;
        let now = place().await;
        if now == first { Err("it stays".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(world.control.get("nodes", &first).await["sessions_left"], 0);
    echoes(&mut stream).await.unwrap();
    let second = place().await;
    world.control.update("nodes", &second, json!({ "state": "draining" })).await;
    opened(&client, &echo).await.expect("where there is no other node it stays");
    assert_eq!(client.stop().await.code, Some(0));
}
