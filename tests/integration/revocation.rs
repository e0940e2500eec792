//! What is revoked ends at once, whatever the reports; nothing that a gateway missed is lost.

use std::time::{Duration, Instant};

use httvps::api::{Event, EventKind};
use httvps::frame::SessionCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::database::{BOTH, Kind};
use crate::destination::{Destination, Manner};
use crate::leases::drain;
use crate::node::CHACHA;
use crate::process::{Process, eventually};
use crate::socks;
use crate::world::{Control, REGION, Subscriber, World, id, metric, register_gateway};

#[path = "../../benches/control/follower.rs"]
pub(crate) mod follower;
use follower::Follower;

/// Reports and heartbeats do not come to help.
pub(crate) const RARELY: [(&str, &str); 2] =
    [("GATEWAY__REPORT_INTERVAL", "1h"), ("GATEWAY__HEARTBEAT_INTERVAL", "30s")];
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);

/// Waits until so many gateways act on what is changed.
pub(crate) async fn followed_by(control: &Control, gateways: u64) {
    let name = format!("{}@example.com", Uuid::new_v4());
    let user = id(&control.create("users", json!({ "identifier": name })).await);
    eventually(|| async {
        control.update("users", &user, json!({ "status": "active" })).await;
        let banned = control.update("users", &user, json!({ "status": "banned" })).await;
        let delivery = &banned["delivery"];
        if (&delivery["acked"], &delivery["of"]) == (&json!(gateways), &json!(gateways)) {
            Ok(())
        } else {
            Err(format!("{delivery}"))
        }
    })
    .await;
}

pub(crate) fn assert_acked(answer: &Value, gateways: u64) {
    let delivery = &answer["delivery"];
    assert_eq!((&delivery["acked"], &delivery["of"]), (&json!(gateways), &json!(gateways)), "{answer}");
    assert!(delivery["ms"].as_u64().unwrap() < 2000, "{answer}");
}

pub(crate) async fn streaming(client: &Process, endless: &Destination) -> TcpStream {
    let mut socket = socks::connect(client.line("socks"), endless.address).await.unwrap();
    socket.write_all(b"x").await.unwrap();
    socket.read_exact(&mut [0; 100_000]).await.unwrap();
    socket
}

/// Waits until a client is refused for good, which must be soon after `since`.
pub(crate) async fn refused(client: Process, codes: &[&str], since: Instant) {
    let ended = client.ended().await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let last = ended.stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
    assert!(codes.contains(&last.split(':').next().unwrap_or_default()), "{}", ended.stderr);
}

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

/// A control plane with a gateway's row whose events are followed here.
struct Wire {
    control: Control,
    gateway: String,
    token: String,
}

impl Wire {
    async fn start(kind: Kind, more: &[(&str, &str)]) -> Self {
        let control = Control::start_with(kind, more).await;
        control.create("regions", json!({ "code": REGION })).await;
        let node = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", node).await);
        let (gateway, token) = register_gateway(&control, "gateway").await;
        let probe = json!({ "node_id": node, "healthy": true });
        let (status, _) = control.ask(Method::POST, "/api/v1/outline/heartbeat", &token, Some(&probe)).await;
        assert!(status.is_success());
        Self { control, gateway, token }
    }

    async fn follow(&self, behind: Option<(&str, i64)>) -> Follower {
        Follower::open(&self.control.http, &self.control.url, &self.token, behind).await
    }

    async fn begin(&self, subscriber: &Subscriber) -> Uuid {
        let session = Uuid::now_v7();
        let wish = json!({
            "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION,
            "assign": true, "session_id": session,
        });
        let path = "/api/v1/auth/validate-device";
        let (_, answer) = self.control.ask(Method::POST, path, &self.token, Some(&wish)).await;
        assert_eq!(answer["ok"], true, "{answer}");
        session
    }

    async fn ban(&self, subscriber: &Subscriber) {
        self.control.update("users", &subscriber.user, json!({ "status": "banned" })).await;
    }
}

/// The next event that ends sessions; numbers rise on the way.
async fn next_stop(follower: &mut Follower, last: &mut i64) -> Event {
    loop {
        let event = follower.next().await.expect("the stream goes on");
        assert!(event.seq > *last, "{event:?} after {last}");
        *last = event.seq;
        if event.code.is_some() {
            return event;
        }
    }
}

const NO_WAIT: (&str, &str) = ("EVENTS__ACK_TIMEOUT", "0s");

#[tokio::test(flavor = "multi_thread")]
async fn events_begin_with_a_snapshot_go_on_in_order_and_resume() {
    for kind in BOTH {
        let wire = Wire::start(kind, &[NO_WAIT]).await;
        let banned = Subscriber::create(&wire.control, json!({})).await;
        let revoked = Subscriber::create(&wire.control, json!({})).await;
        let killed = Subscriber::create(&wire.control, json!({})).await;
        let sessions = [wire.begin(&banned).await, wire.begin(&revoked).await, wire.begin(&killed).await];
        let mut follower = wire.follow(None).await;
        let snapshot = follower.next().await.unwrap();
        assert_eq!((snapshot.kind, snapshot.subject, snapshot.code), (EventKind::Snapshot, None, None));
        let mut listed = snapshot.sessions.clone();
        listed.sort_unstable();
        assert_eq!(listed, sessions, "ids sort by time");
        wire.ban(&banned).await;
        wire.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
        wire.control.admin(Method::DELETE, &format!("sessions/{}", sessions[2]), Value::Null).await;
        let expected = [
            (EventKind::UserStopped, banned.user.parse().unwrap(), SessionCode::UserBanned),
            (EventKind::DeviceStopped, revoked.device.parse().unwrap(), SessionCode::DeviceBanned),
            (EventKind::SessionStopped, sessions[2], SessionCode::SessionKilled),
        ];
        for behind in [None, Some((snapshot.epoch.as_str(), snapshot.seq))] {
            if behind.is_some() {
                follower = wire.follow(behind).await;
            }
            let mut last = snapshot.seq;
            for (kind, subject, code) in expected {
                let event = next_stop(&mut follower, &mut last).await;
                assert_eq!((event.kind, event.subject, event.code), (kind, Some(subject), Some(code)));
                assert_eq!(event.epoch, snapshot.epoch);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_epoch_or_a_number_too_far_behind_gets_a_snapshot_of_what_may_go_on() {
    for kind in BOTH {
        let wire = Wire::start(kind, &[NO_WAIT, ("EVENTS__BACKLOG", "2")]).await;
        let (banned, other) =
            (Subscriber::create(&wire.control, json!({})).await, Subscriber::create(&wire.control, json!({})).await);
        let (ended, goes_on) = (wire.begin(&banned).await, wire.begin(&other).await);
        let mut follower = wire.follow(None).await;
        let first = follower.next().await.unwrap();
        wire.ban(&banned).await;
        let mut last = first.seq;
        let stop = next_stop(&mut follower, &mut last).await;
        let foreign = Uuid::new_v4().to_string();
        let snapshot = wire.follow(Some((&foreign, stop.seq))).await.next().await.unwrap();
        assert_eq!((snapshot.kind, &snapshot.sessions), (EventKind::Snapshot, &vec![goes_on]));
        assert!(snapshot.seq >= stop.seq && !snapshot.sessions.contains(&ended));
        for name in ["one", "two", "three"] {
            let user = id(&wire.control.create("users", json!({ "identifier": format!("{name}@example.com") })).await);
            wire.control.update("users", &user, json!({ "status": "banned" })).await;
            next_stop(&mut follower, &mut last).await;
        }
        let snapshot = wire.follow(Some((&first.epoch, first.seq))).await.next().await.unwrap();
        assert_eq!((snapshot.kind, snapshot.sessions), (EventKind::Snapshot, vec![goes_on]));
        assert_eq!(snapshot.seq, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_acknowledgements_are_for_gateways_and_their_epoch() {
    for kind in BOTH {
        let wire = Wire::start(kind, &[NO_WAIT]).await;
        let stranger = wire.control.ask(Method::GET, "/api/v1/gateway/events", "nobody", None).await;
        assert_eq!((stranger.0.as_u16(), &stranger.1["code"]), (401, &json!("UNAUTHORIZED")));
        let snapshot = wire.follow(None).await.next().await.unwrap();
        let ack = async |epoch: &str| {
            let body = json!({ "epoch": epoch, "seq": snapshot.seq });
            wire.control.ask(Method::POST, "/api/v1/gateway/events/ack", &wire.token, Some(&body)).await.0
        };
        assert!(ack("another").await.is_client_error());
        assert!(ack(&snapshot.epoch).await.is_success());
        assert_eq!(wire.control.get("gateways", &wire.gateway).await["acked_seq"], json!(snapshot.seq));
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
