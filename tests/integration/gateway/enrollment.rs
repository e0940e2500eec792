//! Enrollment, tokens and versions of gateways.

use std::os::unix::fs::PermissionsExt;

use httvps::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::{ADMIN_KEY, REGION, id, post_as_gateway, register_gateway, start_with_region};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::subscriber::Subscriber;
use crate::support::transfer::open_echo;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_enrolls_itself_with_a_single_use_code() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    assert_eq!(deployment.gateway.take().unwrap().stop().await.code, Some(0));
    deployment.gateway_env.retain(|(name, _)| name != "HTTVPS_GATEWAY__TOKEN");
    let bad = [deployment.gateway_env.clone(), env(&[("GATEWAY__ENROLL_TOKEN", "guessed")])].concat();
    let refused = Process::try_start(&["serve-gateway"], &bad).await.err().expect("a guessed code is refused");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("gateway.enroll_token") && refused.stderr.contains("INVALID_CODE"));
    let invited = deployment.control.create("gateways/invite", json!({ "name": "gw-2", "region": REGION })).await;
    assert!(invited["token"].is_null() && invited["enroll_until"].is_string(), "{invited}");
    deployment.gateway_env.extend(env(&[("GATEWAY__ENROLL_TOKEN", invited["enroll_token"].as_str().unwrap())]));
    let echo = Destination::start(Behavior::Echo);
    for _ in 0..2 {
        deployment.start_gateway().await;
        let client = deployment.connect("v2").await;
        open_echo(&client, &echo).await.unwrap();
        assert_eq!(client.stop().await.code, Some(0));
        let row = deployment.control.get("gateways", &id(&invited)).await;
        assert_eq!(row["status"], "online");
        assert_eq!(deployment.gateway.take().unwrap().stop().await.code, Some(0));
    }
    let mode = std::fs::metadata(deployment.state.path().join("token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_works_once_and_expires() {
    for kind in BOTH {
        let control = start_with_region(kind, &[("POOL__GATEWAY_CODE_TTL", "1s")]).await;
        let invited = control.create("gateways/invite", json!({ "name": "gw-1", "region": REGION })).await;
        let enroll =
            async |code: &Value| post_as_gateway(&control, "gateway/enroll", "", json!({ "token": code })).await;
        let (status, enrolled) = enroll(&invited["enroll_token"]).await;
        assert_eq!((status, &enrolled["gateway_id"]), (200, &invited["id"]), "{kind:?} {enrolled}");
        let token = enrolled["token"].as_str().unwrap();
        assert_eq!(post_as_gateway(&control, "gateway/heartbeat", token, json!({})).await.0, 200);
        let (status, problem) = enroll(&invited["enroll_token"]).await;
        assert_eq!((status, &problem["code"]), (404, &json!("INVALID_CODE")));
        let path = format!("gateways/{}/invite", id(&invited));
        let again = control.create(&path, Value::Null).await;
        assert_eq!(post_as_gateway(&control, "gateway/heartbeat", token, json!({})).await.0, 200, "until the trade");
        assert_eq!(enroll(&again["enroll_token"]).await.0, 200);
        assert_eq!(post_as_gateway(&control, "gateway/heartbeat", token, json!({})).await.0, 401);
        let late = control.create(&path, Value::Null).await;
        let until = time::OffsetDateTime::parse(
            late["enroll_until"].as_str().unwrap(),
            &time::format_description::well_known::Rfc3339,
        )
        .unwrap();
        eventually(|| async { if Clock::system().now() > until { Ok(()) } else { Err("not yet".to_owned()) } }).await;
        assert_eq!(enroll(&late["enroll_token"]).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_token_is_rotated_and_revoked() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
        let (gateway, first) = register_gateway(&control, "gw-1").await;
        let beat = async |token: &str| post_as_gateway(&control, "gateway/heartbeat", token, json!({})).await.0;
        let renew = async |body: Value| {
            let answer = control.create(&format!("gateways/{gateway}/token"), body).await;
            answer["token"].as_str().unwrap().to_owned()
        };
        assert_eq!(beat(&first).await, 200);
        let unused = renew(Value::Null).await;
        let second = renew(Value::Null).await;
        assert_eq!((beat(&first).await, beat(&unused).await), (200, 401), "{kind:?}: the one in use stays");
        assert_eq!((beat(&second).await, beat(&first).await), (200, 401), "{kind:?}: until the new one is used");
        let third = renew(json!({ "now": true })).await;
        assert_eq!((beat(&second).await, beat(&third).await), (401, 200));
        let revoked = control.create(&format!("gateways/{gateway}/revoke"), Value::Null).await;
        assert_eq!((&revoked["revoked"], &revoked["status"]), (&json!(true), &json!("offline")));
        assert_eq!(beat(&third).await, 401);
        let path = format!("/api/v1/admin/gateways/{gateway}/token");
        let (status, problem) = control.ask(Method::POST, &path, ADMIN_KEY, None).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("REVOKED")));
        let invited = control.create(&format!("gateways/{gateway}/invite"), Value::Null).await;
        let (_, back) =
            post_as_gateway(&control, "gateway/enroll", "", json!({ "token": invited["enroll_token"] })).await;
        assert_eq!((beat(back["token"].as_str().unwrap()).await, beat(&third).await), (200, 401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_gateway_is_told_to_upgrade() {
    for kind in BOTH {
        let control = start_with_region(kind, &[("POOL__MIN_GATEWAY_VERSION", "1.2")]).await;
        let (gateway, token) = register_gateway(&control, "gw-1").await;
        let subscriber = Subscriber::create(&control, json!({})).await;
        let validate = async || {
            let body = json!({ "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION });
            post_as_gateway(&control, "auth/validate-device", &token, body).await
        };
        for version in ["1.1.9", "", "new"] {
            let (status, problem) =
                post_as_gateway(&control, "gateway/heartbeat", &token, json!({ "version": version })).await;
            assert_eq!((status, &problem["code"]), (426, &json!("UPGRADE_REQUIRED")), "{kind:?} {version:?}");
            let (status, problem) = validate().await;
            assert_eq!((status, &problem["code"]), (426, &json!("UPGRADE_REQUIRED")), "{kind:?} {version:?}");
            assert_ne!(control.get("gateways", &gateway).await["status"], "online");
        }
        assert_eq!(post_as_gateway(&control, "gateway/heartbeat", &token, json!({ "version": "1.10.0" })).await.0, 200);
        assert_eq!(validate().await.1["ok"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_below_the_minimum_version_is_not_ready() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    deployment.control.kill().await;
    deployment.control.env.extend(env(&[("POOL__MIN_GATEWAY_VERSION", "9999")]));
    deployment.control.resume().await;
    let ready = format!("{}/readyz", deployment.gateway().line("ops-gateway"));
    let reason = eventually(|| async {
        let response = deployment.control.http.get(&ready).send().await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Err("ready".to_owned()) } else { Ok(response.text().await.unwrap()) }
    })
    .await;
    assert!(reason.contains("UPGRADE_REQUIRED"), "{reason}");
    let echo = Destination::start(Behavior::Echo);
    open_echo(&client, &echo).await.expect("open sessions go on");
    assert_eq!(client.stop().await.code, Some(0));
}
