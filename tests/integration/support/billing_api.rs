//! The REST API as a billing system uses it.

use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::control::{ADMIN_KEY, id};
use crate::support::database::Kind;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::times::{now, rfc3339};

const CAPACITY: i32 = 1000;

/// A gateway's view of a control plane, and an administrator's of subscriptions.
pub(crate) struct BillingApi {
    pub(crate) api: GatewayApi,
}

impl BillingApi {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self { api: GatewayApi::start(kind, &[CAPACITY], &[]).await }
    }

    pub(crate) async fn report(&self, subscriber: &Subscriber, session: &str, down: u64) -> Value {
        let report = json!({
            "device_id": subscriber.device, "session_id": session, "bytes_up": 0, "bytes_down": down,
            "started_at": rfc3339(now()),
        });
        self.api.post_ok("usage/report", report).await["sessions"][0].clone()
    }

    /// A customer whose subscription runs from one moment to another.
    pub(crate) async fn customer(&self, plan: Value, from: OffsetDateTime, until: OffsetDateTime) -> Subscriber {
        let mut subscriber = Subscriber::create(&self.api.control, plan).await;
        let path = format!("/api/v1/admin/subscriptions/{}", subscriber.subscription);
        let (status, _) = self.api.control.ask(Method::DELETE, &path, ADMIN_KEY, None).await;
        assert_eq!(status.as_u16(), 204);
        let body = json!({
            "user_id": subscriber.user, "plan_id": subscriber.plan, "starts_at": rfc3339(from),
            "valid_until": rfc3339(until),
        });
        subscriber.subscription = id(&self.api.control.create("subscriptions", body).await);
        subscriber
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, answer) =
            self.api.control.ask(method, &format!("/api/v1/admin/{path}"), ADMIN_KEY, Some(&body)).await;
        (status.as_u16(), answer)
    }

    pub(crate) async fn verb(&self, subscriber: &Subscriber, verb: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, &format!("subscriptions/{}/{verb}", subscriber.subscription), body).await
    }

    pub(crate) async fn subscription(&self, subscriber: &Subscriber) -> Value {
        self.api.control.get("subscriptions", &subscriber.subscription).await
    }
}
