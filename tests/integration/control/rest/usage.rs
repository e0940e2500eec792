//! Reports of usage.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_cumulative_idempotent_and_order_independent() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 0.000_01 })).await;
        let session = api.begin(&subscriber).await;
        for (up, down, left) in
            [(100, 1000, 8900), (100, 1000, 8900), (50, 2000, 7900), (100, 900, 7900), (200, 2000, 7800)]
        {
            let verdict = api.tell(GatewayApi::report(&subscriber, &session, up, down)).await;
            let told = (&verdict["session_id"], &verdict["continue"], &verdict["remaining_bytes"]);
            assert_eq!(told, (&json!(session), &json!(true), &json!(left)));
            assert_eq!((&verdict["lease"], &verdict["traffic_limit_bytes"]), (&Value::Null, &json!(10_000)));
        }
        let row = api.control.get("sessions", &session).await;
        assert_eq!(
            (&row["bytes_up"], &row["bytes_down"], &row["state"]),
            (&json!(200), &json!(2000), &json!("active"))
        );
        let second = api.begin(&subscriber).await;
        let reports = json!({ "reports": [
            GatewayApi::report(&subscriber, &second, 700, 0),
            GatewayApi::report(&subscriber, &session, 200, 2100),
            GatewayApi::report(&subscriber, &second, 600, 100),
            GatewayApi::report(&subscriber, &Uuid::now_v7().to_string(), 1, 1),
        ]});
        let (status, answer) = api.post("usage/report", reports).await;
        assert_eq!(status, 200);
        let of = |id: &str| {
            answer["sessions"].as_array().unwrap().iter().find(|verdict| verdict["session_id"] == id).unwrap()
        };
        assert_eq!((&of(&session)["continue"], &of(&session)["remaining_bytes"]), (&json!(true), &json!(6900)));
        assert_eq!(of(&second)["remaining_bytes"], json!(6900));
        assert!(answer["sessions"].as_array().unwrap().iter().any(|verdict| verdict["code"] == "UNKNOWN_SESSION"));
        let mut last = GatewayApi::report(&subscriber, &session, 200, 2200);
        last["ended_at"] = json!("2026-11-01T00:01:00Z");
        for _ in 0..2 {
            let verdict = api.tell(last.clone()).await;
            assert_eq!(verdict, json!({ "session_id": session, "continue": false }));
        }
        assert_eq!(api.counts().await, [1]);
        let late = api.tell(GatewayApi::report(&subscriber, &session, 200, 2300)).await;
        assert_eq!(late["continue"], false, "final is sticky");
        let row = api.control.get("sessions", &session).await;
        assert_eq!(
            (&row["state"], &row["bytes_down"]),
            (&json!("ended"), &json!(2300)),
            "a late report is still charged"
        );
        let over = api.tell(GatewayApi::report(&subscriber, &second, 700, 9000)).await;
        assert_eq!((&over["continue"], &over["code"]), (&json!(false), &json!("LIMIT_REACHED")));
        assert_eq!(api.validate(&subscriber, json!({})).await, json!({ "ok": false, "code": "LIMIT_REACHED" }));
        let huge = api.tell(GatewayApi::report(&subscriber, &second, u64::MAX, 0)).await;
        assert_eq!((&huge["continue"], &huge["code"]), (&json!(false), &json!("OUT_OF_RANGE")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reports_charge_once() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[100], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 1 })).await;
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sessions.push(api.begin(&subscriber).await);
        }
        let posts = (0..30u64).map(|step| {
            let mut reports: Vec<_> = sessions
                .iter()
                .map(|session| GatewayApi::report(&subscriber, session, step * 10, step * 100))
                .collect();
            if step % 2 == 0 {
                reports.reverse();
            }
            api.post("usage/report", json!({ "reports": reports }))
        });
        let answers = futures_util::future::join_all(posts).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let answer = api.validate(&subscriber, json!({})).await;
        assert_eq!(answer["remaining_bytes"], json!(1_000_000_000 - 5 * 29 * 110));
    }
}
