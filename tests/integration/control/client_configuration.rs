//! Signed configurations of clients.

use serde_json::{Value, json};

use crate::support::configuration::configuration;
use crate::support::control::{Control, REGION, id, register_gateway};
use crate::support::database::BOTH;
use crate::support::deployment::add_endpoint;
use crate::support::subscriber::Subscriber;

fn gateways(payload: &Value) -> Vec<String> {
    payload["gateways"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_stable_and_name_no_node() {
    for kind in BOTH {
        let control = Control::start_with(kind, &[("CLIENT_CONFIG__GATEWAYS_PER_REGION", "2")]).await;
        control.create("regions", json!({ "code": REGION })).await;
        let node = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.9.8.7:8388" });
        let node = id(&control.create("nodes", node).await);
        let mut registered = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            let (gateway, _) = register_gateway(&control, name).await;
            add_endpoint(&control, &gateway, &format!("{name}.example.com")).await;
            registered.push(gateway);
        }
        register_gateway(&control, "without an endpoint").await;
        let subscriber = Subscriber::create(&control, json!({})).await;
        let (bytes, payload) = configuration(&control, &subscriber.token).await;
        let shown = gateways(&payload);
        assert_eq!(shown.len(), 2);
        let (again, same) = configuration(&control, &subscriber.token).await;
        assert!(again == bytes || same["iat"] != payload["iat"], "equal content is equal bytes");
        let text = payload.to_string().to_lowercase();
        for secret in [node.as_str(), "hush", "10.9.8.7", "aes-256-gcm", "outline", "shadowsocks"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        let hidden = registered.iter().find(|gateway| !shown.contains(gateway)).unwrap();
        control.update("gateways", hidden, json!({ "draining": true })).await;
        assert_eq!(gateways(&configuration(&control, &subscriber.token).await.1), shown, "none of his");
        control.update("gateways", &shown[0], json!({ "draining": true })).await;
        let after = gateways(&configuration(&control, &subscriber.token).await.1);
        assert_eq!((after.len(), after.contains(&shown[1]), after.contains(&shown[0])), (2, true, false));
        control.update("gateways", &shown[0], json!({ "draining": false })).await;
        assert_eq!(gateways(&configuration(&control, &subscriber.token).await.1), shown);
    }
}
