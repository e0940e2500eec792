//! What streams and sessions see when a node fails.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::configuration::configuration;
use crate::support::control::{REGION, id, register_gateway};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::World;
use crate::support::destination::{Destination, GREETING, Manner};
use crate::support::node::{AEAD_2022, CHACHA, Node, Software};
use crate::support::process::Process;
use crate::support::regional::regional;
use crate::support::socks;
use crate::support::transfer::{echoes, opened};
use crate::support::wait::{PATIENCE, eventually};

/// Three times what is promised.
const NOTICED: Duration = Duration::from_secs(15);

/// A deployment whose gateway probes a target, and which waits long between probes of nodes that are well.
async fn probing(software: &[Software], target: &str) -> World {
    let more = [("PROBE__TARGET", target), ("PROBE__INTERVAL", "10m"), ("PROBE__RETRY_AFTER", "1s")];
    let world = World::build(Kind::Sqlite, software, json!({}), &more).await;
    for node in world.control.list("nodes").await {
        health_is(&world, &id(&node), "healthy").await;
    }
    world
}

async fn health_is(world: &World, node: &str, health: &str) {
    eventually(|| async {
        let found = world.control.get("nodes", node).await["health_status"].clone();
        if found == health { Ok(()) } else { Err(format!("{found} instead of {health}")) }
    })
    .await;
}

/// The node that the only session is on.
async fn held(world: &World) -> (String, &Node) {
    let session = world.control.list("sessions").await.pop().unwrap();
    let held = session["outline_node_id"].as_str().unwrap().to_owned();
    let port = world.control.get("nodes", &held).await["ss_port"].clone();
    (held, world.nodes.iter().find(|node| port == node.key.port).unwrap())
}

/// Opens streams until one works; gives how long that took.
async fn until_opened(client: &Process, echo: &Destination) -> Duration {
    let begun = Instant::now();
    eventually(|| async { opened(client, echo).await }).await;
    begun.elapsed()
}

/// A session of the other node whose streams work; the one that hung is found out, left, and taken again.
async fn leaves_a_node_that_hangs(target: &str, echo: &Destination) {
    let world = probing(&[CHACHA, CHACHA], target).await;
    let client = world.connect("v2").await;
    let mut answered = opened(&client, echo).await.unwrap();
    let (hung, node) = held(&world).await;
    node.signal("-STOP");
    let mut waiting = socks::connect(client.line("socks"), echo.address).await.unwrap();
    waiting.write_all(b"ping").await.unwrap();
    let begun = Instant::now();
    let end = timeout(PATIENCE, waiting.read(&mut [0; 1])).await.expect("it does not wait for a node that is down");
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    assert!(until_opened(&client, echo).await < NOTICED, "new streams go elsewhere");
    assert_ne!(held(&world).await.0, hung);
    health_is(&world, &hung, "unhealthy").await;
    assert!(begun.elapsed() < NOTICED, "the control plane hears of it at once: {:?}", begun.elapsed());
    let view = world.control.get("nodes", &format!("{hung}/health")).await["items"][0].clone();
    assert_eq!((&view["healthy"], &view["settled"]), (&json!(false), &json!(false)));
    assert_eq!(view["error"], "no answer: wrong password or cipher?");
    node.signal("-CONT");
    let begun = Instant::now();
    health_is(&world, &hung, "healthy").await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    echoes(&mut answered).await.expect("a stream that had been answered was left alone");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_node_that_hangs() {
    let echo = Destination::start(Manner::Echo);
    leaves_a_node_that_hangs(&echo.address.to_string(), &echo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_node_that_hangs_without_a_probe_target() {
    let echo = Destination::start(Manner::Echo);
    leaves_a_node_that_hangs("", &echo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_speaks_late_is_waited_for() {
    let (echo, silent) = (Destination::start(Manner::Echo), Destination::start(Manner::Sink));
    let world = probing(&[CHACHA], &echo.address.to_string()).await;
    let client = world.connect("v2").await;
    let mut late = socks::connect(client.line("socks"), silent.address).await.unwrap();
    late.write_all(b"an upload").await.unwrap();
    let probes = echo.connections();
    eventually(|| async { if echo.connections() > probes { Ok(()) } else { Err("not suspected yet".to_owned()) } })
        .await;
    opened(&client, &echo).await.unwrap();
    assert!(timeout(Duration::from_millis(1500), late.read(&mut [0; 1])).await.is_err(), "it goes on");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_node_is_used_as_soon_as_it_is_back() {
    let echo = Destination::start(Manner::Echo);
    let mut world = probing(&[CHACHA], &echo.address.to_string()).await;
    let node = id(&world.control.list("nodes").await[0]);
    let client = world.connect("v2").await;
    opened(&client, &echo).await.unwrap();
    world.nodes[0].kill().await;
    opened(&client, &echo).await.unwrap_err();
    health_is(&world, &node, "unhealthy").await;
    world.nodes[0].resume().await;
    let begun = Instant::now();
    assert!(until_opened(&client, &echo).await < NOTICED);
    health_is(&world, &node, "healthy").await;
    let newcomer = world.connect("v2").await;
    opened(&newcomer, &echo).await.unwrap();
    assert!(begun.elapsed() < NOTICED, "new sessions, too: {:?}", begun.elapsed());
    for client in [client, newcomer] {
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_does_not_end_its_streams_as_if_their_destinations_had() {
    let (echo, greeter) = (Destination::start(Manner::Echo), Destination::start(Manner::Greeter));
    let mut world = probing(&[CHACHA], &echo.address.to_string()).await;
    let client = world.connect("v2").await;
    let down = "httvps_streams_refused_total{reason=\"NODE_DOWN\"}";
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = socks::connect(client.line("socks"), greeter.address).await.unwrap();
        stream.read_exact(&mut [0; GREETING.len()]).await.unwrap();
        streams.push(stream);
    }
    let ended = async |stream: &mut TcpStream| {
        let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("the stream ends");
        end.map_err(|error| error.kind())
    };
    let mut finished = socks::connect(client.line("socks"), echo.address).await.unwrap();
    finished.shutdown().await.unwrap();
    assert_eq!(ended(&mut finished).await, Ok(0));
    assert_eq!(world.metric(down).await, 0, "a node that is there ends its streams as they end");
    world.nodes[0].kill().await;
    for stream in &mut streams {
        assert_eq!(ended(stream).await, Err(ErrorKind::ConnectionReset));
    }
    eventually(|| async {
        let found = world.metric(down).await;
        if found == 3 { Ok(()) } else { Err(format!("{found} of 3")) }
    })
    .await;
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_lose_half_closes_are_known_as_such() {
    let echo = Destination::start(Manner::Distant);
    let world = probing(&[CHACHA, AEAD_2022], &echo.address.to_string()).await;
    let gateway = id(&world.control.list("gateways").await[0]);
    world.control.create("endpoints", json!({ "gateway_id": gateway, "host": "localhost", "path": "/x" })).await;
    let kept =
        async || configuration(&world.control, &world.subscriber.token).await.1["regions"][0]["half_close"].clone();
    let found = eventually(|| async {
        let nodes = world.control.list("nodes").await;
        if nodes.iter().any(|node| node["half_close"].is_null()) { Err(format!("{nodes:?}")) } else { Ok(nodes) }
    })
    .await;
    for node in &found {
        let is_libev = node["ss_method"] == "chacha20-ietf-poly1305";
        assert_eq!(node["half_close"], !is_libev, "{node}");
        let health = world.control.get("nodes", &format!("{}/health", id(node))).await;
        assert_eq!(health["half_close"], node["half_close"]);
    }
    assert_eq!(kept().await, false, "one that loses them is enough");
    let lossy = found.iter().find(|node| node["half_close"] == false).unwrap();
    world.control.update("nodes", &id(lossy), json!({ "state": "draining" })).await;
    assert_eq!(kept().await, true, "what takes sessions keeps them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_is_sure_of_counts_at_once() {
    for kind in BOTH {
        let control = regional(kind, &[]).await;
        let (_, token) = register_gateway(&control, "gw-1").await;
        control.ask(Method::POST, "/api/v1/gateway/heartbeat", &token, Some(&json!({}))).await;
        let new = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", new).await);
        for (report, health, settled) in [
            (json!({ "healthy": true, "half_close": true }), "healthy", true),
            (json!({ "healthy": false }), "healthy", true),
            (json!({ "healthy": true }), "healthy", true),
            (json!({ "healthy": false, "settled": true }), "unhealthy", false),
            (json!({ "healthy": true }), "unhealthy", false),
            (json!({ "healthy": true, "half_close": false }), "healthy", true),
        ] {
            let mut body = report.clone();
            body["node_id"] = json!(node);
            let (_, answer) = control.ask(Method::POST, "/api/v1/outline/heartbeat", &token, Some(&body)).await;
            assert_eq!((&answer["health_status"], &answer["settled"]), (&json!(health), &json!(settled)), "{report}");
        }
        assert_eq!(control.get("nodes", &node).await["half_close"], false, "{kind:?}");
    }
}
