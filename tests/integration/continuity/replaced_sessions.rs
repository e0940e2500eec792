//! A client that lost its line names its session, whose place is free at once (docs/03, "Replaced session").

use std::time::{Duration, Instant};

use httvps::frame::SessionCode;
use serde_json::{Value, json};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::RARELY;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::freezable_relay::Freezer;
use crate::support::node::CHACHA;
use crate::support::raw_session::{address_of, enter_at, fetch, is_ok, is_refused, read, session_of};
use crate::support::second_gateway::Branch;
use crate::support::settling::{open_sessions, settles};
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

const AT_ONCE: Duration = Duration::from_secs(3);

fn alone() -> Value {
    json!({ "max_sessions": 1, "traffic_limit_gb": 1, "fail_open_mb": 5 })
}

async fn ended(world: &World, session: &str, state: &str) {
    eventually(|| async {
        let row = world.control.get("sessions", session).await;
        if row["state"] == state { Ok(()) } else { Err(format!("{row}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_line_was_lost_is_in_at_once_by_another() {
    for kind in BOTH {
        let world = World::build(kind, &[CHACHA], alone(), &RARELY).await;
        let node = id(&world.control.list("nodes").await[0]);
        world.control.update("nodes", &node, json!({ "max_sessions": 1 })).await;
        let source = Destination::start(Manner::Source);
        let (gateway, subscriber) = (address_of(world.gateway()), &world.subscriber);
        let line = Freezer::start(gateway).await;
        let (mut first, answer) = enter_at(&world, &format!("127.0.0.1:{}", line.port), subscriber, None).await;
        let lost = session_of(&answer);
        fetch(&mut first, 1, &source, 100_000).await;
        line.freeze();
        let (_, answer) = enter_at(&world, gateway, subscriber, None).await;
        assert!(is_refused(&answer, SessionCode::TooManySessions), "{answer:?}");
        let since = Instant::now();
        let (mut second, answer) = enter_at(&world, gateway, subscriber, Some(&lost)).await;
        assert!(is_ok(&answer) && since.elapsed() < AT_ONCE, "{answer:?} after {:?}", since.elapsed());
        fetch(&mut second, 1, &source, 50_000).await;
        open_sessions(&world, 1).await;
        drop(second);
        settles(&world).await;
        assert_eq!(world.totals().await, (16, 150_000));
        assert_eq!(world.control.get("nodes", &node).await["active_sessions"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_gateway_that_hangs_is_replaced_at_another_and_its_bytes_count_once() {
    let world = World::build(Kind::Postgres, &[CHACHA], alone(), &RARELY).await;
    let branch = Branch::start(&world, "other", &RARELY).await;
    let source = Destination::start(Manner::Source);
    let subscriber = &world.subscriber;
    let (mut first, answer) = enter_at(&world, address_of(world.gateway()), subscriber, None).await;
    let lost = session_of(&answer);
    fetch(&mut first, 1, &source, 100_000).await;
    world.gateway().signal("-STOP");
    let other = address_of(branch.process.as_ref().unwrap());
    let since = Instant::now();
    let (mut second, answer) = enter_at(&world, other, subscriber, Some(&lost)).await;
    assert!(is_ok(&answer) && since.elapsed() < AT_ONCE, "{answer:?} after {:?}", since.elapsed());
    fetch(&mut second, 1, &source, 50_000).await;
    assert_eq!(world.control.get("sessions", &lost).await["state"], "killed");
    world.gateway().signal("-CONT");
    assert_eq!(read(&mut first).await, (0, Some(SessionCode::SessionKilled)), "its gateway hears of it");
    drop(second);
    eventually(|| async {
        let totals = world.totals().await;
        if totals == (16, 150_000) { Ok(()) } else { Err(format!("{totals:?}")) }
    })
    .await;
    ended(&world, &lost, "killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_devices_session_and_what_is_no_session_are_ignored() {
    let world = World::build(Kind::Sqlite, &[CHACHA], alone(), &RARELY).await;
    let source = Destination::start(Manner::Source);
    let stranger = Subscriber::create(&world.control, alone()).await;
    let gateway = address_of(world.gateway());
    let (mut theirs, answer) = enter_at(&world, gateway, &stranger, None).await;
    let session = session_of(&answer);
    for named in [session.as_str(), "no session", "01a202b2-c69c-78a2-814e-3f37949c401e", ""] {
        let (raw, answer) = enter_at(&world, gateway, &world.subscriber, Some(named)).await;
        let own = session_of(&answer);
        let (_, answer) = enter_at(&world, gateway, &world.subscriber, Some(named)).await;
        assert!(is_refused(&answer, SessionCode::TooManySessions), "{named}: {answer:?}");
        drop(raw);
        ended(&world, &own, "ended").await;
    }
    fetch(&mut theirs, 1, &source, 1000).await;
    assert_ne!(world.control.get("sessions", &session).await["state"], "killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_ends_its_own_session_also_while_the_control_plane_is_away() {
    let patient = ("GATEWAY__CONTROL_PATIENCE", "250ms");
    let mut world = World::build(Kind::Sqlite, &[CHACHA], alone(), &[patient]).await;
    let source = Destination::start(Manner::Source);
    let (_first, answer) = enter_at(&world, address_of(world.gateway()), &world.subscriber, None).await;
    let (mut second, answer) =
        enter_at(&world, address_of(world.gateway()), &world.subscriber, Some(&session_of(&answer))).await;
    let mut named = session_of(&answer);
    fetch(&mut second, 1, &source, 1000).await;
    world.control.kill().await;
    for _ in 0..3 {
        let (mut next, answer) = enter_at(&world, address_of(world.gateway()), &world.subscriber, Some(&named)).await;
        named = session_of(&answer);
        assert_eq!(read(&mut second).await, (0, Some(SessionCode::SessionKilled)));
        fetch(&mut next, 1, &source, 1000).await;
        second = next;
        open_sessions(&world, 1).await;
    }
    drop(second);
    world.control.resume().await;
    settles(&world).await;
    assert_eq!(world.totals().await, (4 * 8, 4000));
}
