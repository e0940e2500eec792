//! The REST API as a shop uses it.

use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, Control, REGION, id, register_gateway};
use crate::support::database::Kind;
use crate::support::subscriber::Subscriber;
use crate::support::times::{now, written};

/// A control plane with a region, a node that nobody dials and a gateway's token.
pub(crate) struct Shop {
    pub(crate) control: Control,
    pub(crate) node: String,
    pub(crate) token: String,
}

impl Shop {
    pub(crate) async fn start(kind: Kind) -> Self {
        let control = Control::start(kind).await;
        control.create("regions", json!({ "code": REGION })).await;
        let node = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", node).await);
        let (_, token) = register_gateway(&control, "gw-1").await;
        Self { control, node, token }
    }

    /// What the gateway is answered.
    pub(crate) async fn told(&self, path: &str, body: Value) -> Value {
        let path = format!("/api/v1/{path}");
        let (status, answer) = self.control.ask(Method::POST, &path, &self.token, Some(&body)).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
        answer
    }

    pub(crate) async fn validate(&self, subscriber: &Subscriber, more: Value) -> Value {
        let mut body = json!({ "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.told("auth/validate-device", body).await
    }

    pub(crate) async fn begin(&self, subscriber: &Subscriber) -> String {
        let session = Uuid::now_v7().to_string();
        let answer = self.validate(subscriber, json!({ "assign": true, "session_id": session })).await;
        assert_eq!(answer["ok"], true, "{answer}");
        session
    }

    pub(crate) async fn report(&self, subscriber: &Subscriber, session: &str, down: u64) -> Value {
        let report = json!({
            "device_id": subscriber.device, "session_id": session, "bytes_up": 0, "bytes_down": down,
            "started_at": written(now()),
        });
        self.told("usage/report", report).await["sessions"][0].clone()
    }

    /// A customer whose subscription has a term of its own.
    pub(crate) async fn customer(&self, plan: Value, from: OffsetDateTime, until: OffsetDateTime) -> Subscriber {
        let mut subscriber = Subscriber::create(&self.control, plan).await;
        let path = format!("/api/v1/admin/subscriptions/{}", subscriber.subscription);
        let (status, _) = self.control.ask(Method::DELETE, &path, ADMIN_KEY, None).await;
        assert_eq!(status.as_u16(), 204);
        let body = json!({
            "user_id": subscriber.user, "plan_id": subscriber.plan, "starts_at": written(from),
            "valid_until": written(until),
        });
        subscriber.subscription = id(&self.control.create("subscriptions", body).await);
        subscriber
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, answer) = self.control.ask(method, &format!("/api/v1/admin/{path}"), ADMIN_KEY, Some(&body)).await;
        (status.as_u16(), answer)
    }

    pub(crate) async fn verb(&self, subscriber: &Subscriber, verb: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, &format!("subscriptions/{}/{verb}", subscriber.subscription), body).await
    }

    pub(crate) async fn subscription(&self, subscriber: &Subscriber) -> Value {
        self.control.get("subscriptions", &subscriber.subscription).await
    }
}
