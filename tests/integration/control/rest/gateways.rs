//! Heartbeats of gateways, and the exit regions they may use.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{REGION, id, register_gateway};
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_the_health_of_nodes() {
    for kind in BOTH {
        let short = [("SESSIONS__NODE_TIMEOUT", "2s"), ("SESSIONS__GATEWAY_TIMEOUT", "2s")];
        let api = GatewayApi::start(kind, &[10], &short).await;
        let (status, orders) = api.post("gateway/heartbeat", json!({ "version": "1", "sessions": 3 })).await;
        assert_eq!((status, &orders["region"], &orders["drain"]), (200, &json!(REGION), &json!(false)));
        assert_eq!(orders["nodes"][0]["password"], "hush");
        let gateway = orders["gateway_id"].as_str().unwrap().to_owned();
        let row = api.control.get("gateways", &gateway).await;
        assert_eq!((&row["status"], &row["sessions"], &row["token_hash"]), (&json!("online"), &json!(3), &Value::Null));
        let (_, second) = register_gateway(&api.control, "gw-2").await;
        let (_, third) = register_gateway(&api.control, "gw-3").await;
        for token in [&second, &third] {
            api.control.ask(Method::POST, "/api/v1/gateway/heartbeat", token, Some(&json!({}))).await;
        }
        let see = async |token: &str, healthy: bool| {
            let body = json!({ "node_id": api.nodes[0], "healthy": healthy, "latency_ms": 3 });
            let (status, answer) = api.control.ask(Method::POST, "/api/v1/outline/heartbeat", token, Some(&body)).await;
            assert_eq!(status.as_u16(), 200, "{answer}");
            answer["health_status"].as_str().unwrap().to_owned()
        };
        assert_eq!(see(&api.token, true).await, "healthy");
        assert_eq!(see(&second, false).await, "healthy", "one of three");
        assert_eq!(see(&third, false).await, "unhealthy", "two of three");
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish.clone()).await["code"], "NO_NODE_AVAILABLE");
        assert_eq!(see(&second, true).await, "healthy");
        assert_eq!(api.validate(&subscriber, wish).await["ok"], true);
        eventually(|| async {
            let health = api.control.get("nodes", &api.nodes[0]).await["health_status"].clone();
            let status = api.control.get("gateways", &gateway).await["status"].clone();
            if (&health, &status) == (&json!("offline"), &json!("offline")) {
                Ok(())
            } else {
                Err(format!("{health} {status}"))
            }
        })
        .await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE");
        api.control.update("gateways", &gateway, json!({ "draining": true })).await;
        let (_, orders) = api.post("gateway/heartbeat", json!({})).await;
        assert_eq!(orders["drain"], true);
        let elsewhere = json!({ "node_id": Uuid::now_v7(), "healthy": true });
        assert_eq!(api.post("outline/heartbeat", elsewhere).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_regions_decide_what_a_gateway_may_use() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        api.control.create("regions", json!({ "code": "us-1", "name": "West" })).await;
        let node = json!({ "region": "us-1", "access_key": "ss://aes-256-gcm:west@10.1.0.1:8388" });
        api.control.create("nodes", node).await;
        let there = json!({ "region": "us-1", "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, there.clone()).await["code"], "UNKNOWN_REGION");
        let gateway = id(&api.control.list("gateways").await[0]);
        let updated = api.control.update("gateways", &gateway, json!({ "exit_regions": ["eu-1", "us-1"] })).await;
        assert_eq!(updated["exit_regions"], json!(["eu-1", "us-1"]));
        assert_eq!(api.validate(&subscriber, there).await["node"]["password"], "west");
        let (_, orders) = api.post("gateway/heartbeat", json!({})).await;
        assert_eq!(orders["nodes"].as_array().unwrap().len(), 2);
    }
}
