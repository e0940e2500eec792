//! What happens to streams and sessions when a node fails.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::configuration::configuration;
use crate::support::control::{REGION, id, register_gateway, start_with_region};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::node::{AEAD_2022, CHACHA, Node, Software};
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::{open_echo, ping};
use crate::support::wait::{TIMEOUT, eventually};

/// Three times what the documents promise.
const NOTICED: Duration = Duration::from_secs(15);

/// A deployment whose gateway probes a target, rarely where nodes are healthy.
async fn probing(software: &[Software], target: &str) -> Deployment {
    let more = [("PROBE__TARGET", target), ("PROBE__INTERVAL", "10m"), ("PROBE__RETRY_AFTER", "1s")];
    let deployment = Deployment::build(Kind::Sqlite, software, json!({}), &more).await;
    for node in deployment.control.list("nodes").await {
        health_is(&deployment, &id(&node), "healthy").await;
    }
    deployment
}

async fn health_is(deployment: &Deployment, node: &str, health: &str) {
    eventually(|| async {
        let found = deployment.control.get("nodes", node).await["health_status"].clone();
        if found == health { Ok(()) } else { Err(format!("{found} instead of {health}")) }
    })
    .await;
}

/// The node that the only session uses.
async fn held(deployment: &Deployment) -> (String, &Node) {
    let session = deployment.control.list("sessions").await.pop().unwrap();
    let held = session["outline_node_id"].as_str().unwrap().to_owned();
    let port = deployment.control.get("nodes", &held).await["ss_port"].clone();
    (held, deployment.nodes.iter().find(|node| port == node.key.port).unwrap())
}

/// Opens streams until one works; returns how long that took.
async fn until_opened(client: &Process, echo: &Destination) -> Duration {
    let begun = Instant::now();
    eventually(|| async { open_echo(client, echo).await }).await;
    begun.elapsed()
}

/// The gateway detects a node that hangs, moves the session to the other one, and uses it again once it recovers.
async fn leaves_a_node_that_hangs(target: &str, echo: &Destination) {
    let deployment = probing(&[CHACHA, CHACHA], target).await;
    let client = deployment.connect("v2").await;
    let mut answered = open_echo(&client, echo).await.unwrap();
    let (hung, node) = held(&deployment).await;
    node.signal("-STOP");
    let mut waiting = socks::connect(client.line("socks"), echo.address).await.unwrap();
    waiting.write_all(b"ping").await.unwrap();
    let begun = Instant::now();
    let end = timeout(TIMEOUT, waiting.read(&mut [0; 1])).await.expect("it does not wait for a node that is down");
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    assert!(until_opened(&client, echo).await < NOTICED, "new streams go elsewhere");
    assert_ne!(held(&deployment).await.0, hung);
    health_is(&deployment, &hung, "unhealthy").await;
    assert!(begun.elapsed() < NOTICED, "the control plane hears of it at once: {:?}", begun.elapsed());
    let view = deployment.control.get("nodes", &format!("{hung}/health")).await["items"][0].clone();
    assert_eq!((&view["healthy"], &view["settled"]), (&json!(false), &json!(false)));
    assert_eq!(view["error"], "no answer: wrong password or cipher?");
    node.signal("-CONT");
    let begun = Instant::now();
    health_is(&deployment, &hung, "healthy").await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    ping(&mut answered).await.expect("a stream that had been answered was left alone");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_hanging_node() {
    let echo = Destination::start(Behavior::Echo);
    leaves_a_node_that_hangs(&echo.address.to_string(), &echo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leave_a_hanging_node_without_a_probe_target() {
    let echo = Destination::start(Behavior::Echo);
    leaves_a_node_that_hangs("", &echo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_destinations_are_waited_for() {
    let (echo, silent) = (Destination::start(Behavior::Echo), Destination::start(Behavior::Sink));
    let deployment = probing(&[CHACHA], &echo.address.to_string()).await;
    let client = deployment.connect("v2").await;
    let mut late = socks::connect(client.line("socks"), silent.address).await.unwrap();
    late.write_all(b"an upload").await.unwrap();
    let probes = echo.connections();
    eventually(|| async { if echo.connections() > probes { Ok(()) } else { Err("not suspected yet".to_owned()) } })
        .await;
    open_echo(&client, &echo).await.unwrap();
    assert!(timeout(Duration::from_millis(1500), late.read(&mut [0; 1])).await.is_err(), "it goes on");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_node_is_used_as_soon_as_it_is_back() {
    let echo = Destination::start(Behavior::Echo);
    let mut deployment = probing(&[CHACHA], &echo.address.to_string()).await;
    let node = id(&deployment.control.list("nodes").await[0]);
    let client = deployment.connect("v2").await;
    open_echo(&client, &echo).await.unwrap();
    deployment.nodes[0].kill().await;
    open_echo(&client, &echo).await.unwrap_err();
    health_is(&deployment, &node, "unhealthy").await;
    deployment.nodes[0].resume().await;
    let begun = Instant::now();
    assert!(until_opened(&client, &echo).await < NOTICED);
    health_is(&deployment, &node, "healthy").await;
    let newcomer = deployment.connect("v2").await;
    open_echo(&newcomer, &echo).await.unwrap();
    assert!(begun.elapsed() < NOTICED, "new sessions, too: {:?}", begun.elapsed());
    for client in [client, newcomer] {
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dying_node_resets_its_streams() {
    let (echo, greeter) = (Destination::start(Behavior::Echo), Destination::start(Behavior::Greeter));
    let mut deployment = probing(&[CHACHA], &echo.address.to_string()).await;
    let client = deployment.connect("v2").await;
    let down = "httvps_streams_refused_total{reason=\"NODE_DOWN\"}";
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = socks::connect(client.line("socks"), greeter.address).await.unwrap();
        stream.read_exact(&mut [0; GREETING.len()]).await.unwrap();
        streams.push(stream);
    }
    let ended = async |stream: &mut TcpStream| {
        let end = timeout(TIMEOUT, stream.read(&mut [0; 1])).await.expect("the stream ends");
        end.map_err(|error| error.kind())
    };
    let mut finished = socks::connect(client.line("socks"), echo.address).await.unwrap();
    finished.shutdown().await.unwrap();
    assert_eq!(ended(&mut finished).await, Ok(0));
    assert_eq!(deployment.metric(down).await, 0, "a node that is there ends its streams as they end");
    deployment.nodes[0].kill().await;
    for stream in &mut streams {
        assert_eq!(ended(stream).await, Err(ErrorKind::ConnectionReset));
    }
    deployment.metric_is(down, 3).await;
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_lose_half_closes_are_detected() {
    let echo = Destination::start(Behavior::Distant);
    let deployment = probing(&[CHACHA, AEAD_2022], &echo.address.to_string()).await;
    let gateway = id(&deployment.control.list("gateways").await[0]);
    deployment.control.create("endpoints", json!({ "gateway_id": gateway, "host": "localhost", "path": "/x" })).await;
    let kept = async || {
        configuration(&deployment.control, &deployment.subscriber.token).await.1["regions"][0]["half_close"].clone()
    };
    let found = eventually(|| async {
        let nodes = deployment.control.list("nodes").await;
        if nodes.iter().any(|node| node["half_close"].is_null()) { Err(format!("{nodes:?}")) } else { Ok(nodes) }
    })
    .await;
    for node in &found {
        let is_libev = node["ss_method"] == "chacha20-ietf-poly1305";
        assert_eq!(node["half_close"], !is_libev, "{node}");
        let health = deployment.control.get("nodes", &format!("{}/health", id(node))).await;
        assert_eq!(health["half_close"], node["half_close"]);
    }
    assert_eq!(kept().await, false, "one that loses them is enough");
    let lossy = found.iter().find(|node| node["half_close"] == false).unwrap();
    deployment.control.update("nodes", &id(lossy), json!({ "state": "draining" })).await;
    assert_eq!(kept().await, true, "what takes sessions keeps them");
}

#[tokio::test(flavor = "multi_thread")]
async fn certain_failures_count_at_once() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
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
