//! Two processes act for one gateway while it is upgraded (docs/02, "Several processes").

use serde_json::{Value, json};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::assert_acked;
use crate::support::deployment::World;
use crate::support::environment::{env, free_port};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::raw_session::{address_of, enter, enter_at, is_ok};
use crate::support::rest_api::Api;
use crate::support::wait::eventually;

/// One more process of the world's gateway.
async fn another(world: &World, state: &tempfile::TempDir) -> Process {
    let mut gateway = world.gateway_env.clone();
    gateway.extend(env(&[
        ("GATEWAY__LISTEN", &format!("127.0.0.1:{}", free_port())),
        ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
    ]));
    Process::start(&["serve-gateway"], &gateway).await
}

async fn gateway(world: &World) -> Value {
    let gateway = id(&world.control.list("gateways").await[0]);
    world.control.get("gateways", &gateway).await
}

/// Waits for so many processes that have together so many sessions.
async fn has(world: &World, instances: usize, sessions: i64) -> Value {
    eventually(|| async {
        let row = gateway(world).await;
        let there = row["instances"].as_array().unwrap();
        if there.len() == instances && row["sessions"] == sessions { Ok(row) } else { Err(format!("{row}")) }
    })
    .await
}

/// A change of which gateways hear.
async fn change(world: &World) -> Value {
    world.control.update("users", &world.subscriber.user, json!({ "status": "active" })).await
}

/// Waits until a change is acted on by all processes of so many gateways.
async fn acted_on(world: &World, gateways: u64) {
    eventually(|| async {
        let answer = change(world).await;
        let (acked, of) = (&answer["delivery"]["acked"], &answer["delivery"]["of"]);
        if acked == of && *of == gateways { Ok(()) } else { Err(format!("{answer}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_acted_on_when_both_processes_have_and_nobody_waits_for_one_that_left() {
    for kind in BOTH {
        let world = World::build(kind, &[CHACHA], json!({}), &[]).await;
        has(&world, 1, 0).await;
        let state = tempfile::tempdir().unwrap();
        let second = another(&world, &state).await;
        has(&world, 2, 0).await;
        acted_on(&world, 1).await;
        assert_acked(&change(&world).await, 1);
        world.gateway().signal("-STOP");
        let answer = change(&world).await;
        let delivery = &answer["delivery"];
        assert_eq!((&delivery["acked"], &delivery["of"]), (&json!(0), &json!(1)), "the old process has not: {answer}");
        world.gateway().signal("-CONT");
        acted_on(&world, 1).await;
        let (one, answer) = enter(&world, &world.subscriber).await;
        assert!(is_ok(&answer), "{answer:?}");
        let (other, answer) = enter_at(&world, address_of(&second), &world.subscriber, None).await;
        assert!(is_ok(&answer), "{answer:?}");
        has(&world, 2, 2).await;
        drop(other);
        assert_eq!(second.stop().await.code, Some(0));
        let left = gateway(&world).await;
        assert_eq!((left["instances"].as_array().unwrap().len(), &left["status"]), (1, &json!("online")), "{left}");
        assert_acked(&change(&world).await, 1);
        let mut world = world;
        drop(one);
        assert_eq!(world.gateway.take().unwrap().stop().await.code, Some(0));
        let gone = gateway(&world).await;
        assert_eq!((&gone["instances"], &gone["status"]), (&json!([]), &json!("offline")), "{gone}");
        assert_acked(&change(&world).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_died_is_forgotten_and_its_sessions_are_reaped_while_the_others_live() {
    let mut world = World::build(Kind::Postgres, &[CHACHA], json!({}), &[]).await;
    world.control.kill().await;
    world.control.env.extend(env(&[
        ("SESSIONS__SESSION_TTL", "10s"),
        ("SESSIONS__RESERVATION_TTL", "10s"),
        ("SESSIONS__GATEWAY_TIMEOUT", "10s"),
        ("SESSIONS__SWEEP_INTERVAL", "200ms"),
        ("SESSIONS__STARTUP_GRACE", "0s"),
    ]));
    world.control.resume().await;
    let state = tempfile::tempdir().unwrap();
    let second = another(&world, &state).await;
    has(&world, 2, 0).await;
    let (_raw, answer) = enter_at(&world, address_of(&second), &world.subscriber, None).await;
    assert!(is_ok(&answer), "{answer:?}");
    let (_lost, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    has(&world, 2, 2).await;
    world.gateway.take().unwrap().kill().await;
    let row = has(&world, 1, 1).await;
    assert_eq!(row["status"], "online");
    eventually(|| async {
        let sessions = world.control.list("sessions").await;
        let mut states: Vec<_> = sessions.iter().map(|one| one["state"].as_str().unwrap()).collect();
        states.sort_unstable();
        if states == ["active", "reaped"] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    acted_on(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_process_whose_place_another_took() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    let before = has(&world, 1, 0).await;
    world.gateway.take().unwrap().kill().await;
    world.start_gateway().await;
    eventually(|| async {
        let after = has(&world, 1, 0).await;
        if before["instances"][0]["id"] == after["instances"][0]["id"] { Err(format!("{after}")) } else { Ok(()) }
    })
    .await;
    acted_on(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_instances_goes_on_and_many_instances_are_not_kept() {
    for kind in BOTH {
        let api = Api::start(kind, &[1], &[]).await;
        let gateway = id(&api.control.list("gateways").await[0]);
        let beat = async |body: Value| assert_eq!(api.post("gateway/heartbeat", body).await.0, 200);
        beat(json!({ "version": "0.1.0", "sessions": 7 })).await;
        let row = api.control.get("gateways", &gateway).await;
        assert_eq!((&row["sessions"], &row["instances"]), (&json!(7), &json!([])));
        for _ in 0..40 {
            beat(json!({ "version": "0.1.0", "sessions": 1, "instance": uuid::Uuid::now_v7() })).await;
        }
        let row = api.control.get("gateways", &gateway).await;
        assert_eq!((&row["sessions"], row["instances"].as_array().unwrap().len()), (&json!(16), 16));
        assert_eq!(api.control.list("gateways").await[0]["sessions"], 16);
    }
}
