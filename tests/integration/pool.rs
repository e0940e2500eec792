//! The pool: health, import, rotation and draining of nodes; enrolment, tokens and versions of gateways.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use httvps::shadowsocks::NodeKey;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use uuid::Uuid;

use crate::database::{BOTH, Kind};
use crate::destination::{Destination, Manner};
use crate::node::{CHACHA, Node};
use crate::process::{Process, eventually, run};
use crate::socks;
use crate::world::{ADMIN_KEY, Control, Env, REGION, Subscriber, World, env, id, register_gateway};

const NEW: &str = "another battery staple";

async fn post(control: &Control, path: &str, token: &str, body: Value) -> (u16, Value) {
    let (status, answer) = control.ask(Method::POST, &format!("/api/v1/{path}"), token, Some(&body)).await;
    (status.as_u16(), answer)
}

async fn regional(kind: Kind, more: &[(&str, &str)]) -> Control {
    let more = [&[("EVENTS__ACK_TIMEOUT", "50ms")][..], more].concat();
    let control = Control::start_with(kind, &more).await;
    control.create("regions", json!({ "code": REGION })).await;
    control
}

async fn probed(control: &Control, token: &str, node: &str, healthy: bool) -> String {
    let error = (!healthy).then(|| "x".repeat(300));
    let body = json!({ "node_id": node, "healthy": healthy, "error": error });
    let (status, answer) = post(control, "outline/heartbeat", token, body).await;
    assert_eq!(status, 200, "{answer}");
    answer["health_status"].as_str().unwrap().to_owned()
}

fn admin_env(control: &Control) -> Env {
    env(&[("ADMIN__URL", &control.url), ("ADMIN__KEY", ADMIN_KEY)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_turns_after_some_probes_in_a_row() {
    for kind in BOTH {
        let control = regional(kind, &[("POOL__FAIL_AFTER", "2"), ("POOL__RECOVER_AFTER", "3")]).await;
        let (gateway, token) = register_gateway(&control, "gw-1").await;
        assert_eq!(post(&control, "gateway/heartbeat", &token, json!({ "version": "1" })).await.0, 200);
        let new = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", new).await);
        let story = [
            (true, "healthy"),
            (false, "healthy"),
            (true, "healthy"),
            (false, "healthy"),
            (false, "unhealthy"),
            (true, "unhealthy"),
            (true, "unhealthy"),
            (false, "unhealthy"),
            (true, "unhealthy"),
            (true, "unhealthy"),
            (true, "healthy"),
            (false, "healthy"),
        ];
        for (step, (healthy, expected)) in story.into_iter().enumerate() {
            assert_eq!(probed(&control, &token, &node, healthy).await, expected, "{kind:?} step {step}");
            let status = control.get("nodes", &node).await["status"].clone();
            assert_eq!(status, if expected == "healthy" { "active" } else { "offline" });
        }
        let health = control.get("nodes", &format!("{node}/health")).await;
        assert_eq!((&health["gateways"], &health["online"], &health["region"]), (&json!(1), &json!(1), &json!(REGION)));
        let view = &health["items"][0];
        assert_eq!((&view["gateway_node_id"], &view["name"]), (&json!(gateway), &json!("gw-1")));
        assert_eq!(
            json!([view["healthy"], view["settled"], view["streak"]]),
            json!([false, true, 1]),
            "one bad probe decides nothing"
        );
        assert_eq!(view["error"].as_str().unwrap().len(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_sessions_once_it_was_seen() {
    for kind in BOTH {
        let control = regional(kind, &[]).await;
        let (_, token) = register_gateway(&control, "gw-1").await;
        post(&control, "gateway/heartbeat", &token, json!({})).await;
        let mut nodes = Vec::new();
        for (host, max) in [(1, 2), (2, 100)] {
            let key = format!("ss://aes-256-gcm:hush@10.0.0.{host}:8388");
            let new = json!({ "region": REGION, "access_key": key, "max_sessions": max });
            nodes.push(id(&control.create("nodes", new).await));
        }
        assert_eq!(probed(&control, &token, &nodes[0], true).await, "healthy");
        let subscriber = Subscriber::create(&control, json!({})).await;
        let assign = async || {
            let wish = json!({
                "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
                "session_id": Uuid::now_v7(), "access_token": subscriber.token,
            });
            post(&control, "nodes/assign-outline", &token, wish).await.1["id"].clone()
        };
        assert_eq!((assign().await, assign().await), (json!(nodes[0]), json!(nodes[0])), "{kind:?}");
        assert_eq!(assign().await, json!(nodes[1]), "better than nothing");
        assert_eq!(probed(&control, &token, &nodes[1], true).await, "healthy");
        assert_eq!(assign().await, json!(nodes[1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_line_does_not_stop_an_import() {
    for kind in BOTH {
        let control = regional(kind, &[]).await;
        let key = |host: u8| format!("ss://aes-256-gcm:hush@10.0.0.{host}:8388");
        control.create("nodes", json!({ "region": REGION, "access_key": key(9) })).await;
        let keys = [key(1), "ss://rc4:hush@10.0.0.2:1".into(), key(1), key(9), key(3)];
        let body = json!({ "region": REGION, "access_keys": keys, "weight": 3 });
        let answer = control.create("nodes/import", body).await;
        let lines = |what: &str| -> Vec<u64> {
            answer[what].as_array().unwrap().iter().map(|item| item["line"].as_u64().unwrap()).collect()
        };
        assert_eq!((lines("created"), lines("failed")), (vec![1, 5], vec![2, 3, 4]), "{kind:?} {answer}");
        let codes: Vec<_> = answer["failed"].as_array().unwrap().iter().map(|item| item["code"].clone()).collect();
        assert_eq!(codes, ["INVALID", "CONFLICT", "CONFLICT"]);
        assert!(answer["failed"][1]["detail"].as_str().unwrap().contains("line 1"), "{answer}");
        let rows = control.list("nodes").await;
        assert_eq!((rows.len(), &rows[1]["weight"]), (3, &json!(3)));
        let path = "/api/v1/admin/nodes/import";
        for (keys, code) in [(Vec::new(), "MISSING"), (vec![key(4); 1001], "TOO_MANY")] {
            let body = json!({ "region": REGION, "access_keys": keys });
            let (status, answer) = control.ask(Method::POST, path, ADMIN_KEY, Some(&body)).await;
            assert_eq!((status.as_u16(), &answer["errors"][0]["code"]), (422, &json!(code)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_import_command_names_the_lines_of_the_file() {
    let control = regional(Kind::Sqlite, &[]).await;
    let file = control.folder.path().join("keys.txt");
    let text = "# two nodes\nss://aes-256-gcm:hush@10.0.0.1:8388\n\nnonsense\nss://aes-256-gcm:hush@10.0.0.2:8388\n";
    std::fs::write(&file, text).unwrap();
    let argument = format!("file={}", file.display());
    let args = ["admin", "nodes", "import", "region=eu-1", &argument];
    let (code, stdout, stderr) = run(&args, &admin_env(&control)).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "error: 1 of 3 keys failed\n"), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("line 2: created ") && lines[0].ends_with(" 10.0.0.1:8388"), "{stdout}");
    assert!(lines[1].starts_with("line 4: INVALID: "), "{stdout}");
    assert!(lines[2].starts_with("line 5: created "), "{stdout}");
    let args = ["admin", "nodes", "import", "region=eu-1", "file=/nothing"];
    let (code, _, stderr) = run(&args, &admin_env(&control)).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nothing"), "{stderr}");
    assert_eq!(run(&["admin", "nodes", "import", "region=eu-1"], &admin_env(&control)).await.0, Some(2));
}

/// Creates a node by command and waits for it.
async fn created_and_waited(control: &Control, node: &NodeKey, patience: &str) -> (Option<i32>, String, String) {
    let (ip, port) = (format!("internal_ip={}", node.host), format!("port={}", node.port));
    let (method, password) = (format!("method={}", node.method), format!("password={}", node.password));
    let args = ["admin", "nodes", "create", "region=eu-1", &ip, &port, &method, &password, "--wait", "--wait-timeout"];
    let args: Vec<&str> = args.into_iter().chain([patience]).collect();
    run(&args, &admin_env(control)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_new_node_says_why_it_takes_no_traffic() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let good = Node::start(CHACHA).await;
    let (code, stdout, stderr) = created_and_waited(&world.control, &good.key, "60s").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("healthy after ")), "{stdout}");
    let mut absent = Node::start(CHACHA).await;
    absent.kill().await;
    let (code, stdout, stderr) = created_and_waited(&world.control, &absent.key, "5s").await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("gateway: connection refused"), "{stderr}");
    assert!(!stdout.contains("healthy after"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_new_node_names_the_missing_gateway() {
    let control = regional(Kind::Sqlite, &[]).await;
    let key = |port| NodeKey { host: "127.0.0.1".into(), port, method: "aes-256-gcm".into(), password: "hush".into() };
    let (code, _, stderr) = created_and_waited(&control, &key(1), "100ms").await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no gateway may use region eu-1"), "{stderr}");
    register_gateway(&control, "gw-1").await;
    let (code, _, stderr) = created_and_waited(&control, &key(2), "100ms").await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no gateway is online"), "{stderr}");
}

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

pub(crate) async fn echoes(socket: &mut TcpStream) -> Result<(), String> {
    let exchange = async {
        socket.write_all(b"ping").await?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.map(|_| answer)
    };
    match timeout(Duration::from_secs(5), exchange).await {
        Ok(Ok(answer)) if &answer == b"ping" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

pub(crate) async fn opened(client: &Process, echo: &Destination) -> Result<TcpStream, String> {
    let mut socket = socks::connect(client.line("socks"), echo.address).await.map_err(|error| error.to_string())?;
    echoes(&mut socket).await?;
    Ok(socket)
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

fn set(env: &mut Env, key: &str, value: &str) {
    env.push((format!("HTTVPS_{key}"), value.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_enrols_itself_and_needs_its_code_once() {
    let mut world = World::start(Kind::Sqlite, CHACHA).await;
    assert_eq!(world.gateway.take().unwrap().stop().await.code, Some(0));
    world.gateway_env.retain(|(name, _)| name != "HTTVPS_GATEWAY__TOKEN");
    let bad = [world.gateway_env.clone(), env(&[("GATEWAY__ENROL_TOKEN", "guessed")])].concat();
    let refused = Process::try_start(&["serve-gateway"], &bad).await.err().expect("a guessed code is refused");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("gateway.enrol_token") && refused.stderr.contains("INVALID_CODE"));
    let invited = world.control.create("gateways/invite", json!({ "name": "gw-2", "region": REGION })).await;
    assert!(invited["token"].is_null() && invited["enrol_until"].is_string(), "{invited}");
    set(&mut world.gateway_env, "GATEWAY__ENROL_TOKEN", invited["enrol_token"].as_str().unwrap());
    let echo = Destination::start(Manner::Echo);
    for _ in 0..2 {
        world.start_gateway().await;
        let client = world.connect("v2").await;
        opened(&client, &echo).await.unwrap();
        assert_eq!(client.stop().await.code, Some(0));
        let row = world.control.get("gateways", &id(&invited)).await;
        assert_eq!(row["status"], "online");
        assert_eq!(world.gateway.take().unwrap().stop().await.code, Some(0));
    }
    let mode = std::fs::metadata(world.state.path().join("token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_good_once_and_for_a_while() {
    for kind in BOTH {
        let control = regional(kind, &[("POOL__GATEWAY_CODE_TTL", "1s")]).await;
        let invited = control.create("gateways/invite", json!({ "name": "gw-1", "region": REGION })).await;
        let enrol = async |code: &Value| post(&control, "gateway/enroll", "", json!({ "token": code })).await;
        let (status, enrolled) = enrol(&invited["enrol_token"]).await;
        assert_eq!((status, &enrolled["gateway_id"]), (200, &invited["id"]), "{kind:?} {enrolled}");
        let token = enrolled["token"].as_str().unwrap();
        assert_eq!(post(&control, "gateway/heartbeat", token, json!({})).await.0, 200);
        let (status, problem) = enrol(&invited["enrol_token"]).await;
        assert_eq!((status, &problem["code"]), (404, &json!("INVALID_CODE")));
        let path = format!("gateways/{}/invite", id(&invited));
        let again = control.create(&path, Value::Null).await;
        assert_eq!(post(&control, "gateway/heartbeat", token, json!({})).await.0, 200, "until the trade");
        assert_eq!(enrol(&again["enrol_token"]).await.0, 200);
        assert_eq!(post(&control, "gateway/heartbeat", token, json!({})).await.0, 401);
        let late = control.create(&path, Value::Null).await;
        let until = time::OffsetDateTime::parse(
            late["enrol_until"].as_str().unwrap(),
            &time::format_description::well_known::Rfc3339,
        )
        .unwrap();
        eventually(|| async {
            if time::OffsetDateTime::now_utc() > until { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        assert_eq!(enrol(&late["enrol_token"]).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_token_is_rotated_and_revoked() {
    for kind in BOTH {
        let control = regional(kind, &[]).await;
        let (gateway, first) = register_gateway(&control, "gw-1").await;
        let beat = async |token: &str| post(&control, "gateway/heartbeat", token, json!({})).await.0;
        let renew = async |body: Value| {
            let answer = control.create(&format!("gateways/{gateway}/token"), body).await;
            answer["token"].as_str().unwrap().to_owned()
        };
        assert_eq!(beat(&first).await, 200);
        let unused = renew(Value::Null).await;
        let second = renew(Value::Null).await;
        assert_eq!((beat(&first).await, beat(&unused).await), (200, 401), "{kind:?}: the one in use stays");
        assert_eq!((beat(&second).await, beat(&first).await), (200, 401), "{kind:?}: until the new one is used");
        let third = renew(json!({ "now": true })).await;
        assert_eq!((beat(&second).await, beat(&third).await), (401, 200));
        let revoked = control.create(&format!("gateways/{gateway}/revoke"), Value::Null).await;
        assert_eq!((&revoked["revoked"], &revoked["status"]), (&json!(true), &json!("offline")));
        assert_eq!(beat(&third).await, 401);
        let path = format!("/api/v1/admin/gateways/{gateway}/token");
        let (status, problem) = control.ask(Method::POST, &path, ADMIN_KEY, None).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("REVOKED")));
        let invited = control.create(&format!("gateways/{gateway}/invite"), Value::Null).await;
        let (_, back) = post(&control, "gateway/enroll", "", json!({ "token": invited["enrol_token"] })).await;
        assert_eq!((beat(back["token"].as_str().unwrap()).await, beat(&third).await), (200, 401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_gateway_is_told_to_upgrade() {
    for kind in BOTH {
        let control = regional(kind, &[("POOL__MIN_GATEWAY_VERSION", "1.2")]).await;
        let (gateway, token) = register_gateway(&control, "gw-1").await;
        let subscriber = Subscriber::create(&control, json!({})).await;
        let validate = async || {
            let body = json!({ "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION });
            post(&control, "auth/validate-device", &token, body).await
        };
        for version in ["1.1.9", "", "new"] {
            let (status, problem) = post(&control, "gateway/heartbeat", &token, json!({ "version": version })).await;
            assert_eq!((status, &problem["code"]), (426, &json!("UPGRADE_REQUIRED")), "{kind:?} {version:?}");
            let (status, problem) = validate().await;
            assert_eq!((status, &problem["code"]), (426, &json!("UPGRADE_REQUIRED")), "{kind:?} {version:?}");
            assert_ne!(control.get("gateways", &gateway).await["status"], "online");
        }
        assert_eq!(post(&control, "gateway/heartbeat", &token, json!({ "version": "1.10.0" })).await.0, 200);
        assert_eq!(validate().await.1["ok"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_that_became_too_old_is_not_ready() {
    let mut world = World::start(Kind::Sqlite, CHACHA).await;
    let client = world.connect("v2").await;
    world.control.kill().await;
    set(&mut world.control.env, "POOL__MIN_GATEWAY_VERSION", "9999");
    world.control.resume().await;
    let ready = format!("{}/readyz", world.gateway().line("ops-gateway"));
    let reason = eventually(|| async {
        let response = world.control.http.get(&ready).send().await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Err("ready".to_owned()) } else { Ok(response.text().await.unwrap()) }
    })
    .await;
    assert!(reason.contains("UPGRADE_REQUIRED"), "{reason}");
    let echo = Destination::start(Manner::Echo);
    opened(&client, &echo).await.expect("open sessions go on");
    assert_eq!(client.stop().await.code, Some(0));
}
