//! The control plane hangs or is down: nobody waits for it, and usage stays exact.

use std::time::{Duration, Instant};

use httvps::frame::{Frame, SessionCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::database::{self, Kind};
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::outage::{
    SHORT_CONTROL_PATIENCE, deployment_with_known_device, make_device_known, plan_with_outage_allowance,
};
use crate::support::raw::{self, RawClient};
use crate::support::raw_session::{fetch_on, is_ok, is_refused, read_stream, say_hello};
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// Three times the delay that an outage may cause, for a busy machine.
const STALL: Duration = Duration::from_millis(3 * 250);

async fn timed_entry(deployment: &Deployment, subscriber: &Subscriber) -> (RawClient, Frame, Duration) {
    let mut raw = RawClient::open(deployment, "httvps.v2").await;
    let hello = raw::hello_of(subscriber);
    let started = Instant::now();
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer, started.elapsed())
}

/// Retries until the gateway has found the control plane again.
async fn entered_at_last(deployment: &Deployment) -> (RawClient, Frame) {
    eventually(|| async {
        let (raw, answer) = say_hello(deployment, &deployment.subscriber).await;
        if is_ok(&answer) { Ok((raw, answer)) } else { Err(format!("{answer:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_control_plane_delays_known_devices_by_its_timeout_at_most() {
    let deployment = Deployment::build(
        Kind::Sqlite,
        &[CHACHA],
        plan_with_outage_allowance(),
        &[SHORT_CONTROL_PATIENCE, ("GATEWAY__CONTROL_TIMEOUT", "3s")],
    )
    .await;
    let source = Destination::start(Behavior::Source);
    let stranger = Subscriber::create(&deployment.control, plan_with_outage_allowance()).await;
    make_device_known(&deployment, &source).await;
    let control = deployment.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let (mut first, answer, took) = timed_entry(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer) && took < STALL, "the first call that hangs: {answer:?} after {took:?}");
    let took = fetch_on(&mut first, 1, &source, 1_000_000).await;
    assert!(took < STALL, "no lease is waited for: {took:?}");
    let (_, answer, took) = timed_entry(&deployment, &stranger).await;
    assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
    assert!(took < Duration::from_secs(3) + STALL, "{took:?}");
    for _ in 0..3 {
        let (_, answer, took) = timed_entry(&deployment, &stranger).await;
        assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
        assert!(took < STALL, "after the first time-out nobody waits: {took:?}");
    }
    let (mut second, answer, took) = timed_entry(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer) && took < STALL, "{answer:?} after {took:?}");
    let took = fetch_on(&mut second, 1, &source, 1_000_000).await;
    assert!(took < STALL, "{took:?}");
    let mut socket = raw::dial(&deployment).await;
    let started = Instant::now();
    let request = format!(
        "GET {PATH}/api/v1/client/account HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        stranger.token
    );
    assert!(raw::request(&mut socket, &request).await.starts_with("HTTP/1.1 404 "));
    assert!(started.elapsed() < STALL, "the portal: {:?}", started.elapsed());
    assert_eq!(deployment.metric("httvps_control_reachable").await, 0);
    control.signal("-CONT");
    deployment.usage_settles().await;
    assert_eq!(deployment.totals().await, (3 * 8, 2_001_000));
    let (_, answer) = say_hello(&deployment, &stranger).await;
    assert!(is_ok(&answer), "{answer:?}");
    assert_eq!(deployment.metric("httvps_control_reachable").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_during_an_outage_is_bridged() {
    let mut deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], plan_with_outage_allowance(), &[SHORT_CONTROL_PATIENCE]).await;
    deployment.control.kill().await;
    deployment.control.env.extend(env(&[("LEASES__MAX", "1 MiB")]));
    deployment.control.resume().await;
    let source = Destination::start(Behavior::Source);
    let (mut raw, answer) = entered_at_last(&deployment).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 1000).await;
    deployment.usage_settles().await;
    let control = deployment.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let took = fetch_on(&mut raw, 3, &source, 4_000_000).await;
    assert!(took < STALL + Duration::from_secs(1), "{took:?}");
    control.signal("-CONT");
    deployment.usage_settles().await;
    assert_eq!(deployment.totals().await, (16, 4_001_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_obeyed() {
    let (deployment, source) = deployment_with_known_device(Kind::Postgres).await;
    let control = deployment.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    control.signal("-CONT");
    deployment.usage_settles().await;
    fetch_on(&mut raw, 1, &source, 1000).await;
    drop(raw);
    deployment.usage_settles().await;
    control.signal("-STOP");
    let database = database::connect(deployment.control.database()).await;
    database.batch_execute("UPDATE users SET status = 'banned'").await.unwrap();
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "nobody told the gateway: {answer:?}");
    control.signal("-CONT");
    assert_eq!(read_stream(&mut raw).await, (0, Some(SessionCode::UserBanned)));
    let (_, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_refused(&answer, SessionCode::UserBanned), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_use_up_none_of_the_outage_allowance() {
    let (mut deployment, source) = deployment_with_known_device(Kind::Sqlite).await;
    deployment.control.kill().await;
    let mut open_ones = Vec::new();
    for number in 0..12 {
        let (raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
        assert!(is_ok(&answer), "{number}: {answer:?}");
        open_ones.push(raw);
    }
    for number in 0..12 {
        let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
        assert!(is_ok(&answer), "{number}: {answer:?}");
        fetch_on(&mut raw, 1, &source, 1000).await;
        drop(raw);
        deployment.session_count_is(12).await;
    }
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 4_900_000).await;
    drop((raw, open_ones));
    deployment.control.resume().await;
    deployment.usage_settles().await;
    assert_eq!(deployment.totals().await, (14 * 8, 4_900_000 + 13_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_left_at_once_during_an_outage() {
    let mut deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA, CHACHA], plan_with_outage_allowance(), &[SHORT_CONTROL_PATIENCE])
            .await;
    let source = Destination::start(Behavior::Source);
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 1000).await;
    let sessions = deployment.control.list("sessions").await;
    let nodes = deployment.control.list("nodes").await;
    let of_session = |node: &Value| node["id"] == sessions[0]["outline_node_id"];
    let port = nodes.iter().find(|node| of_session(node)).unwrap()["ss_port"].as_u64().unwrap();
    deployment.control.process.as_ref().unwrap().signal("-STOP");
    let at = deployment.nodes.iter().position(|node| u64::from(node.key.port) == port).unwrap();
    deployment.nodes.remove(at).kill().await;
    let took = fetch_on(&mut raw, 3, &source, 1000).await;
    assert!(took < STALL, "{took:?}");
    deployment.control.process.as_ref().unwrap().signal("-CONT");
}

/// A proxy in front of the control plane that closes a kept-alive connection on its second request, without an answer.
async fn forgetful_proxy(control: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, control) = (format!("http://{}", listener.local_addr().unwrap()), control.to_owned());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&control).await.unwrap();
            tokio::spawn(async move {
                let (mut asked, mut there, mut back) = (Instant::now(), [0; 65_536], [0; 65_536]);
                let mut answered = false;
                loop {
                    tokio::select! {
                        read = near.read(&mut there) => {
                            let Ok(read @ 1..) = read else { return };
                            if answered && asked.elapsed() > Duration::from_millis(100) {
                                return;
                            }
                            asked = Instant::now();
                            far.write_all(&there[..read]).await.unwrap();
                        }
                        read = far.read(&mut back) => {
                            let Ok(read @ 1..) = read else { return };
                            answered = true;
                            near.write_all(&back[..read]).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_closed_connection_is_repeated() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan_with_outage_allowance(), &[]).await;
    let source = Destination::start(Behavior::Source);
    let proxy = forgetful_proxy(deployment.control.url.strip_prefix("http://").unwrap()).await;
    deployment.gateway.take().unwrap().stop().await;
    deployment.gateway_env.extend(env(&[("GATEWAY__CONTROL_URL", &proxy)]));
    deployment.start_gateway().await;
    for _ in 0..5 {
        let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
        assert!(is_ok(&answer), "{answer:?}");
        fetch_on(&mut raw, 1, &source, 1000).await;
        drop(raw);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert!(!log.contains("heartbeat failed") && !log.contains("failed to report usage"), "{log}");
}
