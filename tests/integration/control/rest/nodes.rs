//! Assignment of sessions to exit nodes.

use serde_json::json;
use uuid::Uuid;

use crate::support::control::REGION;
use crate::support::database::{BOTH, Kind};
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_atomic_and_spread_by_load() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10, 10, 5], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let wishes = (0..40).map(|_| {
            let body = json!({
                "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
                "session_id": Uuid::now_v7(), "access_token": subscriber.token,
            });
            api.post("nodes/assign-outline", body)
        });
        let answers = futures_util::future::join_all(wishes).await;
        let granted = answers.iter().filter(|(status, _)| *status == 200).count();
        assert_eq!(granted, 25, "{kind:?}");
        let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
        assert!(refused.iter().all(|(status, answer)| *status == 503 && answer["code"] == "NO_NODE_AVAILABLE"));
        assert_eq!(api.counts().await, [10, 10, 5]);
        let nowhere = json!({
            "region": "nowhere", "user_id": subscriber.user, "device_id": subscriber.device,
            "access_token": subscriber.token,
        });
        let (status, answer) = api.post("nodes/assign-outline", nowhere).await;
        assert_eq!((status, &answer["code"]), (404, &json!("UNKNOWN_REGION")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_node_load_refuses_nobody() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[1], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        for _ in 0..3 {
            let session = api.begin(&subscriber).await;
            let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
            assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{kind:?}");
            let mut last = GatewayApi::report(&subscriber, &session, 1, 1);
            last["ended_at"] = json!("2026-11-01T00:01:00Z");
            api.tell(last).await;
        }
        api.control.create("regions", json!({ "code": "elsewhere" })).await;
        api.control.update("nodes", &api.nodes[0], json!({ "region": "elsewhere" })).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{kind:?}");
    }
}

/// What another replica changes about a node becomes known with a delay.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_node_is_checked_before_it_is_assigned() {
    let api = GatewayApi::start(Kind::Postgres, &[1000], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    api.control.create("regions", json!({ "code": "elsewhere" })).await;
    let elsewhere = "(SELECT id FROM regions WHERE code = 'elsewhere')";
    let home = format!("(SELECT id FROM regions WHERE code = '{REGION}')");
    for (column, lost, good) in [
        ("state", "'draining'", "'active'"),
        ("health_status", "'unhealthy'", "'healthy'"),
        ("max_sessions", "0", "1000"),
        ("region_id", elsewhere, home.as_str()),
    ] {
        api.begin(&subscriber).await;
        api.control.rewrite(&format!("UPDATE outline_nodes SET {column} = {lost}")).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{column}");
        api.control.rewrite(&format!("UPDATE outline_nodes SET {column} = {good}")).await;
    }
    api.begin(&subscriber).await;
}
