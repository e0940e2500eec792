//! Quotas hold to the byte over many gateways, and without the control plane.

use std::time::Duration;

use httvps::frame::{Frame, SessionCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::quota::{IN_FLIGHT, spend};
use crate::support::raw_session::{enter, open, read};
use crate::support::second_gateway::Branch;
use crate::support::settling::{counted, settles};
use crate::support::socks;
use crate::support::subscriber::Subscriber;

const TOGETHER: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_flat_out_do_not_exceed_a_limit_and_a_top_up_lets_the_user_back() {
    let limit = 100_000_000;
    let plan = json!({ "traffic_limit_gb": 0.1 });
    let world = World::build(Kind::Postgres, &[CHACHA], plan, &[]).await;
    let branches = [Branch::start(&world, "second", &[]).await, Branch::start(&world, "third", &[]).await];
    let mut envs = vec![world.client_env("v2")];
    envs.extend(branches.iter().map(|branch| branch.client_env(&world)));
    let endless = Destination::start(Manner::Endless);
    let mut clients = Vec::new();
    for env in &envs {
        clients.push(Process::start(&["connect"], env).await);
    }
    let (delivered, ends) = spend(clients, &endless).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last - *first <= TOGETHER, "{:?} between the first and the last", *last - *first);
    let total = counted(&world).await;
    assert!(delivered <= total, "{delivered} of {total}");
    assert!(total <= limit + 3 * IN_FLIGHT, "{total}");
    assert!(total >= limit - limit / 10, "what was lent and not used was not lost: {total}");
    for env in &envs {
        let refused = Process::try_start(&["connect"], env).await.err().expect("the next hello is refused");
        assert!(refused.stderr.contains("error: LIMIT_REACHED"), "{}", refused.stderr);
    }
    let top_up = json!({ "gb": 0.05, "payment_id": "payment-1" });
    let path = format!("subscriptions/{}/top-up", world.subscriber.subscription);
    for _ in 0..2 {
        world.control.create(&path, top_up.clone()).await;
    }
    let mut back = Vec::new();
    for env in &envs {
        back.push(Process::start(&["connect"], env).await);
    }
    spend(back, &endless).await;
    let total = counted(&world).await;
    assert!(total <= limit + 50_000_000 + 3 * IN_FLIGHT, "the payment acts once: {total}");
    assert!(total >= limit + 40_000_000, "{total}");
}

/// Sends until the stream ends.
async fn poured(proxy: String, sink: std::net::SocketAddr) {
    let Ok(mut socket) = socks::connect(&proxy, sink).await else { return };
    let chunk = vec![7; 65_536];
    while socket.write_all(&chunk).await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_use_a_quota_up_and_do_not_exceed_it() {
    let (limit, streams) = (2_000_000, 8);
    for encoding in ["v1", "v2"] {
        let world = World::build(Kind::Sqlite, &[CHACHA], json!({ "traffic_limit_gb": 0.002 }), &[]).await;
        let sink = Destination::start(Manner::Discard);
        let client = world.connect(encoding).await;
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..streams {
            sending.spawn(poured(client.line("socks").to_owned(), sink.address));
        }
        let ended = client.ended().await;
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        sending.join_all().await;
        let total = counted(&world).await;
        assert!((limit..=limit + streams * 65_536).contains(&total), "{encoding}: {total}");
        assert!(sink.got() <= total, "{encoding}: {} of {total}", sink.got());
    }
}

const LEASE: u64 = 8 << 20;
const FAIL_OPEN: u64 = 5_000_000;

/// A world whose leases are short and small; its control plane can be killed.
async fn world_of_leases(kind: Kind) -> World {
    let plan = json!({ "traffic_limit_gb": 10, "fail_open_mb": 5 });
    let mut world = World::build(kind, &[CHACHA], plan, &[]).await;
    world.control.kill().await;
    let short = [("SESSIONS__SESSION_TTL", "3s"), ("SESSIONS__RESERVATION_TTL", "3s"), ("LEASES__MAX", "8 MiB")];
    world.control.env.extend(env(&short));
    world.control.resume().await;
    world.gateway.take().unwrap().stop().await;
    world.start_gateway().await;
    world
}

async fn control_plane_away(kind: Kind) {
    let mut world = world_of_leases(kind).await;
    let (endless, source) = (Destination::start(Manner::Endless), Destination::start(Manner::Source));
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1000, None));
    settles(&world).await;
    world.control.kill().await;
    open(&mut raw, 3, &endless, b"x".to_vec()).await;
    let (got, code) = read(&mut raw).await;
    assert_eq!(code, Some(SessionCode::ControlUnavailable));
    assert!(got >= FAIL_OPEN - 4 * IN_FLIGHT, "{got}");
    assert!(got <= LEASE + FAIL_OPEN + IN_FLIGHT, "{got}");
    world.control.resume().await;
    settles(&world).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 20_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (20_000_000, None), "a lease is renewed while it is used");
    settles(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_a_session_ends_with_its_lease_and_the_budget_postgres() {
    control_plane_away(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_a_session_ends_with_its_lease_and_the_budget_sqlite() {
    control_plane_away(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_keeps_the_budget_when_its_lease_is_over() {
    let mut world = world_of_leases(Kind::Sqlite).await;
    let source = Destination::start(Manner::Source);
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    world.control.kill().await;
    assert!(raw.is_quiet(Duration::from_secs(5)).await, "nothing ends an idle session");
    open(&mut raw, 1, &source, 1_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1_000_000, None));
    world.control.resume().await;
    settles(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_may_begin_a_session_while_the_control_plane_is_away() {
    let mut world = world_of_leases(Kind::Sqlite).await;
    let source = Destination::start(Manner::Source);
    let stranger = Subscriber::create(&world.control, json!({ "traffic_limit_gb": 10 })).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1000, None));
    drop(raw);
    settles(&world).await;
    world.control.kill().await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 2_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (2_000_000, None));
    let (_, refused) = enter(&world, &stranger).await;
    let code = SessionCode::ControlUnavailable;
    assert!(matches!(refused, Frame::Error { code: got, .. } if got == code), "{refused:?}");
    world.control.resume().await;
    settles(&world).await;
    assert_eq!(world.totals().await, (16, 2_001_000));
}
