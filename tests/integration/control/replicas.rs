//! Two control planes on one PostgreSQL behave as one.

use std::time::Instant;

use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::billing_api::Shop;
use crate::support::control::{Control, REGION, id};
use crate::support::database::{Kind, connect};
use crate::support::delivery::{RARELY, assert_acked, followed_by, refused};
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::environment::{env, free_port};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::quota::{IN_FLIGHT, spend};
use crate::support::second_gateway::Branch;
use crate::support::settling::counted;
use crate::support::socks;
use crate::support::subscriber::Subscriber;
use crate::support::transfer::{drain, streaming};
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
        self.guest_of_the_branch(&self.world.subscriber).await
    }

    async fn guest_of_the_branch(&self, guest: &Subscriber) -> Process {
        let mut env = self.branch.client_env(&self.world);
        env.extend(self::env(&[("CLIENT__DEVICE_ID", &guest.device), ("CLIENT__TOKEN", &guest.token)]));
        Process::start(&["connect"], &env).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_at_one_replica_cuts_a_session_that_the_other_admitted() {
    let pair = Pair::start(json!({}), &RARELY).await;
    let (first, second) = (&pair.world.control, &pair.second);
    followed_by(first, 2).await;
    followed_by(second, 2).await;
    let user = &pair.world.subscriber.user;
    let endless = Destination::start(Manner::Endless);
    for control in [first, second] {
        let clients = [pair.world.connect("v2").await, pair.client_of_the_branch().await];
        let mut reading = JoinSet::new();
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
    let endless = Destination::start(Manner::Endless);
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
    let source = Destination::start(Manner::Source);
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

/// What a client or a gateway asks for.
#[derive(Clone, Debug)]
struct Wish {
    path: &'static str,
    token: String,
    body: Value,
}

impl Wish {
    /// The answer, unless the connection broke before.
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

/// Enrolments of a user and admissions of his device, in turns.
async fn wishes(shop: &Shop, subscriber: &Subscriber) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for number in 0..EACH {
        let code = shop.control.create("codes", json!({ "user_id": subscriber.user })).await["code"].clone();
        let enrolment = json!({ "code": code, "device_uuid": format!("phone-{number}"), "platform": "test" });
        let admission = json!({
            "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION,
            "assign": true, "session_id": Uuid::now_v7(),
        });
        for (path, body) in [("auth/enroll", enrolment), ("auth/validate-device", admission)] {
            wishes.push(Wish { path, token: shop.token.clone(), body });
        }
    }
    wishes
}

/// Kills a replica whose requests wait for the user's lock with those of the other, or one of which it has answered.
async fn killed_among_requests(one_is_answered: bool) {
    let shop = Shop::start(Kind::Postgres).await;
    let first = &shop.control;
    let mut second = replica(first).await;
    let limits = json!({ "max_devices": DEVICES, "max_sessions": SESSIONS });
    let subscriber = Subscriber::create(first, limits).await;
    let wishes = wishes(&shop, &subscriber).await;
    let sql = connect(first.database()).await;
    let lock = format!("BEGIN; SELECT FROM users WHERE id = '{}' FOR NO KEY UPDATE", subscriber.user);
    sql.batch_execute(&lock).await.unwrap();
    let mut asked = FuturesUnordered::new();
    for (number, wish) in wishes.iter().enumerate() {
        let is_first = number / 2 % 2 == 0;
        let url = if is_first { first.url.clone() } else { second.url.clone() };
        let http = first.http.clone();
        asked.push(async move { (wish, is_first, wish.ask(http, url).await) });
    }
    let waiting = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let observer = connect(first.database()).await;
        eventually(|| async {
            match observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) {
                count if usize::try_from(count) == Ok(wishes.len()) => Ok(()),
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
        while let Some((wish, is_first, answer)) = asked.next().await {
            answers.push((wish, answer));
            if !is_first {
                break;
            }
        }
        second.kill().await;
    } else {
        second.kill().await;
        sql.batch_execute("ROLLBACK").await.unwrap();
    }
    while let Some((wish, _, answer)) = asked.next().await {
        answers.push((wish, answer));
    }
    let lost = answers.iter().filter(|(_, answer)| answer.is_none()).count();
    assert!(one_is_answered || lost == EACH, "{lost} answers were lost");
    let (mut enrolled, mut admitted) = (0, 0);
    for (wish, answer) in answers {
        let (status, answer) = match answer {
            Some(answer) => answer,
            None => wish.ask(first.http.clone(), first.url.clone()).await.expect("the other replica answers"),
        };
        match (wish.path, status.as_u16(), &answer["ok"], answer["code"].as_str()) {
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
            let taken = control.get("nodes", &shop.node).await["active_sessions"].clone();
            if taken == json!(SESSIONS) { Ok(()) } else { Err(taken.to_string()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_while_all_requests_wait_and_limits_hold_at_the_other() {
    killed_among_requests(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_between_its_answers_and_limits_hold_at_the_other() {
    killed_among_requests(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_and_its_gateway_hears_what_it_missed_once_it_is_back() {
    let mut pair = Pair::start(json!({}), &RARELY).await;
    let [banned, killed, kept] =
        join_all((0..3).map(|_| Subscriber::create(&pair.world.control, json!({})))).await.try_into().unwrap();
    for control in [&pair.world.control, &pair.second] {
        followed_by(control, 2).await;
    }
    let endless = Destination::start(Manner::Endless);
    let source = Destination::start(Manner::Source);
    let own = pair.world.connect("v2").await;
    let guests = join_all([&banned, &killed, &kept].map(|guest| pair.guest_of_the_branch(guest))).await;
    let [missed, ended, staying]: [Process; 3] = guests.try_into().ok().unwrap();
    let mut reading = JoinSet::new();
    for client in [&own, &missed, &ended] {
        reading.spawn(drain(streaming(client, &endless).await));
    }
    pair.second.kill().await;
    let first = &pair.world.control;
    let ban = async |user: &str| first.update("users", user, json!({ "status": "banned" })).await;
    let session = id(&first.list(&format!("sessions?device_id={}", killed.device)).await[0]);
    let cut = refused(own, &["USER_BANNED"], Instant::now());
    let (answer, ()) = join(ban(&pair.world.subscriber.user), cut).await;
    assert_eq!((&answer["delivery"]["acked"], &answer["delivery"]["of"]), (&json!(1), &json!(2)), "{answer}");
    join(ban(&banned.user), first.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null)).await;
    for client in [&missed, &ended, &staying] {
        fetch(client.line("socks"), &source, 1000).await;
    }
    pair.second.resume().await;
    let since = Instant::now();
    join(refused(missed, &["USER_BANNED"], since), refused(ended, &["SESSION_KILLED"], since)).await;
    reading.join_all().await;
    fetch(staying.line("socks"), &source, 1000).await;
    let since = Instant::now();
    assert_acked(&ban(&kept.user).await, 2);
    refused(staying, &["USER_BANNED"], since).await;
}

/// An address behind which stands the control plane that is chosen.
struct Balancer {
    url: String,
    chosen: watch::Sender<String>,
}

impl Balancer {
    async fn before(control: &Control) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (chosen, current) = watch::channel(control.url.clone());
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let address = current.borrow().strip_prefix("http://").unwrap().to_owned();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(address).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { url, chosen }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_goes_on_behind_the_last_event_of_a_killed_replica_at_another() {
    let mut pair = Pair::start(json!({}), &RARELY).await;
    let banned = Subscriber::create(&pair.world.control, json!({})).await;
    let balancer = Balancer::before(&pair.second).await;
    pair.branch.process.take().unwrap().stop().await;
    pair.branch.env.extend(env(&[("GATEWAY__CONTROL_URL", &balancer.url)]));
    pair.branch.resume(&pair.world).await;
    followed_by(&pair.second, 2).await;
    let endless = Destination::start(Manner::Endless);
    let source = Destination::start(Manner::Source);
    let (missed, staying) = (pair.guest_of_the_branch(&banned).await, pair.client_of_the_branch().await);
    let reading = tokio::spawn(drain(streaming(&missed, &endless).await));
    pair.second.kill().await;
    let first = &pair.world.control;
    first.update("users", &banned.user, json!({ "status": "banned" })).await;
    let unlisted = format!("DELETE FROM sessions WHERE device_id = '{}'", pair.world.subscriber.device);
    first.rewrite(&unlisted).await;
    fetch(missed.line("socks"), &source, 1000).await;
    let since = Instant::now();
    balancer.chosen.send_replace(first.url.clone());
    refused(missed, &["USER_BANNED"], since).await;
    reading.await.unwrap();
    fetch(staying.line("socks"), &source, 1000).await;
    let since = Instant::now();
    let no_snapshot_ended_it = ["USER_BANNED"];
    assert_acked(&first.update("users", &pair.world.subscriber.user, json!({ "status": "banned" })).await, 2);
    refused(staying, &no_snapshot_ended_it, since).await;
}
