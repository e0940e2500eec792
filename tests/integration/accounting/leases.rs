//! Quotas hold to the byte across several gateways and without the control plane.

use std::time::Duration;

use httvps::frame::{Frame, SessionCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::quota::{IN_FLIGHT, use_up_quota};
use crate::support::raw_session::{open_stream, read_stream, say_hello};
use crate::support::second_gateway::SecondGateway;
use crate::support::socks;
use crate::support::subscriber::Subscriber;

const TOGETHER: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_at_full_speed_respect_a_limit_and_a_top_up() {
    let limit = 100_000_000;
    let plan = json!({ "traffic_limit_gb": 0.1 });
    let deployment = Deployment::build(Kind::Postgres, &[CHACHA], plan, &[]).await;
    let further_gateways =
        [SecondGateway::start(&deployment, "second", &[]).await, SecondGateway::start(&deployment, "third", &[]).await];
    let mut envs = vec![deployment.client_env("v2")];
    envs.extend(further_gateways.iter().map(|second_gateway| second_gateway.client_env(&deployment)));
    let endless = Destination::start(Behavior::Endless);
    let mut clients = Vec::new();
    for env in &envs {
        clients.push(Process::start(&["connect"], env).await);
    }
    let (delivered, ends) = use_up_quota(clients, &endless).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last - *first <= TOGETHER, "{:?} between the first and the last", *last - *first);
    let total = deployment.ended_total().await;
    assert!(delivered <= total, "{delivered} of {total}");
    assert!(total <= limit + 3 * IN_FLIGHT, "{total}");
    assert!(total >= limit - limit / 10, "what was lent and not used was not lost: {total}");
    for env in &envs {
        let refused = Process::try_start(&["connect"], env).await.err().expect("the next hello is refused");
        assert!(refused.stderr.contains("error: LIMIT_REACHED"), "{}", refused.stderr);
    }
    let top_up = json!({ "gb": 0.05, "payment_id": "payment-1" });
    let path = format!("subscriptions/{}/top-up", deployment.subscriber.subscription);
    for _ in 0..2 {
        deployment.control.create(&path, top_up.clone()).await;
    }
    let mut back = Vec::new();
    for env in &envs {
        back.push(Process::start(&["connect"], env).await);
    }
    use_up_quota(back, &endless).await;
    let total = deployment.ended_total().await;
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
async fn uploads_use_up_a_quota_without_exceeding_it() {
    let (limit, streams) = (2_000_000, 8);
    for encoding in ["v1", "v2"] {
        let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "traffic_limit_gb": 0.002 }), &[]).await;
        let sink = Destination::start(Behavior::Discard);
        let client = deployment.connect(encoding).await;
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..streams {
            sending.spawn(poured(client.line("socks").to_owned(), sink.address));
        }
        let ended = client.ended().await;
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        sending.join_all().await;
        let total = deployment.ended_total().await;
        assert!((limit..=limit + streams * 65_536).contains(&total), "{encoding}: {total}");
        assert!(sink.got() <= total, "{encoding}: {} of {total}", sink.got());
    }
}

const LEASE: u64 = 8 << 20;
const FAIL_OPEN: u64 = 5_000_000;

/// A deployment with short, small leases, so that its control plane can be killed.
async fn deployment_with_short_leases(kind: Kind) -> Deployment {
    let plan = json!({ "traffic_limit_gb": 10, "fail_open_mb": 5 });
    let mut deployment = Deployment::build(kind, &[CHACHA], plan, &[]).await;
    deployment.control.kill().await;
    let short = [("SESSIONS__SESSION_TTL", "3s"), ("SESSIONS__RESERVATION_TTL", "3s"), ("LEASES__MAX", "8 MiB")];
    deployment.control.env.extend(env(&short));
    deployment.control.resume().await;
    deployment.gateway.take().unwrap().stop().await;
    deployment.start_gateway().await;
    deployment
}

async fn control_plane_away(kind: Kind) {
    let mut deployment = deployment_with_short_leases(kind).await;
    let (endless, source) = (Destination::start(Behavior::Endless), Destination::start(Behavior::Source));
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open_stream(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (1000, None));
    deployment.usage_settles().await;
    deployment.control.kill().await;
    open_stream(&mut raw, 3, &endless, b"x".to_vec()).await;
    let (got, code) = read_stream(&mut raw).await;
    assert_eq!(code, Some(SessionCode::ControlUnavailable));
    assert!(got >= FAIL_OPEN - 4 * IN_FLIGHT, "{got}");
    assert!(got <= LEASE + FAIL_OPEN + IN_FLIGHT, "{got}");
    deployment.control.resume().await;
    deployment.usage_settles().await;
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open_stream(&mut raw, 1, &source, 20_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (20_000_000, None), "a lease is renewed while it is used");
    deployment.usage_settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_outage_a_session_ends_with_lease_and_allowance_postgres() {
    control_plane_away(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_outage_a_session_ends_with_lease_and_allowance_sqlite() {
    control_plane_away(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_keeps_the_allowance_after_its_lease() {
    let mut deployment = deployment_with_short_leases(Kind::Sqlite).await;
    let source = Destination::start(Behavior::Source);
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    deployment.control.kill().await;
    assert!(raw.is_quiet(Duration::from_secs(5)).await, "nothing ends an idle session");
    open_stream(&mut raw, 1, &source, 1_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (1_000_000, None));
    deployment.control.resume().await;
    deployment.usage_settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_may_start_a_session_during_an_outage() {
    let mut deployment = deployment_with_short_leases(Kind::Sqlite).await;
    let source = Destination::start(Behavior::Source);
    let stranger = Subscriber::create(&deployment.control, json!({ "traffic_limit_gb": 10 })).await;
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open_stream(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (1000, None));
    drop(raw);
    deployment.usage_settles().await;
    deployment.control.kill().await;
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open_stream(&mut raw, 1, &source, 2_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (2_000_000, None));
    let (_, refused) = say_hello(&deployment, &stranger).await;
    let code = SessionCode::ControlUnavailable;
    assert!(matches!(refused, Frame::Error { code: got, .. } if got == code), "{refused:?}");
    deployment.control.resume().await;
    deployment.usage_settles().await;
    assert_eq!(deployment.totals().await, (16, 2_001_000));
}
