//! Validation of devices: limits, the node, repeated requests.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::REGION;
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn validate_answers_limits_and_the_node_in_one_call() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let plan = json!({ "traffic_limit_gb": 1.5, "max_sessions": 5, "rate_limit_mbps": 50 });
        let subscriber = Subscriber::create(&api.control, plan).await;
        let answer = api.validate(&subscriber, json!({})).await;
        assert_eq!(answer["ok"], true);
        assert_eq!(answer["user"], json!({ "id": subscriber.user, "status": "active" }));
        assert_eq!(answer["subscription"]["id"], json!(subscriber.subscription));
        let limits = json!({ "max_sessions": 5, "rate_limit_mbps": 50, "traffic_limit_bytes": 1_500_000_000u64 });
        assert_eq!(answer["limits"], limits);
        assert_eq!((&answer["remaining_bytes"], &answer["node"]), (&json!(1_500_000_000u64), &Value::Null));
        assert_eq!(api.counts().await, [0]);
        let session = Uuid::now_v7();
        let answer = api.validate(&subscriber, json!({ "assign": true, "session_id": session })).await;
        let node = json!({
            "id": api.nodes[0], "region": REGION, "internal_ip": "10.0.0.1", "port": 8388, "method": "aes-256-gcm",
            "password": "hush", "generation": 1, "oldest_generation": 1, "draining": false,
        });
        assert_eq!(answer["node"], node);
        assert_eq!(api.counts().await, [1]);
        eventually(|| async {
            let device = api.control.get("devices", &subscriber.device).await;
            if device["last_seen_at"].is_string() { Ok(()) } else { Err(device.to_string()) }
        })
        .await;
        let row = api.control.get("sessions", &session.to_string()).await;
        assert_eq!((&row["state"], &row["bytes_up"]), (&json!("reserved"), &json!(0)));
        let listed = api.control.list("nodes").await[0].to_string();
        assert!(!listed.contains("hush") && !listed.contains("ss_password"), "{listed}");
        let refused =
            api.validate(&subscriber, json!({ "region": "nowhere", "assign": true, "session_id": session })).await;
        assert_eq!(refused, json!({ "ok": false, "code": "UNKNOWN_REGION" }));
        let (status, problem) = api
            .post("auth/validate-device", json!({ "device_id": subscriber.device, "access_token": "x", "region": 5 }))
            .await;
        assert_eq!(
            (status, &problem["code"], &problem["errors"][0]["field"]),
            (422, &json!("INVALID"), &json!("region"))
        );
        assert!(problem["request_id"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_seen_times_are_written_at_shutdown() {
    for kind in BOTH {
        let mut api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let version = json!({ "client_version": "7.1" });
        assert_eq!(api.validate(&subscriber, version).await["ok"], true);
        let wish = json!({
            "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
            "access_token": subscriber.token,
        });
        assert_eq!(api.post("nodes/assign-outline", wish).await.0, 200, "which knows of no version");
        api.control.process.take().unwrap().stop().await;
        api.control.resume().await;
        let device = api.control.get("devices", &subscriber.device).await;
        assert!(device["last_seen_at"].is_string() && device["client_version"] == "7.1", "{kind:?} {device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_finds_its_session() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10, 10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 1, "traffic_limit_gb": 1 })).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        for _ in 0..2 {
            let answer = api.validate(&subscriber, wish.clone()).await;
            assert_eq!(answer["ok"], true, "{kind:?} {answer}");
            assert!(answer["lease"]["allowed"].as_u64().unwrap() > 0, "{answer}");
        }
        assert_eq!(api.counts().await.iter().sum::<i64>(), 1);
        assert_eq!(api.control.list("sessions").await.len(), 1);
        let other = Subscriber::create(&api.control, json!({})).await;
        let body = json!({
            "device_id": other.device, "access_token": other.token, "region": REGION, "assign": true,
            "session_id": wish["session_id"],
        });
        let (status, answer) = api.post("auth/validate-device", body).await;
        assert_eq!((status, &answer["code"]), (409, &json!("SESSION_TAKEN")), "{kind:?}");
        assert_eq!(api.counts().await.iter().sum::<i64>(), 1, "nothing is left of it");
    }
}
