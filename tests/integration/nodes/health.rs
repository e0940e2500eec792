//! How gateways' probes decide the health of a node.

use serde_json::json;
use uuid::Uuid;

use crate::support::control::{Control, REGION, id, post_as_gateway, register_gateway, start_with_region};
use crate::support::database::BOTH;
use crate::support::subscriber::Subscriber;

async fn probed(control: &Control, token: &str, node: &str, healthy: bool) -> String {
    let error = (!healthy).then(|| "x".repeat(300));
    let body = json!({ "node_id": node, "healthy": healthy, "error": error });
    let (status, answer) = post_as_gateway(control, "outline/heartbeat", token, body).await;
    assert_eq!(status, 200, "{answer}");
    answer["health_status"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_view_changes_after_consecutive_probes() {
    for kind in BOTH {
        let control = start_with_region(kind, &[("POOL__FAIL_AFTER", "2"), ("POOL__RECOVER_AFTER", "3")]).await;
        let (gateway, token) = register_gateway(&control, "gw-1").await;
        assert_eq!(post_as_gateway(&control, "gateway/heartbeat", &token, json!({ "version": "1" })).await.0, 200);
        let new = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", new).await);
        let story = [
            (true, "healthy"),
            (false, "healthy"),
            (true, "healthy"),
            (false, "healthy"),
            (false, "unhealthy"),
            (true, "unhealthy"),
            (true, "unhealthy"),
            (false, "unhealthy"),
            (true, "unhealthy"),
            (true, "unhealthy"),
            (true, "healthy"),
            (false, "healthy"),
        ];
        for (step, (healthy, expected)) in story.into_iter().enumerate() {
            assert_eq!(probed(&control, &token, &node, healthy).await, expected, "{kind:?} step {step}");
            let status = control.get("nodes", &node).await["status"].clone();
            assert_eq!(status, if expected == "healthy" { "active" } else { "offline" });
        }
        let health = control.get("nodes", &format!("{node}/health")).await;
        assert_eq!((&health["gateways"], &health["online"], &health["region"]), (&json!(1), &json!(1), &json!(REGION)));
        let view = &health["items"][0];
        assert_eq!((&view["gateway_node_id"], &view["name"]), (&json!(gateway), &json!("gw-1")));
        assert_eq!(
            json!([view["healthy"], view["settled"], view["streak"]]),
            json!([false, true, 1]),
            "one bad probe decides nothing"
        );
        assert_eq!(view["error"].as_str().unwrap().len(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_sessions_once_it_is_healthy() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
        let (_, token) = register_gateway(&control, "gw-1").await;
        post_as_gateway(&control, "gateway/heartbeat", &token, json!({})).await;
        let mut nodes = Vec::new();
        for (host, max) in [(1, 2), (2, 100)] {
            let key = format!("ss://aes-256-gcm:hush@10.0.0.{host}:8388");
            let new = json!({ "region": REGION, "access_key": key, "max_sessions": max });
            nodes.push(id(&control.create("nodes", new).await));
        }
        assert_eq!(probed(&control, &token, &nodes[0], true).await, "healthy");
        let subscriber = Subscriber::create(&control, json!({})).await;
        let assign = async || {
            let wish = json!({
                "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
                "session_id": Uuid::now_v7(), "access_token": subscriber.token,
            });
            post_as_gateway(&control, "nodes/assign-outline", &token, wish).await.1["id"].clone()
        };
        assert_eq!((assign().await, assign().await), (json!(nodes[0]), json!(nodes[0])), "{kind:?}");
        assert_eq!(assign().await, json!(nodes[1]), "better than nothing");
        assert_eq!(probed(&control, &token, &nodes[1], true).await, "healthy");
        assert_eq!(assign().await, json!(nodes[1]));
    }
}
