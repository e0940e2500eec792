//! Deleted subscriptions, nodes and gateways, and the sessions that referred to them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::id;
use crate::support::database::{BOTH, Kind};
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

async fn delete(api: &GatewayApi, path: &str) {
    let answer = api.control.admin(Method::DELETE, path, Value::Null).await;
    assert_eq!(answer, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_subscription_does_not_hold_up_other_reports() {
    let api = GatewayApi::start(Kind::Postgres, &[10], &[]).await;
    let plan = json!({ "traffic_limit_gb": 1 });
    let (gone, stays) =
        (Subscriber::create(&api.control, plan.clone()).await, Subscriber::create(&api.control, plan).await);
    let sessions = [api.begin(&gone).await, api.begin(&gone).await, api.begin(&gone).await];
    let other = api.begin(&stays).await;
    for session in &sessions {
        assert_eq!(api.tell(GatewayApi::report(&gone, session, 1, 0)).await["continue"], true);
    }
    let late = format!(
        "UPDATE sessions SET state = 'reaped', ended_at = now() WHERE id IN ('{}', '{}')",
        sessions[1], sessions[2]
    );
    api.control.rewrite(&late).await;
    delete(&api, &format!("subscriptions/{}", gone.subscription)).await;
    let mut reports: Vec<Value> = sessions.iter().map(|session| GatewayApi::report(&gone, session, 1000, 0)).collect();
    reports[2]["ended_at"] = json!("2026-11-22T10:00:00Z");
    reports.push(GatewayApi::report(&stays, &other, 500, 0));
    let (status, answer) = api.post("usage/report", json!({ "reports": reports })).await;
    assert_eq!(status, 200, "{answer}");
    let verdicts = answer["sessions"].as_array().unwrap();
    let of = |session: &str| verdicts.iter().find(|verdict| verdict["session_id"] == json!(session)).unwrap();
    assert_eq!(
        (&of(&sessions[0])["code"], &of(&sessions[1])["code"]),
        (&json!("NO_SUBSCRIPTION"), &json!("NO_SUBSCRIPTION"))
    );
    assert_eq!((&of(&sessions[2])["continue"], &of(&sessions[2])["code"]), (&json!(false), &Value::Null));
    assert_eq!(of(&other)["remaining_bytes"], json!(999_999_500u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_their_node_and_end_with_their_gateway() {
    for kind in BOTH {
        let mut api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let session = api.begin(&subscriber).await;
        delete(&api, &format!("nodes/{}", api.nodes[0])).await;
        assert_eq!(api.control.get("sessions", &session).await["outline_node_id"], Value::Null);
        assert_eq!(api.tell(GatewayApi::report(&subscriber, &session, 1, 1)).await["continue"], true);
        let key = json!({ "region": "eu-1", "access_key": "ss://aes-256-gcm:hush@10.0.0.9:8388" });
        api.nodes = vec![id(&api.control.create("nodes", key).await)];
        let moved = api.validate(&subscriber, json!({ "assign": true, "session_id": session })).await;
        assert_eq!((&moved["ok"], api.counts().await), (&json!(true), vec![1]));
        let gateway = id(&api.control.list("gateways").await[0]);
        delete(&api, &format!("gateways/{gateway}")).await;
        assert_eq!((api.control.list("sessions").await.len(), api.counts().await), (0, vec![0]));
    }
}
