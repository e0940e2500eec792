//! Addresses and access keys of nodes.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::{ADMIN_KEY, Control, REGION, id, register_gateway, start_with_region};
use crate::support::database::{BOTH, Kind};

async fn refused(control: &Control, method: Method, path: &str, body: Value) -> (u16, String, String) {
    let (status, answer) = control.ask(method, &format!("/api/v1/admin/{path}"), ADMIN_KEY, Some(&body)).await;
    let field = answer["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), field, answer["detail"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_normalized_and_errors_name_the_field() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
        let node = |host: &str| json!({ "region": REGION, "internal_ip": host, "port": 8388, "method": "aes-256-gcm", "password": "hush" });
        let first = control.create("nodes", node("0:0:0:0:0:0:0:1")).await;
        assert_eq!((&first["internal_ip"], &first["name"]), (&json!("::1"), &json!("::1:8388")), "{kind:?}");
        assert_eq!(refused(&control, Method::POST, "nodes", node("::1")).await.0, 409, "{kind:?}");
        let other = control.create("nodes", node("Node.Example.COM.")).await;
        assert_eq!(other["internal_ip"], "node.example.com");
        let gateway = register_gateway(&control, "gw-1").await.0;
        let endpoint = json!({ "gateway_id": gateway, "host": "GW.example.com", "path": "/x" });
        let endpoint = control.create("endpoints", endpoint).await;
        assert_eq!((&endpoint["host"], &endpoint["sni"]), (&json!("gw.example.com"), &json!("gw.example.com")));
        for host in ["http://x", " 10.0.0.1", "10.0.0.1:8388", "", "10.0.0"] {
            let of_node = format!("nodes/{}", id(&other));
            let of_gateway = format!("gateways/{gateway}");
            let of_endpoint = format!("endpoints/{}", id(&endpoint));
            let gateways = json!({ "name": "gw-2", "region": REGION, "public_ip": format!("{host} ") });
            for (method, path, body, field) in [
                (Method::POST, "nodes", node(host), "internal_ip"),
                (Method::PATCH, of_node.as_str(), json!({ "internal_ip": host }), "internal_ip"),
                (Method::POST, "gateways", gateways, "public_ip"),
                (Method::PATCH, &of_gateway, json!({ "internal_ip": format!("{host} ") }), "internal_ip"),
                (Method::PATCH, &of_endpoint, json!({ "host": host }), "host"),
            ] {
                let (status, named, detail) = refused(&control, method, path, body).await;
                assert_eq!((status, named.as_str()), (422, field), "{kind:?} {path} {host:?}");
                assert!(detail.contains("such as node.example.com, 10.0.0.7"), "{detail}");
            }
        }
        let cleared = control.update("gateways", &gateway, json!({ "public_ip": "", "internal_ip": "10.0.0.2" })).await;
        assert_eq!((&cleared["public_ip"], &cleared["internal_ip"]), (&json!(""), &json!("10.0.0.2")));
        let patched = control.update("nodes", &id(&first), json!({ "internal_ip": "[2001:DB8::7]" })).await;
        assert_eq!(patched["internal_ip"], "2001:db8::7");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_keys_keep_name_and_keys_and_errors_hide_the_secret() {
    let control = start_with_region(Kind::Sqlite, &[]).await;
    let create = |key: &str| json!({ "region": REGION, "access_key": key });
    let both = "2022-blake3-aes-128-gcm:AQEBAQEBAQEBAQEBAQEBAQ%3D%3D:AgICAgICAgICAgICAgICAg%3D%3D";
    let named = control.create("nodes", create(&format!("ss://{both}@10.0.0.1:8388#Berlin%201"))).await;
    assert_eq!(named["name"], "Berlin 1");
    let chosen = json!({ "region": REGION, "name": "mine", "access_key": "ss://aes-256-gcm:hush@10.0.0.2:1#theirs" });
    assert_eq!(control.create("nodes", chosen).await["name"], "mine");
    let imported = json!({ "region": REGION, "access_keys": ["ss://aes-256-gcm:hush@10.0.0.3:1#third"] });
    assert_eq!(control.create("nodes/import", imported).await["created"][0]["name"], "third");
    let (_, token) = register_gateway(&control, "gw-1").await;
    let (_, orders) = control.ask(Method::POST, "/api/v1/gateway/heartbeat", &token, Some(&json!({}))).await;
    let password = orders["nodes"].as_array().unwrap().iter().find(|node| node["id"] == named["id"]).unwrap();
    assert_eq!(password["password"], "AQEBAQEBAQEBAQEBAQEBAQ==:AgICAgICAgICAgICAgICAg==");
    for (key, expected) in [
        ("ss://aes-256-gcm:topsecret@10.0.0.9", "no port"),
        ("ss://aes-256-gcm:topsecret@10.0.0.9:1?type=ws&security=tls", "type=ws is not supported"),
    ] {
        let (status, field, detail) = refused(&control, Method::POST, "nodes", create(key)).await;
        assert_eq!((status, field.as_str()), (422, "access_key"), "{key}");
        assert!(detail.contains(expected) && !detail.contains("topsecret"), "{detail}");
    }
}
