//! A client that lost its connection names its session, whose slot is free at once (docs/03, "Replaced session").

use std::time::{Duration, Instant};

use httvps::frame::SessionCode;
use serde_json::{Value, json};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::RARE_REPORTS;
use crate::support::deployment::{Deployment, gateway_address};
use crate::support::destination::{Behavior, Destination};
use crate::support::freezable_relay::FreezableRelay;
use crate::support::node::CHACHA;
use crate::support::raw_session::{fetch_on, is_ok, is_refused, read_stream, say_hello_at, session_id};
use crate::support::second_gateway::SecondGateway;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

const AT_ONCE: Duration = Duration::from_secs(3);

fn alone() -> Value {
    json!({ "max_sessions": 1, "traffic_limit_gb": 1, "fail_open_mb": 5 })
}

async fn ended(deployment: &Deployment, session: &str, state: &str) {
    eventually(|| async {
        let row = deployment.control.get("sessions", session).await;
        if row["state"] == state { Ok(()) } else { Err(format!("{row}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_its_connection_is_back_at_once() {
    for kind in BOTH {
        let deployment = Deployment::build(kind, &[CHACHA], alone(), &RARE_REPORTS).await;
        let node = id(&deployment.control.list("nodes").await[0]);
        deployment.control.update("nodes", &node, json!({ "max_sessions": 1 })).await;
        let source = Destination::start(Behavior::Source);
        let (gateway, subscriber) = (deployment.address(), &deployment.subscriber);
        let line = FreezableRelay::start(gateway).await;
        let (mut first, answer) =
            say_hello_at(&deployment, &format!("127.0.0.1:{}", line.port), subscriber, None).await;
        let lost = session_id(&answer);
        fetch_on(&mut first, 1, &source, 100_000).await;
        line.freeze();
        let (_, answer) = say_hello_at(&deployment, gateway, subscriber, None).await;
        assert!(is_refused(&answer, SessionCode::TooManySessions), "{answer:?}");
        let since = Instant::now();
        let (mut second, answer) = say_hello_at(&deployment, gateway, subscriber, Some(&lost)).await;
        assert!(is_ok(&answer) && since.elapsed() < AT_ONCE, "{answer:?} after {:?}", since.elapsed());
        fetch_on(&mut second, 1, &source, 50_000).await;
        deployment.session_count_is(1).await;
        drop(second);
        deployment.usage_settles().await;
        assert_eq!(deployment.totals().await, (16, 150_000));
        assert_eq!(deployment.control.get("nodes", &node).await["active_sessions"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_hanging_gateway_is_replaced_and_its_bytes_count_once() {
    let deployment = Deployment::build(Kind::Postgres, &[CHACHA], alone(), &RARE_REPORTS).await;
    let second_gateway = SecondGateway::start(&deployment, "other", &RARE_REPORTS).await;
    let source = Destination::start(Behavior::Source);
    let subscriber = &deployment.subscriber;
    let (mut first, answer) = say_hello_at(&deployment, deployment.address(), subscriber, None).await;
    let lost = session_id(&answer);
    fetch_on(&mut first, 1, &source, 100_000).await;
    deployment.gateway().signal("-STOP");
    let other = gateway_address(second_gateway.process.as_ref().unwrap());
    let since = Instant::now();
    let (mut second, answer) = say_hello_at(&deployment, other, subscriber, Some(&lost)).await;
    assert!(is_ok(&answer) && since.elapsed() < AT_ONCE, "{answer:?} after {:?}", since.elapsed());
    fetch_on(&mut second, 1, &source, 50_000).await;
    assert_eq!(deployment.control.get("sessions", &lost).await["state"], "killed");
    deployment.gateway().signal("-CONT");
    assert_eq!(read_stream(&mut first).await, (0, Some(SessionCode::SessionKilled)), "its gateway hears of it");
    drop(second);
    deployment.totals_are(16, 150_000).await;
    ended(&deployment, &lost, "killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_other_devices_and_invalid_ids_are_ignored() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], alone(), &RARE_REPORTS).await;
    let source = Destination::start(Behavior::Source);
    let stranger = Subscriber::create(&deployment.control, alone()).await;
    let gateway = deployment.address();
    let (mut theirs, answer) = say_hello_at(&deployment, gateway, &stranger, None).await;
    let session = session_id(&answer);
    for named in [session.as_str(), "no session", "01a202b2-c69c-78a2-814e-3f37949c401e", ""] {
        let (raw, answer) = say_hello_at(&deployment, gateway, &deployment.subscriber, Some(named)).await;
        let own = session_id(&answer);
        let (_, answer) = say_hello_at(&deployment, gateway, &deployment.subscriber, Some(named)).await;
        assert!(is_refused(&answer, SessionCode::TooManySessions), "{named}: {answer:?}");
        drop(raw);
        ended(&deployment, &own, "ended").await;
    }
    fetch_on(&mut theirs, 1, &source, 1000).await;
    assert_ne!(deployment.control.get("sessions", &session).await["state"], "killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_replaces_its_own_sessions_during_an_outage() {
    let patient = ("GATEWAY__CONTROL_PATIENCE", "250ms");
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], alone(), &[patient]).await;
    let source = Destination::start(Behavior::Source);
    let (_first, answer) = say_hello_at(&deployment, deployment.address(), &deployment.subscriber, None).await;
    let (mut second, answer) =
        say_hello_at(&deployment, deployment.address(), &deployment.subscriber, Some(&session_id(&answer))).await;
    let mut named = session_id(&answer);
    fetch_on(&mut second, 1, &source, 1000).await;
    deployment.control.kill().await;
    for _ in 0..3 {
        let (mut next, answer) =
            say_hello_at(&deployment, deployment.address(), &deployment.subscriber, Some(&named)).await;
        named = session_id(&answer);
        assert_eq!(read_stream(&mut second).await, (0, Some(SessionCode::SessionKilled)));
        fetch_on(&mut next, 1, &source, 1000).await;
        second = next;
        deployment.session_count_is(1).await;
    }
    drop(second);
    deployment.control.resume().await;
    deployment.usage_settles().await;
    assert_eq!(deployment.totals().await, (4 * 8, 4000));
}
