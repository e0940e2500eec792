//! Two control planes on one PostgreSQL database behave as one.

use std::time::Instant;

use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::balancer::Balancer;
use crate::support::billing_api::BillingApi;
use crate::support::control::{Control, REGION, id};
use crate::support::database::{Kind, connect};
use crate::support::delivery::{RARE_REPORTS, assert_acked, assert_refused_promptly, wait_for_followers};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::{env, free_port};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::quota::{IN_FLIGHT, use_up_quota};
use crate::support::second_gateway::SecondGateway;
use crate::support::subscriber::Subscriber;
use crate::support::transfer::{fetch, read_until_closed, start_streaming};
use crate::support::wait::eventually;

/// Another control plane on the same database.
async fn replica(of: &Control) -> Control {
    let address = format!("127.0.0.1:{}", free_port());
    let mut env = of.env.clone();
    env.extend(self::env(&[("CONTROL__LISTEN", &address)]));
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control { env, url: format!("http://{address}"), process: None, http: of.http.clone(), folder };
    control.resume().await;
    control
}

/// A gateway on each of two replicas.
struct ReplicaPair {
    deployment: Deployment,
    second: Control,
    second_gateway: SecondGateway,
}

impl ReplicaPair {
    async fn start(plan: Value, more: &[(&str, &str)]) -> Self {
        let deployment = Deployment::build(Kind::Postgres, &[CHACHA], plan, more).await;
        let second = replica(&deployment.control).await;
        let second_gateway =
            SecondGateway::start(&deployment, "second", &[("GATEWAY__CONTROL_URL", &second.url)]).await;
        Self { deployment, second, second_gateway }
    }

    async fn client_of_second_gateway(&self) -> Process {
        self.guest_of_second_gateway(&self.deployment.subscriber).await
    }

    async fn guest_of_second_gateway(&self, guest: &Subscriber) -> Process {
        let mut env = self.second_gateway.client_env(&self.deployment);
        env.extend(self::env(&[("CLIENT__DEVICE_ID", &guest.device), ("CLIENT__TOKEN", &guest.token)]));
        Process::start(&["connect"], &env).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_at_one_replica_cuts_a_session_that_the_other_admitted() {
    let pair = ReplicaPair::start(json!({}), &RARE_REPORTS).await;
    let (first, second) = (&pair.deployment.control, &pair.second);
    wait_for_followers(first, 2).await;
    wait_for_followers(second, 2).await;
    let user = &pair.deployment.subscriber.user;
    let endless = Destination::start(Behavior::Endless);
    for control in [first, second] {
        let clients = [pair.deployment.connect("v2").await, pair.client_of_second_gateway().await];
        let mut reading = JoinSet::new();
        for client in &clients {
            reading.spawn(read_until_closed(start_streaming(client, &endless).await));
        }
        let since = Instant::now();
        let answer = control.update("users", user, json!({ "status": "banned" })).await;
        join_all(clients.into_iter().map(|client| assert_refused_promptly(client, &["USER_BANNED"], since))).await;
        assert_acked(&answer, 2);
        reading.join_all().await;
        control.update("users", user, json!({ "status": "active" })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_limit_holds_for_fifty_enrollments_at_both_replicas() {
    const LIMIT: usize = 3;
    let pair = ReplicaPair::start(json!({}), &[]).await;
    let (first, second) = (&pair.deployment.control, &pair.second);
    let plan = id(&first.create("plans", json!({ "name": "three devices", "max_devices": LIMIT })).await);
    let user = id(&first.create("users", json!({ "identifier": "many@example.com" })).await);
    first.create("subscriptions", json!({ "user_id": user, "plan_id": plan, "days": 30 })).await;
    let mut codes = Vec::new();
    for _ in 0..50 {
        let code = first.create("codes", json!({ "user_id": user })).await;
        codes.push(code["code"].as_str().unwrap().to_owned());
    }
    let enrollments = codes.iter().enumerate().map(|(number, code)| async move {
        let body = json!({ "code": code, "device_uuid": format!("phone-{number}"), "platform": "test" });
        let control = if number % 2 == 0 { first } else { second };
        control.ask(Method::POST, "/api/v1/auth/enroll", "", Some(&body)).await
    });
    let answers = join_all(enrollments).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| status.is_success());
    assert_eq!(made.len(), LIMIT, "{answers:?}");
    assert!(refused.iter().all(|(_, problem)| problem["code"] == "DEVICE_LIMIT"), "{refused:?}");
    for control in [first, second] {
        let devices = control.list(&format!("devices?user_id={user}")).await;
        assert_eq!(devices.iter().filter(|device| device["status"] == "active").count(), LIMIT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_used_at_both_replicas_is_exact() {
    let limit = 50_000_000;
    let pair = ReplicaPair::start(json!({ "traffic_limit_gb": 0.05 }), &[]).await;
    let endless = Destination::start(Behavior::Endless);
    let clients = vec![pair.deployment.connect("v2").await, pair.client_of_second_gateway().await];
    let (delivered, _) = use_up_quota(clients, &endless).await;
    let total = pair.deployment.ended_total().await;
    assert!(delivered <= total && total <= limit + 2 * IN_FLIGHT, "{delivered} delivered, {total} counted");
    assert!(total >= limit - limit / 10, "{total}");
    let sum = |sessions: Vec<Value>| -> u64 {
        sessions.iter().map(|one| one["bytes_up"].as_u64().unwrap() + one["bytes_down"].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(pair.second.list("sessions").await), total);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replicas_gateway_keeps_serving_and_reports_to_the_other() {
    let mut pair = ReplicaPair::start(json!({}), &[]).await;
    let (own, others) = (pair.deployment.connect("v2").await, pair.client_of_second_gateway().await);
    let source = Destination::start(Behavior::Source);
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 100_000).await;
    }
    pair.second.kill().await;
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 1_234_567).await;
    }
    let second_gateway = pair.second_gateway.process.take().unwrap();
    assert_eq!(second_gateway.stop().await.code, Some(0));
    let url = pair.deployment.control.url.clone();
    pair.second_gateway.env.extend(env(&[("GATEWAY__CONTROL_URL", &url)]));
    pair.second_gateway.resume(&pair.deployment).await;
    pair.deployment.totals_are(source.got(), source.gave()).await;
    for client in [&own, &others] {
        fetch(client.line("socks"), &source, 7).await;
    }
    pair.deployment.totals_are(source.got(), source.gave()).await;
}

/// A request of a client or a gateway.
#[derive(Clone, Debug)]
struct PendingRequest {
    path: &'static str,
    token: String,
    body: Value,
}

impl PendingRequest {
    /// The response, unless the connection broke first.
    async fn ask(&self, http: Client, url: String) -> Option<(StatusCode, Value)> {
        let request = http.post(format!("{url}/api/v1/{}", self.path)).bearer_auth(&self.token).json(&self.body);
        let response = request.send().await.ok()?;
        let status = response.status();
        Some((status, response.json().await.ok()?))
    }
}

const DEVICES: usize = 3;
const SESSIONS: usize = 2;
const EACH: usize = 10;

/// Enrollments of a user and admissions of their device, alternating.
async fn pending_requests(billing: &BillingApi, subscriber: &Subscriber) -> Vec<PendingRequest> {
    let mut pending_requests = Vec::new();
    for number in 0..EACH {
        let code = billing.api.control.create("codes", json!({ "user_id": subscriber.user })).await["code"].clone();
        let enrollment = json!({ "code": code, "device_uuid": format!("phone-{number}"), "platform": "test" });
        let admission = json!({
            "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION,
            "assign": true, "session_id": Uuid::now_v7(),
        });
        for (path, body) in [("auth/enroll", enrollment), ("auth/validate-device", admission)] {
            pending_requests.push(PendingRequest { path, token: billing.api.token.clone(), body });
        }
    }
    pending_requests
}

/// Kills a replica while its requests wait for the user's lock, or after it has answered one of them.
async fn killed_among_requests(one_is_answered: bool) {
    let billing = BillingApi::start(Kind::Postgres).await;
    let first = &billing.api.control;
    let mut second = replica(first).await;
    let limits = json!({ "max_devices": DEVICES, "max_sessions": SESSIONS });
    let subscriber = Subscriber::create(first, limits).await;
    let pending_requests = pending_requests(&billing, &subscriber).await;
    let sql = connect(first.database()).await;
    let lock = format!("BEGIN; SELECT FROM users WHERE id = '{}' FOR NO KEY UPDATE", subscriber.user);
    sql.batch_execute(&lock).await.unwrap();
    let mut asked = FuturesUnordered::new();
    for (number, request) in pending_requests.iter().enumerate() {
        let is_first = number / 2 % 2 == 0;
        let url = if is_first { first.url.clone() } else { second.url.clone() };
        let http = first.http.clone();
        asked.push(async move { (request, is_first, request.ask(http, url).await) });
    }
    let waiting = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let observer = connect(first.database()).await;
        eventually(|| async {
            match observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) {
                count if usize::try_from(count) == Ok(pending_requests.len()) => Ok(()),
                count => Err(format!("{count} requests wait")),
            }
        })
        .await;
    };
    tokio::select! {
        () = waiting => {}
        early = asked.next() => panic!("{early:?} did not wait for the lock"),
    }
    let mut answers = Vec::new();
    if one_is_answered {
        sql.batch_execute("ROLLBACK").await.unwrap();
        while let Some((request, is_first, answer)) = asked.next().await {
            answers.push((request, answer));
            if !is_first {
                break;
            }
        }
        second.kill().await;
    } else {
        second.kill().await;
        sql.batch_execute("ROLLBACK").await.unwrap();
    }
    while let Some((request, _, answer)) = asked.next().await {
        answers.push((request, answer));
    }
    let lost = answers.iter().filter(|(_, answer)| answer.is_none()).count();
    assert!(one_is_answered || lost == EACH, "{lost} answers were lost");
    let (mut enrolled, mut admitted) = (0, 0);
    for (request, answer) in answers {
        let (status, answer) = match answer {
            Some(answer) => answer,
            None => request.ask(first.http.clone(), first.url.clone()).await.expect("the other replica answers"),
        };
        match (request.path, status.as_u16(), &answer["ok"], answer["code"].as_str()) {
            ("auth/enroll", 200, ..) => enrolled += 1,
            ("auth/validate-device", 200, Value::Bool(true), _) => admitted += 1,
            ("auth/enroll", 409, _, Some("DEVICE_LIMIT"))
            | ("auth/validate-device", 200, _, Some("TOO_MANY_SESSIONS")) => {}
            other => panic!("{other:?} {answer}"),
        }
    }
    assert_eq!((enrolled, admitted), (DEVICES - 1, SESSIONS));
    second.resume().await;
    for control in [first, &second] {
        let devices = control.list(&format!("devices?user_id={}", subscriber.user)).await;
        assert_eq!(devices.iter().filter(|device| device["status"] == "active").count(), DEVICES);
        let sessions = control.list(&format!("sessions?user_id={}", subscriber.user)).await;
        assert_eq!(sessions.iter().filter(|session| session["state"] == "reserved").count(), SESSIONS);
        eventually(|| async {
            let taken = control.get("nodes", &billing.api.nodes[0]).await["active_sessions"].clone();
            if taken == json!(SESSIONS) { Ok(()) } else { Err(taken.to_string()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_when_a_replica_is_killed_before_it_answers() {
    killed_among_requests(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_when_a_replica_is_killed_between_answers() {
    killed_among_requests(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_catches_up_once_its_killed_replica_is_back() {
    let mut pair = ReplicaPair::start(json!({}), &RARE_REPORTS).await;
    let [banned, killed, kept] =
        join_all((0..3).map(|_| Subscriber::create(&pair.deployment.control, json!({})))).await.try_into().unwrap();
    for control in [&pair.deployment.control, &pair.second] {
        wait_for_followers(control, 2).await;
    }
    let endless = Destination::start(Behavior::Endless);
    let source = Destination::start(Behavior::Source);
    let own = pair.deployment.connect("v2").await;
    let guests = join_all([&banned, &killed, &kept].map(|guest| pair.guest_of_second_gateway(guest))).await;
    let [missed, ended, staying]: [Process; 3] = guests.try_into().ok().unwrap();
    let mut reading = JoinSet::new();
    for client in [&own, &missed, &ended] {
        reading.spawn(read_until_closed(start_streaming(client, &endless).await));
    }
    pair.second.kill().await;
    let first = &pair.deployment.control;
    let ban = async |user: &str| first.update("users", user, json!({ "status": "banned" })).await;
    let session = id(&first.list(&format!("sessions?device_id={}", killed.device)).await[0]);
    let cut = assert_refused_promptly(own, &["USER_BANNED"], Instant::now());
    let (answer, ()) = join(ban(&pair.deployment.subscriber.user), cut).await;
    assert_eq!((&answer["delivery"]["acked"], &answer["delivery"]["of"]), (&json!(1), &json!(2)), "{answer}");
    join(ban(&banned.user), first.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null)).await;
    for client in [&missed, &ended, &staying] {
        fetch(client.line("socks"), &source, 1000).await;
    }
    pair.second.resume().await;
    let since = Instant::now();
    join(
        assert_refused_promptly(missed, &["USER_BANNED"], since),
        assert_refused_promptly(ended, &["SESSION_KILLED"], since),
    )
    .await;
    reading.join_all().await;
    fetch(staying.line("socks"), &source, 1000).await;
    let since = Instant::now();
    assert_acked(&ban(&kept.user).await, 2);
    assert_refused_promptly(staying, &["USER_BANNED"], since).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_resumes_events_of_a_killed_replica_at_the_other() {
    let mut pair = ReplicaPair::start(json!({}), &RARE_REPORTS).await;
    let banned = Subscriber::create(&pair.deployment.control, json!({})).await;
    let balancer = Balancer::to(pair.second.address()).await;
    pair.second_gateway.process.take().unwrap().stop().await;
    pair.second_gateway.env.extend(env(&[("GATEWAY__CONTROL_URL", &format!("http://{}", balancer.address))]));
    pair.second_gateway.resume(&pair.deployment).await;
    wait_for_followers(&pair.second, 2).await;
    let endless = Destination::start(Behavior::Endless);
    let source = Destination::start(Behavior::Source);
    let (missed, staying) = (pair.guest_of_second_gateway(&banned).await, pair.client_of_second_gateway().await);
    let reading = tokio::spawn(read_until_closed(start_streaming(&missed, &endless).await));
    pair.second.kill().await;
    let first = &pair.deployment.control;
    first.update("users", &banned.user, json!({ "status": "banned" })).await;
    let unlisted = format!("DELETE FROM sessions WHERE device_id = '{}'", pair.deployment.subscriber.device);
    first.rewrite(&unlisted).await;
    fetch(missed.line("socks"), &source, 1000).await;
    let since = Instant::now();
    balancer.chosen.send_replace(first.address().to_owned());
    assert_refused_promptly(missed, &["USER_BANNED"], since).await;
    reading.await.unwrap();
    fetch(staying.line("socks"), &source, 1000).await;
    let since = Instant::now();
    let no_snapshot_ended_it = ["USER_BANNED"];
    assert_acked(&first.update("users", &pair.deployment.subscriber.user, json!({ "status": "banned" })).await, 2);
    assert_refused_promptly(staying, &no_snapshot_ended_it, since).await;
}
