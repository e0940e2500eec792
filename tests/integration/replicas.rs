//! Two control planes on one PostgreSQL behave as one.

use std::time::Instant;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::leases::{Branch, IN_FLIGHT, counted, drain, spend};
use crate::node::CHACHA;
use crate::process::Process;
use crate::revocation::{RARELY, assert_acked, followed_by, refused, streaming};
use crate::socks;
use crate::world::{Control, World, env, id};

/// Another control plane on the same database.
async fn replica(of: &Control) -> Control {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut env = of.env.clone();
    env.extend(self::env(&[("CONTROL__LISTEN", &address.to_string())]));
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control { env, url: format!("http://{address}"), process: None, http: of.http.clone(), folder };
    control.resume().await;
    control
}

/// A gateway on each of two replicas.
struct Pair {
    world: World,
    second: Control,
    branch: Branch,
}

impl Pair {
    async fn start(plan: Value, more: &[(&str, &str)]) -> Self {
        let world = World::build(Kind::Postgres, &[CHACHA], plan, more).await;
        let second = replica(&world.control).await;
        let branch = Branch::start(&world, "branch", &[("GATEWAY__CONTROL_URL", &second.url)]).await;
        Self { world, second, branch }
    }

    async fn client_of_the_branch(&self) -> Process {
        Process::start(&["connect"], &self.branch.client_env(&self.world)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_at_one_replica_cuts_a_session_that_the_other_admitted() {
    let pair = Pair::start(json!({}), &RARELY).await;
    let (first, second) = (&pair.world.control, &pair.second);
    followed_by(first, 2).await;
    followed_by(second, 2).await;
    let user = &pair.world.subscriber.user;
    let endless = Destination::start(Manner::Endless).await;
    for control in [first, second] {
        let clients = [pair.world.connect("v2").await, pair.client_of_the_branch().await];
        let mut reading = tokio::task::JoinSet::new();
        for client in &clients {
            reading.spawn(drain(streaming(client, &endless).await));
        }
        let since = Instant::now();
        let answer = control.update("users", user, json!({ "status": "banned" })).await;
        join_all(clients.into_iter().map(|client| refused(client, &["USER_BANNED"], since))).await;
        assert_acked(&answer, 2);
        reading.join_all().await;
        control.update("users", user, json!({ "status": "active" })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_enrolments_at_once_over_both_replicas_keep_the_device_limit() {
    const LIMIT: usize = 3;
    let pair = Pair::start(json!({}), &[]).await;
    let (first, second) = (&pair.world.control, &pair.second);
    let plan = id(&first.create("plans", json!({ "name": "three devices", "max_devices": LIMIT })).await);
    let user = id(&first.create("users", json!({ "identifier": "many@example.com" })).await);
    first.create("subscriptions", json!({ "user_id": user, "plan_id": plan, "days": 30 })).await;
    let mut codes = Vec::new();
    for _ in 0..50 {
        let code = first.create("codes", json!({ "user_id": user })).await;
        codes.push(code["code"].as_str().unwrap().to_owned());
    }
    let enrolments = codes.iter().enumerate().map(|(number, code)| async move {
        let body = json!({ "code": code, "device_uuid": format!("phone-{number}"), "platform": "test" });
        let control = if number % 2 == 0 { first } else { second };
        control.ask(Method::POST, "/api/v1/auth/enroll", "", Some(&body)).await
    });
    let answers = join_all(enrolments).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| status.is_success());
    assert_eq!(made.len(), LIMIT, "{answers:?}");
    assert!(refused.iter().all(|(_, problem)| problem["code"] == "DEVICE_LIMIT"), "{refused:?}");
    for control in [first, second] {
        let devices = control.list(&format!("devices?user_id={user}")).await;
        assert_eq!(devices.iter().filter(|device| device["status"] == "active").count(), LIMIT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_over_both_replicas_is_exact() {
    let limit = 50_000_000;
    let pair = Pair::start(json!({ "traffic_limit_gb": 0.05 }), &[]).await;
    let endless = Destination::start(Manner::Endless).await;
    let clients = vec![pair.world.connect("v2").await, pair.client_of_the_branch().await];
    let (delivered, _) = spend(clients, &endless).await;
    let total = counted(&pair.world).await;
    assert!(delivered <= total && total <= limit + 2 * IN_FLIGHT, "{delivered} delivered, {total} counted");
    assert!(total >= limit - limit / 10, "{total}");
    let sum = |sessions: Vec<Value>| -> u64 {
        sessions.iter().map(|one| one["bytes_up"].as_u64().unwrap() + one["bytes_down"].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(pair.second.list("sessions").await), total);
}

async fn fetch(proxy: &str, source: &Destination, len: u64) {
    let mut socket = socks::connect(proxy, source.address).await.unwrap();
    socket.write_all(&len.to_be_bytes()).await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len() as u64, len);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_and_its_gateway_serves_on_and_reports_everything_to_the_other() {
    let mut pair = Pair::start(json!({}), &[]).await;
    let (own, others) = (pair.world.connect("v2").await, pair.client_of_the_branch().await);
    let source = Destination::start(Manner::Source).await;
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 100_000).await;
    }
    pair.second.kill().await;
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 1_234_567).await;
    }
    let branch = pair.branch.process.take().unwrap();
    assert_eq!(branch.stop().await.code, Some(0));
    let url = pair.world.control.url.clone();
    pair.branch.env.extend(env(&[("GATEWAY__CONTROL_URL", &url)]));
    pair.branch.resume(&pair.world).await;
    pair.world.settles_at(source.got(), source.gave()).await;
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 7).await;
    }
    pair.world.settles_at(source.got(), source.gave()).await;
}
