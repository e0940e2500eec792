//! Two processes act for one gateway during an upgrade (docs/09, "Several processes").

use serde_json::{Value, json};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::delivery::assert_acked;
use crate::support::deployment::{Deployment, gateway_address};
use crate::support::environment::{env, free_port};
use crate::support::gateway_api::GatewayApi;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::raw_session::{is_ok, say_hello, say_hello_at};
use crate::support::wait::eventually;

/// Another process of the deployment's gateway.
async fn another(deployment: &Deployment, state: &tempfile::TempDir) -> Process {
    let mut gateway = deployment.gateway_env.clone();
    gateway.extend(env(&[
        ("GATEWAY__LISTEN", &format!("127.0.0.1:{}", free_port())),
        ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
    ]));
    Process::start(&["serve-gateway"], &gateway).await
}

async fn gateway(deployment: &Deployment) -> Value {
    let gateway = id(&deployment.control.list("gateways").await[0]);
    deployment.control.get("gateways", &gateway).await
}

/// Waits for a number of processes with a total number of sessions.
async fn has(deployment: &Deployment, instances: usize, sessions: i64) -> Value {
    eventually(|| async {
        let row = gateway(deployment).await;
        let there = row["instances"].as_array().unwrap();
        if there.len() == instances && row["sessions"] == sessions { Ok(row) } else { Err(format!("{row}")) }
    })
    .await
}

/// A change that gateways are notified of.
async fn change(deployment: &Deployment) -> Value {
    deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "active" })).await
}

/// Waits until all processes of this many gateways acknowledge a change.
async fn acted_on(deployment: &Deployment, gateways: u64) {
    eventually(|| async {
        let answer = change(deployment).await;
        let (acked, of) = (&answer["delivery"]["acked"], &answer["delivery"]["of"]);
        if acked == of && *of == gateways { Ok(()) } else { Err(format!("{answer}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_both_processes_but_not_for_one_that_left() {
    for kind in BOTH {
        let deployment = Deployment::build(kind, &[CHACHA], json!({}), &[]).await;
        has(&deployment, 1, 0).await;
        let state = tempfile::tempdir().unwrap();
        let second = another(&deployment, &state).await;
        has(&deployment, 2, 0).await;
        acted_on(&deployment, 1).await;
        assert_acked(&change(&deployment).await, 1);
        deployment.gateway().signal("-STOP");
        let answer = change(&deployment).await;
        let delivery = &answer["delivery"];
        assert_eq!((&delivery["acked"], &delivery["of"]), (&json!(0), &json!(1)), "the old process has not: {answer}");
        deployment.gateway().signal("-CONT");
        acted_on(&deployment, 1).await;
        let (one, answer) = say_hello(&deployment, &deployment.subscriber).await;
        assert!(is_ok(&answer), "{answer:?}");
        let (other, answer) = say_hello_at(&deployment, gateway_address(&second), &deployment.subscriber, None).await;
        assert!(is_ok(&answer), "{answer:?}");
        has(&deployment, 2, 2).await;
        drop(other);
        assert_eq!(second.stop().await.code, Some(0));
        let left = gateway(&deployment).await;
        assert_eq!((left["instances"].as_array().unwrap().len(), &left["status"]), (1, &json!("online")), "{left}");
        assert_acked(&change(&deployment).await, 1);
        let mut deployment = deployment;
        drop(one);
        assert_eq!(deployment.gateway.take().unwrap().stop().await.code, Some(0));
        let gone = gateway(&deployment).await;
        assert_eq!((&gone["instances"], &gone["status"]), (&json!([]), &json!("offline")), "{gone}");
        assert_acked(&change(&deployment).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_is_forgotten_and_only_its_sessions_are_reaped() {
    let mut deployment = Deployment::build(Kind::Postgres, &[CHACHA], json!({}), &[]).await;
    deployment.control.kill().await;
    deployment.control.env.extend(env(&[
        ("SESSIONS__SESSION_TTL", "10s"),
        ("SESSIONS__RESERVATION_TTL", "10s"),
        ("SESSIONS__GATEWAY_TIMEOUT", "10s"),
        ("SESSIONS__SWEEP_INTERVAL", "200ms"),
        ("SESSIONS__STARTUP_GRACE", "0s"),
    ]));
    deployment.control.resume().await;
    let state = tempfile::tempdir().unwrap();
    let second = another(&deployment, &state).await;
    has(&deployment, 2, 0).await;
    let (_raw, answer) = say_hello_at(&deployment, gateway_address(&second), &deployment.subscriber, None).await;
    assert!(is_ok(&answer), "{answer:?}");
    let (_lost, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    has(&deployment, 2, 2).await;
    deployment.gateway.take().unwrap().kill().await;
    let row = has(&deployment, 1, 1).await;
    assert_eq!(row["status"], "online");
    eventually(|| async {
        let sessions = deployment.control.list("sessions").await;
        let mut states: Vec<_> = sessions.iter().map(|one| one["state"].as_str().unwrap()).collect();
        states.sort_unstable();
        if states == ["active", "reaped"] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    assert_acked(&change(&deployment).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_process_is_not_waited_for() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    let before = has(&deployment, 1, 0).await;
    deployment.gateway.take().unwrap().kill().await;
    deployment.start_gateway().await;
    eventually(|| async {
        let after = has(&deployment, 1, 0).await;
        if before["instances"][0]["id"] == after["instances"][0]["id"] { Err(format!("{after}")) } else { Ok(()) }
    })
    .await;
    acted_on(&deployment, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_instances_works_and_the_number_of_instances_is_bounded() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[1], &[]).await;
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
