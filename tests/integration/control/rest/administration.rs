//! What an administrator creates, changes and deletes; errors by field.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, REGION, SEED, id};
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::times::now;

#[tokio::test(flavor = "multi_thread")]
async fn administration() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[1], &[]).await;
        let control = &api.control;
        let ask = async |method, path: &str, key: &str, body: Value| {
            let (status, answer) = control.ask(method, &format!("/api/v1/admin/{path}"), key, Some(&body)).await;
            (status.as_u16(), answer)
        };
        for key in ["wrong", &api.token, ""] {
            assert_eq!(ask(Method::GET, "users", key, json!({})).await.0, 401);
        }
        assert_eq!(control.ask(Method::POST, "/api/v1/gateway/heartbeat", ADMIN_KEY, Some(&json!({}))).await.0, 401);
        let user = control.create("users", json!({ "identifier": "0123" })).await;
        assert_eq!((&user["identifier"], &user["identifier_kind"]), (&json!("0123"), &json!("telegram_id")));
        let (status, problem) = ask(Method::POST, "users", ADMIN_KEY, json!({ "identifier": "0123" })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("CONFLICT")));
        let (status, problem) = ask(Method::POST, "users", ADMIN_KEY, json!({ "identifer": "x" })).await;
        assert_eq!((status, &problem["errors"]), (422, &json!([{ "field": "identifer", "code": "UNKNOWN" }])));
        let (status, problem) =
            ask(Method::POST, "plans", ADMIN_KEY, json!({ "name": "p", "max_devices": "many" })).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("max_devices")));
        let (status, problem) = ask(Method::POST, "plans", ADMIN_KEY, json!({ "name": "p", "price": -1 })).await;
        assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("OUT_OF_RANGE")));
        let bad_key = json!({ "region": REGION, "access_key": "ss://rc4:x@h:1" });
        let (status, problem) = ask(Method::POST, "nodes", ADMIN_KEY, bad_key).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("access_key")));
        let nowhere = json!({ "region": "nowhere", "access_key": "ss://aes-256-gcm:x@h:1" });
        assert_eq!(ask(Method::POST, "nodes", ADMIN_KEY, nowhere).await.1["errors"][0]["field"], "region");
        let region = id(&control.list("regions").await[0]);
        let (status, problem) = ask(Method::DELETE, &format!("regions/{region}"), ADMIN_KEY, json!({})).await;
        assert_eq!((status, &problem["code"]), (409, &json!("IN_USE")));
        assert_eq!(ask(Method::GET, &format!("users/{}", Uuid::now_v7()), ADMIN_KEY, json!({})).await.0, 404);
        let plan = control.create("plans", json!({ "name": "p", "max_devices": 1, "traffic_limit_gb": 5 })).await;
        let changed = control.update("plans", &id(&plan), json!({ "traffic_limit_gb": null, "price": 499 })).await;
        assert_eq!(
            (&changed["traffic_limit_gb"], &changed["price"], &changed["max_devices"]),
            (&Value::Null, &json!(499), &json!(1))
        );
        let subscription = json!({ "user_id": user["id"], "plan_id": plan["id"], "days": 3 });
        control.create("subscriptions", subscription).await;
        let device = control.create("devices", json!({ "user_id": user["id"] })).await;
        let second = ask(Method::POST, "devices", ADMIN_KEY, json!({ "user_id": user["id"] })).await;
        assert_eq!((second.0, &second.1["code"]), (409, &json!("DEVICE_LIMIT")));
        let verifier = httvps::token::Verifier::new(httvps::token::Issuer::new(&SEED).unwrap().key_set());
        let claims = verifier.verify(device["access_token"].as_str().unwrap(), now()).unwrap();
        assert_eq!((json!(claims.sub), claims.exp - claims.iat), (device["id"].clone(), 30 * 86_400));
        let (_, keys) = control.ask(Method::GET, "/.well-known/jwks.json", "", None).await;
        let set = serde_json::from_value(keys).unwrap();
        assert!(httvps::token::Verifier::new(&set).verify(device["access_token"].as_str().unwrap(), now()).is_ok());
        let gateway = id(&control.list("gateways").await[0]);
        let rotated = control.create(&format!("gateways/{gateway}/token"), json!({ "now": true })).await;
        assert_ne!(rotated["token"], json!(api.token));
        assert_eq!(api.post("gateway/heartbeat", json!({})).await.0, 401, "the old token is spent");
        assert_eq!(control.ask(Method::GET, "/nothing", ADMIN_KEY, None).await.1["code"], "NOT_FOUND");
    }
}
