//! Which sessions give up their slot to a new one.

use serde_json::json;
use uuid::Uuid;

use crate::support::control::{id, register_gateway};
use crate::support::database::{BOTH, Kind};
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

/// A device that may have one session and has it.
async fn crowded(kind: Kind) -> (GatewayApi, Subscriber, String) {
    let api = GatewayApi::start(kind, &[10], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 1 })).await;
    let first = api.begin(&subscriber).await;
    let refused = api.validate(&subscriber, json!({ "assign": true, "session_id": Uuid::now_v7() })).await;
    assert_eq!(refused, json!({ "ok": false, "code": "TOO_MANY_SESSIONS" }));
    (api, subscriber, first)
}

async fn takes_the_place_of(api: &GatewayApi, subscriber: &Subscriber, first: &str) {
    let second = api.begin(subscriber).await;
    let state = async |session: &str| api.control.get("sessions", session).await["state"].clone();
    assert_eq!((state(first).await, state(&second).await), (json!("killed"), json!("reserved")));
    assert_eq!(api.counts().await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_client_is_silent_gives_way() {
    for kind in BOTH {
        let (api, subscriber, first) = crowded(kind).await;
        let mut report = GatewayApi::report(&subscriber, &first, 1, 1);
        report["silent_ms"] = json!(6000);
        assert_eq!(api.tell(report).await["continue"], true);
        takes_the_place_of(&api, &subscriber, &first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_gateway_drains_gives_way() {
    for kind in BOTH {
        let (mut api, subscriber, first) = crowded(kind).await;
        let gateway = id(&api.control.list("gateways").await[0]);
        api.control.update("gateways", &gateway, json!({ "draining": true })).await;
        api.token = register_gateway(&api.control, "gw-2").await.1;
        takes_the_place_of(&api, &subscriber, &first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_its_client_names_gives_way_whatever_its_state() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[1], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 1, "traffic_limit_gb": 1 })).await;
        let first = api.begin(&subscriber).await;
        assert_eq!(api.tell(GatewayApi::report(&subscriber, &first, 700, 0)).await["continue"], true);
        let replaced = async |named: &str| {
            let wish = json!({ "assign": true, "session_id": Uuid::now_v7(), "replaces": named });
            let answer = api.validate(&subscriber, wish).await;
            assert_eq!(answer["ok"], true, "{answer}");
            assert_eq!(api.control.get("sessions", named).await["state"], "killed");
            assert_eq!(api.counts().await, [1]);
        };
        replaced(&first).await;
        let late = api.tell(GatewayApi::report(&subscriber, &first, 1000, 0)).await;
        assert_eq!((&late["continue"], &late["code"]), (&json!(false), &json!("SESSION_KILLED")));
        if kind == Kind::Postgres {
            let sessions = api.control.list("sessions").await;
            let second = id(sessions.iter().find(|row| row["state"] == "reserved").unwrap());
            let reap = format!("UPDATE sessions SET state = 'reaped', ended_at = now() WHERE id = '{second}'");
            api.control.rewrite(&format!("{reap}; UPDATE outline_nodes SET active_sessions = 0")).await;
            replaced(&second).await;
        }
        let used: i64 = api.control.list("sessions").await.iter().map(|row| row["bytes_up"].as_i64().unwrap()).sum();
        assert_eq!(used, 1000, "what came late is charged once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_another_session_has_no_effect() {
    let (api, subscriber, first) = crowded(Kind::Sqlite).await;
    let stranger = Subscriber::create(&api.control, json!({ "max_sessions": 1 })).await;
    let theirs = api.begin(&stranger).await;
    let mut last = GatewayApi::report(&subscriber, &first, 1, 1);
    last["ended_at"] = json!("2026-11-22T10:00:00Z");
    api.tell(last).await;
    let (over, first) = (first, api.begin(&subscriber).await);
    let refused = json!({ "ok": false, "code": "TOO_MANY_SESSIONS" });
    for named in [theirs.clone(), over, Uuid::now_v7().to_string()] {
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7(), "replaces": named });
        assert_eq!(api.validate(&subscriber, wish).await, refused);
    }
    let unasked = json!({ "replaces": first });
    assert_eq!(api.validate(&subscriber, unasked).await["code"], "TOO_MANY_SESSIONS", "nothing ends without `assign`");
    for session in [first, theirs] {
        assert_eq!(api.control.get("sessions", &session).await["state"], "reserved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admitted_session_moves_although_the_device_has_too_many() {
    let api = GatewayApi::start(Kind::Postgres, &[10], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 2 })).await;
    let sessions = [api.begin(&subscriber).await, api.begin(&subscriber).await];
    api.control.update("plans", &subscriber.plan, json!({ "max_sessions": 1 })).await;
    for session in sessions {
        let moved = api.validate(&subscriber, json!({ "assign": true, "session_id": session })).await;
        assert_eq!(moved["ok"], true, "{moved}");
    }
    assert_eq!(api.counts().await, [2]);
}
