//! Changes that are meant for what was read, and rows that are called by their names.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::{ADMIN_KEY, Control, id};
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;

/// A change of what has a tag; gives the status and the tag after it.
async fn change(control: &Control, path: &str, tag: Option<&str>, body: &Value) -> (u16, String) {
    let mut request = control.http.patch(format!("{}/api/v1/admin/{path}", control.url)).bearer_auth(ADMIN_KEY);
    if let Some(tag) = tag {
        request = request.header("if-match", tag);
    }
    let response = request.json(body).send().await.unwrap();
    let tag = response.headers().get("etag").map_or("", |tag| tag.to_str().unwrap()).to_owned();
    (response.status().as_u16(), tag)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_made_to_what_was_read_or_not_at_all() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let control = &api.control;
        let user = id(&control.create("users", json!({ "identifier": "a@b.c" })).await);
        let device = id(&control.create("devices", json!({ "user_id": user })).await);
        control.create("plans", json!({ "name": "p" })).await;
        let subscription = json!({ "user_id": user, "plan_id": "p", "days": 3 });
        let subscription = id(&control.create("subscriptions", subscription).await);
        let endpoint = json!({ "gateway_id": "gw-1", "host": "a.example", "path": "/k" });
        let endpoint = id(&control.create("endpoints", endpoint).await);
        for (path, body) in [
            (format!("users/{user}"), json!({ "status": "pending" })),
            (format!("devices/{device}"), json!({ "name": "x" })),
            ("plans/p".into(), json!({ "price": 5 })),
            (format!("subscriptions/{subscription}"), json!({ "valid_until": "2099-01-01T00:00:00Z" })),
            ("regions/eu-1".into(), json!({ "udp": false })),
            (format!("endpoints/{endpoint}"), json!({ "weight": 2 })),
            (format!("nodes/{}", api.nodes[0]), json!({ "weight": 2 })),
            ("gateways/gw-1".into(), json!({ "public_ip": "192.0.2.1" })),
        ] {
            let read = control.http.get(format!("{}/api/v1/admin/{path}", control.url)).bearer_auth(ADMIN_KEY);
            let read = read.send().await.unwrap();
            let tag = read.headers()["etag"].to_str().unwrap().to_owned();
            let (status, changed) = change(control, &path, Some(&tag), &body).await;
            assert!(status == 200 && changed != tag, "{kind:?} {path}: {status} {tag} {changed}");
            assert_eq!(change(control, &path, Some(&tag), &body).await, (412, String::new()), "{kind:?} {path}");
            let (resource, row) = path.split_once('/').unwrap();
            let row = control.get(resource, row).await;
            assert_eq!(format!("\"{}\"", row["revision"]), changed, "{path}");
            let list = format!("\"77\", {changed}");
            assert_eq!(change(control, &path, Some(&list), &body).await.0, 200, "{path}");
            assert_eq!(change(control, &path, Some("*"), &body).await.0, 200, "{path}");
            assert_eq!(change(control, &path, Some("W/\"1\""), &body).await.0, 412, "{path}");
        }
        let payment = json!({ "days": 3, "payment_id": "1" });
        let before = control.get("subscriptions", &subscription).await["revision"].clone();
        control.create(&format!("subscriptions/{subscription}/renew"), payment).await;
        assert_ne!(control.get("subscriptions", &subscription).await["revision"], before, "a renewal is a change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_named() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let control = &api.control;
        let user = id(&control.create("users", json!({ "identifier": "a@b.c" })).await);
        let plan = id(&control.create("plans", json!({ "name": "p", "regions": ["eu-1"] })).await);
        let subscription = json!({ "user_id": user, "plan_id": "p", "days": 3 });
        let subscription = id(&control.create("subscriptions", subscription).await);
        let gateway = id(&control.list("gateways").await[0]);
        let ask = async |method: Method, path: &str, body: Option<Value>| {
            let (status, problem) =
                control.ask(method, &format!("/api/v1/admin/{path}"), ADMIN_KEY, body.as_ref()).await;
            (status.as_u16(), problem["existing"].clone(), problem["detail"].clone())
        };
        for (path, existing, what) in [
            ("plans/p", &subscription, "a subscription has the plan"),
            ("regions/eu-1", &api.nodes[0], "a node is in the region"),
        ] {
            let answer = ask(Method::DELETE, path, None).await;
            assert_eq!(answer, (409, json!(existing), json!(format!("{what}: {existing}"))), "{kind:?} {path}");
        }
        for (path, body, existing) in [
            ("plans", json!({ "name": "p" }), &plan),
            ("gateways", json!({ "name": "gw-1", "region": "eu-1" }), &gateway),
            ("nodes", json!({ "region": "eu-1", "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" }), &api.nodes[0]),
        ] {
            let (status, found, _) = ask(Method::POST, path, Some(body)).await;
            assert_eq!((status, found), (409, json!(existing)), "{kind:?} {path}");
        }
        let nobody = uuid::Uuid::now_v7();
        for (path, body, detail) in [
            ("devices", json!({ "user_id": nobody }), "there is no user with this id".to_owned()),
            ("subscriptions", json!({ "user_id": user, "plan_id": "q", "days": 1 }), "there is no plan \"q\"".into()),
            (
                "subscriptions",
                json!({ "user_id": user, "plan_id": "p", "valid_until": "2027-01-31" }),
                "a date and time with an offset, such as 2027-01-31T00:00:00Z".into(),
            ),
            (
                "nodes",
                json!({ "region": "xx", "access_key": "ss://aes-256-gcm:h@10.0.0.9:1" }),
                "there is no region \"xx\"".into(),
            ),
        ] {
            let (status, _, said) = ask(Method::POST, path, Some(body)).await;
            assert_eq!((status, said), (422, json!(detail)), "{kind:?} {path}");
        }
        assert_eq!(ask(Method::GET, "plans/nothing", None).await.0, 404);
    }
}
