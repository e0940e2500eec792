//! Sessions: reservations, renewals, kills and deletions.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, id, register_gateway};
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_reservation_expires_and_reopens_on_use() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[1], &[("SESSIONS__RESERVATION_TTL", "300ms")]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let session = api.begin(&subscriber).await;
        eventually(|| async {
            match api.control.get("sessions", &session).await["state"].as_str() {
                Some("expired") => Ok(()),
                state => Err(format!("{state:?}")),
            }
        })
        .await;
        assert_eq!(api.counts().await, [0]);
        let verdict = api.tell(GatewayApi::report(&subscriber, &session, 5, 5)).await;
        assert_eq!(verdict["continue"], true);
        assert_eq!(api.counts().await, [1]);
        assert_eq!(api.control.get("sessions", &session).await["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_continues_on_a_renewed_subscription() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 1 })).await;
        let session = api.begin(&subscriber).await;
        api.tell(GatewayApi::report(&subscriber, &session, 1000, 0)).await;
        let renewed = json!({ "user_id": subscriber.user, "plan_id": subscriber.plan, "days": 30 });
        let renewed = id(&api.control.create("subscriptions", renewed).await);
        api.control.update("subscriptions", &subscriber.subscription, json!({ "status": "expired" })).await;
        let verdict = api.tell(GatewayApi::report(&subscriber, &session, 1500, 0)).await;
        assert_eq!((&verdict["continue"], &verdict["remaining_bytes"]), (&json!(true), &json!(999_999_500)));
        assert_eq!(api.control.get("sessions", &session).await["subscription_id"], json!(renewed));
        api.control.update("subscriptions", &renewed, json!({ "status": "cancelled" })).await;
        let verdict = api.tell(GatewayApi::report(&subscriber, &session, 1500, 0)).await;
        assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &json!("NO_SUBSCRIPTION")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_for_killed_foreign_unknown_and_deleted_sessions() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[100], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let session = api.begin(&subscriber).await;
        api.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await;
        assert_eq!(api.counts().await, [0]);
        let verdict = api.tell(GatewayApi::report(&subscriber, &session, 10, 10)).await;
        assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &json!("SESSION_KILLED")));
        assert_eq!(api.control.get("sessions", &session).await["state"], "killed");
        let mine = api.begin(&subscriber).await;
        let (_, other_token) = register_gateway(&api.control, "gw-2").await;
        let body = GatewayApi::report(&subscriber, &mine, 10, 10);
        let (_, answer) = api.control.ask(Method::POST, "/api/v1/usage/report", &other_token, Some(&body)).await;
        assert_eq!(answer["sessions"][0]["code"], "FORBIDDEN");
        assert_eq!(api.control.get("sessions", &mine).await["bytes_up"], 0);
        let unknown = Uuid::now_v7().to_string();
        let mut vouched = GatewayApi::report(&subscriber, &unknown, 30, 40);
        assert_eq!(api.tell(vouched.clone()).await["code"], "UNKNOWN_SESSION");
        vouched["access_token"] = json!(subscriber.token);
        vouched["started_at"] = json!("2027-11-01T00:00:00Z");
        let verdict = api.tell(vouched.clone()).await;
        assert_eq!(verdict["continue"], true, "{kind:?} {verdict}");
        assert_eq!(api.control.get("sessions", &unknown).await["bytes_down"], 40);
        let (status, _) = api
            .control
            .ask(Method::DELETE, &format!("/api/v1/admin/devices/{}", subscriber.device), ADMIN_KEY, None)
            .await;
        assert_eq!(status.as_u16(), 204);
        assert_eq!(api.tell(vouched).await["code"], "UNKNOWN_SESSION", "a tombstone charges nothing");
        assert_eq!(api.control.list("sessions").await.len(), 0);
        assert_eq!(api.counts().await, [0]);
    }
}
