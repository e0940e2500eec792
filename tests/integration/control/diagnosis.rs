//! Why a device has no traffic: findings, refusals, support ids.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::billing_api::BillingApi;
use crate::support::control::{ADMIN_KEY, Control, REGION, admin_env};
use crate::support::database::{BOTH, Kind};
use crate::support::process::run;
use crate::support::subscriber::Subscriber;
use crate::support::times::{now, rfc3339};

async fn why(control: &Control, device: &str) -> Value {
    control.admin(Method::GET, &format!("devices/{device}/why"), Value::Null).await
}

async fn found(control: &Control, device: &str) -> Vec<String> {
    let answer = why(control, device).await;
    let findings = answer["findings"].as_array().unwrap().clone();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

fn refusal(device: &str, number: u64, code: &str) -> Value {
    let at = now() - Duration::from_secs(100) + Duration::from_secs(number);
    json!({
        "device_id": device, "code": code, "client_version": "1.2.3", "support_id": format!("AAAA-{number:04}"),
        "at": rfc3339(at),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_obstacle_is_found_with_advice() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let control = &billing.api.control;
        billing.api.post_ok("gateway/heartbeat", json!({ "version": "1.0.0" })).await;
        let limited = json!({ "traffic_limit_gb": 0.5, "max_devices": 5 });
        let subscriber = Subscriber::create(control, limited).await;
        let device = &subscriber.device;
        let answer = why(control, device).await;
        assert_eq!(answer["findings"], json!([{ "code": "OK", "text": "nothing speaks against traffic" }]));
        assert_eq!((&answer["subscription"]["state"], &answer["device"]["id"]), (&json!("active"), &json!(device)));
        assert_eq!((&answer["plan"]["regions"], &answer["user"]["id"]), (&json!([]), &json!(subscriber.user)));
        let session = billing.api.begin(&subscriber).await;
        let live = why(control, device).await;
        let (row, gateway) = (&live["sessions"][0], &live["gateways"][0]);
        assert_eq!((&row["id"], &row["gateway"], &row["state"]), (&json!(session), &json!("gw-1"), &json!("reserved")));
        assert_eq!((&gateway["name"], &gateway["version"]), (&json!("gw-1"), &json!("1.0.0")));
        assert_eq!(live["nodes"][0]["name"], row["node"]);
        assert_eq!(live["findings"][0]["code"], "OK", "{live}");
        billing.report(&subscriber, &session, 500_000_000).await;
        let answer = why(control, device).await;
        let text = answer["findings"][0]["text"].as_str().unwrap();
        assert_eq!(answer["findings"][0]["code"], "LIMIT_REACHED");
        assert!(text.starts_with("0.5 of 0.5 GB used until 2"), "{text}");
        let quota = &answer["quota"];
        assert_eq!((&quota["used_bytes"], &quota["remaining_bytes"]), (&json!(500_000_000), &json!(0)));
        control.update("plans", &subscriber.plan, json!({ "traffic_limit_gb": null })).await;
        assert_eq!(found(control, device).await, ["OK"]);
        control.update("nodes", &billing.api.nodes[0], json!({ "state": "maintenance" })).await;
        let answer = why(control, device).await;
        let text = answer["findings"][0]["text"].as_str().unwrap();
        assert!(text.starts_with(&format!("all nodes of region {REGION} are maintenance")), "{text}");
        control.update("nodes", &billing.api.nodes[0], json!({ "state": "active" })).await;
        control.update("users", &subscriber.user, json!({ "status": "banned" })).await;
        control.update("devices", device, json!({ "status": "revoked" })).await;
        control.admin(Method::POST, &format!("subscriptions/{}/cancel", subscriber.subscription), json!({})).await;
        assert_eq!(found(control, device).await, ["USER_BANNED", "DEVICE_BANNED", "NO_SUBSCRIPTION"]);
        let missing = format!("/api/v1/admin/devices/{}/why", Uuid::now_v7());
        assert_eq!(control.ask(Method::GET, &missing, ADMIN_KEY, None).await.0.as_u16(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_lead_from_a_support_id_to_the_device() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let control = &billing.api.control;
        let subscriber = Subscriber::create(control, json!({})).await;
        let device = &subscriber.device;
        control.update("users", &subscriber.user, json!({ "status": "banned" })).await;
        let asked = json!({ "support_id": "7KQ2-M9XD", "client_version": "0.9" });
        assert_eq!(billing.api.validate(&subscriber, asked).await["code"], "USER_BANNED");
        let answer = why(control, device).await;
        let seen = &answer["refusals"][0];
        assert_eq!((&seen["code"], &seen["support_id"]), (&json!("USER_BANNED"), &json!("7KQ2-M9XD")));
        assert_eq!((&seen["client_version"], &seen["gateway"]), (&json!("0.9"), &json!("gw-1")));
        for written in ["7KQ2-M9XD", "7kq2m9xd"] {
            let rows = control.list(&format!("refusals?support_id={written}")).await;
            assert_eq!((rows.len(), &rows[0]["device_id"]), (1, &json!(device)), "{kind:?}");
        }
        assert_eq!(control.list("refusals?support_id=AAAA-AAAA").await, [] as [Value; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_twenty_refusals_of_a_device_are_kept() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let subscriber = Subscriber::create(&billing.api.control, json!({})).await;
        let other = Subscriber::create(&billing.api.control, json!({})).await;
        let stranger = Uuid::now_v7().to_string();
        let mut notes: Vec<Value> =
            (0..25).map(|number| refusal(&subscriber.device, number, "UPGRADE_REQUIRED")).collect();
        notes.push(refusal(&other.device, 30, "TOKEN_EXPIRED"));
        notes.push(refusal(&stranger, 31, "TOKEN_EXPIRED"));
        for _ in 0..2 {
            billing.api.post_ok("gateway/heartbeat", json!({ "version": "1", "refusals": notes })).await;
        }
        let answer = why(&billing.api.control, &subscriber.device).await;
        let refusals = answer["refusals"].as_array().unwrap();
        let ids: Vec<&str> = refusals.iter().map(|refusal| refusal["support_id"].as_str().unwrap()).collect();
        let wanted: Vec<String> = (5..25).rev().map(|number| format!("AAAA-{number:04}")).collect();
        assert_eq!(ids, wanted, "{kind:?}");
        let finding = &answer["findings"][0];
        assert_eq!(finding["code"], "UPGRADE_REQUIRED");
        let text = finding["text"].as_str().unwrap();
        assert!(text.contains("client 1.2.3, support id AAAA-0024") && text.ends_with("update the app"), "{text}");
        assert_eq!(why(&billing.api.control, &other.device).await["refusals"].as_array().unwrap().len(), 1);
        assert_eq!(billing.api.control.list("refusals?support_id=AAAA-0031").await.len(), 0, "nobody's");
        billing.api.begin(&subscriber).await;
        assert_eq!(found(&billing.api.control, &subscriber.device).await, ["OK"], "it went well since");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_command_explains_a_device() {
    let billing = BillingApi::start(Kind::Sqlite).await;
    let subscriber = Subscriber::create(&billing.api.control, json!({})).await;
    billing.api.control.update("users", &subscriber.user, json!({ "status": "banned" })).await;
    let env = admin_env(&billing.api.control);
    let (code, stdout, stderr) = run(&["admin", "devices", "why", &subscriber.device], &env).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("USER_BANNED: the user is banned since "), "{stdout}");
    assert!(stdout.contains("\nsubscription\n") && stdout.contains("\n  state active\n"), "{stdout}");
    assert!(stdout.contains("\nrefusals\n  -\n"), "{stdout}");
    let (_, stdout, _) = run(&["admin", "devices", "why", &subscriber.device, "--json"], &env).await;
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["findings"][0]["code"], "USER_BANNED");
}
