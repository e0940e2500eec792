//! The control plane hangs, or is away: nobody waits for it, and nothing is counted wrongly.

use std::time::{Duration, Instant};

use httvps::frame::{Frame, Hello, SessionCode, Token};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::database::{self, Kind};
use crate::support::deployment::{PATH, World};
use crate::support::destination::{Destination, Manner};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::outage::{PATIENT, become_known, plan};
use crate::support::raw::{self, Raw};
use crate::support::raw_session::{enter, fetch, is_ok, is_refused, read};
use crate::support::settling::{open_sessions, settles};
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// What an outage may cost, and three times that for a busy machine.
const STALL: Duration = Duration::from_millis(3 * 250);

async fn timed_entry(world: &World, subscriber: &Subscriber) -> (Raw, Frame, Duration) {
    let mut raw = Raw::open(world, "httvps.v2").await;
    let token = Token::from(subscriber.token.clone());
    let hello = Hello { device_id: subscriber.device.clone(), access_token: token, ..raw::hello(world) };
    let started = Instant::now();
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer, started.elapsed())
}

/// Enters once the control plane is known to be there.
async fn entered_at_last(world: &World) -> (Raw, Frame) {
    eventually(|| async {
        let (raw, answer) = enter(world, &world.subscriber).await;
        if is_ok(&answer) { Ok((raw, answer)) } else { Err(format!("{answer:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_costs_a_known_device_no_more_than_its_patience() {
    let world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT, ("GATEWAY__CONTROL_TIMEOUT", "3s")]).await;
    let source = Destination::start(Manner::Source);
    let stranger = Subscriber::create(&world.control, plan()).await;
    become_known(&world, &source).await;
    let control = world.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let (mut first, answer, took) = timed_entry(&world, &world.subscriber).await;
    assert!(is_ok(&answer) && took < STALL, "the first call that hangs: {answer:?} after {took:?}");
    let took = fetch(&mut first, 1, &source, 1_000_000).await;
    assert!(took < STALL, "no lease is waited for: {took:?}");
    let (_, answer, took) = timed_entry(&world, &stranger).await;
    assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
    assert!(took < Duration::from_secs(3) + STALL, "{took:?}");
    for _ in 0..3 {
        let (_, answer, took) = timed_entry(&world, &stranger).await;
        assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
        assert!(took < STALL, "after the first time-out nobody waits: {took:?}");
    }
    let (mut second, answer, took) = timed_entry(&world, &world.subscriber).await;
    assert!(is_ok(&answer) && took < STALL, "{answer:?} after {took:?}");
    let took = fetch(&mut second, 1, &source, 1_000_000).await;
    assert!(took < STALL, "{took:?}");
    let mut socket = raw::dial(&world).await;
    let started = Instant::now();
    let request = format!(
        "GET {PATH}/api/v1/client/account HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        stranger.token
    );
    assert!(raw::request(&mut socket, &request).await.starts_with("HTTP/1.1 404 "));
    assert!(started.elapsed() < STALL, "the portal: {:?}", started.elapsed());
    assert_eq!(world.metric("httvps_control_reachable").await, 0);
    control.signal("-CONT");
    settles(&world).await;
    assert_eq!(world.totals().await, (3 * 8, 2_001_000));
    let (_, answer) = enter(&world, &stranger).await;
    assert!(is_ok(&answer), "{answer:?}");
    assert_eq!(world.metric("httvps_control_reachable").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_while_the_control_plane_hangs_is_bridged() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    world.control.kill().await;
    world.control.env.extend(env(&[("LEASES__MAX", "1 MiB")]));
    world.control.resume().await;
    let source = Destination::start(Manner::Source);
    let (mut raw, answer) = entered_at_last(&world).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 1000).await;
    settles(&world).await;
    let control = world.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let took = fetch(&mut raw, 3, &source, 4_000_000).await;
    assert!(took < STALL + Duration::from_secs(1), "{took:?}");
    control.signal("-CONT");
    settles(&world).await;
    assert_eq!(world.totals().await, (16, 4_001_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_is_obeyed() {
    let world = World::build(Kind::Postgres, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    become_known(&world, &source).await;
    let control = world.control.process.as_ref().unwrap();
    control.signal("-STOP");
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    control.signal("-CONT");
    settles(&world).await;
    fetch(&mut raw, 1, &source, 1000).await;
    drop(raw);
    settles(&world).await;
    control.signal("-STOP");
    let database = database::connect(world.control.database()).await;
    database.batch_execute("UPDATE users SET status = 'banned'").await.unwrap();
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "nobody told the gateway: {answer:?}");
    control.signal("-CONT");
    assert_eq!(read(&mut raw).await, (0, Some(SessionCode::UserBanned)));
    let (_, answer) = enter(&world, &world.subscriber).await;
    assert!(is_refused(&answer, SessionCode::UserBanned), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_move_nothing_cost_nothing_of_the_outages_allowance() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    become_known(&world, &source).await;
    world.control.kill().await;
    let mut open_ones = Vec::new();
    for number in 0..12 {
        let (raw, answer) = enter(&world, &world.subscriber).await;
        assert!(is_ok(&answer), "{number}: {answer:?}");
        open_ones.push(raw);
    }
    for number in 0..12 {
        let (mut raw, answer) = enter(&world, &world.subscriber).await;
        assert!(is_ok(&answer), "{number}: {answer:?}");
        fetch(&mut raw, 1, &source, 1000).await;
        drop(raw);
        open_sessions(&world, 12).await;
    }
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 4_900_000).await;
    drop((raw, open_ones));
    world.control.resume().await;
    settles(&world).await;
    assert_eq!(world.totals().await, (14 * 8, 4_900_000 + 13_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_while_the_control_plane_hangs_is_left_at_once() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA, CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 1000).await;
    let sessions = world.control.list("sessions").await;
    let nodes = world.control.list("nodes").await;
    let of_session = |node: &Value| node["id"] == sessions[0]["outline_node_id"];
    let port = nodes.iter().find(|node| of_session(node)).unwrap()["ss_port"].as_u64().unwrap();
    world.control.process.as_ref().unwrap().signal("-STOP");
    let at = world.nodes.iter().position(|node| u64::from(node.key.port) == port).unwrap();
    world.nodes.remove(at).kill().await;
    let took = fetch(&mut raw, 3, &source, 1000).await;
    assert!(took < STALL, "{took:?}");
    world.control.process.as_ref().unwrap().signal("-CONT");
}

/// A proxy in front of the control plane that closes a kept connection when a second request comes on it, unanswered.
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
async fn a_request_whose_connection_was_closed_under_it_is_repeated() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[]).await;
    let source = Destination::start(Manner::Source);
    let proxy = forgetful_proxy(world.control.url.strip_prefix("http://").unwrap()).await;
    world.gateway.take().unwrap().stop().await;
    world.gateway_env.extend(env(&[("GATEWAY__CONTROL_URL", &proxy)]));
    world.start_gateway().await;
    for _ in 0..5 {
        let (mut raw, answer) = enter(&world, &world.subscriber).await;
        assert!(is_ok(&answer), "{answer:?}");
        fetch(&mut raw, 1, &source, 1000).await;
        drop(raw);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let log = world.gateway.take().unwrap().stop().await.stderr;
    assert!(!log.contains("heartbeat failed") && !log.contains("usage not reported"), "{log}");
}
