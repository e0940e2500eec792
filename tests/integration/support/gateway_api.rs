//! The REST API as a gateway uses it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{Control, REGION, id, post_as_gateway, register_gateway};
use crate::support::database::Kind;
use crate::support::subscriber::Subscriber;

/// A control plane with a region, a gateway's token and nodes that do not exist.
pub(crate) struct GatewayApi {
    pub(crate) control: Control,
    pub(crate) token: String,
    pub(crate) nodes: Vec<String>,
}

impl GatewayApi {
    pub(crate) async fn start(kind: Kind, capacities: &[i32], more: &[(&str, &str)]) -> Self {
        Self::on(Control::start_with(kind, more).await, capacities).await
    }

    pub(crate) async fn on(control: Control, capacities: &[i32]) -> Self {
        control.create("regions", json!({ "code": REGION })).await;
        let mut nodes = Vec::new();
        for (index, capacity) in capacities.iter().enumerate() {
            let key = format!("ss://aes-256-gcm:hush@10.0.0.{}:8388", index + 1);
            let node = json!({ "region": REGION, "access_key": key, "max_sessions": capacity });
            nodes.push(id(&control.create("nodes", node).await));
        }
        let (_, token) = register_gateway(&control, "gw-1").await;
        Self { control, token, nodes }
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        post_as_gateway(&self.control, path, &self.token, body).await
    }

    /// Posts as the gateway; the answer must be 200.
    pub(crate) async fn post_ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(crate) async fn validate(&self, subscriber: &Subscriber, more: Value) -> Value {
        let mut body = json!({ "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post_ok("auth/validate-device", body).await
    }

    pub(crate) async fn begin(&self, subscriber: &Subscriber) -> String {
        let session = Uuid::now_v7().to_string();
        let answer = self.validate(subscriber, json!({ "assign": true, "session_id": session })).await;
        assert_eq!(answer["ok"], true, "{answer}");
        session
    }

    pub(crate) fn report(subscriber: &Subscriber, session: &str, up: u64, down: u64) -> Value {
        json!({
            "device_id": subscriber.device, "session_id": session, "bytes_up": up, "bytes_down": down,
            "started_at": "2026-11-01T00:00:00Z",
        })
    }

    pub(crate) async fn tell(&self, report: Value) -> Value {
        self.post_ok("usage/report", report).await["sessions"][0].clone()
    }

    pub(crate) async fn counts(&self) -> Vec<i64> {
        let mut counts = Vec::new();
        for node in &self.nodes {
            counts.push(self.control.get("nodes", node).await["active_sessions"].as_i64().unwrap());
        }
        counts
    }
}
