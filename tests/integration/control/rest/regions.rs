//! Regions and endpoints.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, Control, REGION, id, register_gateway};
use crate::support::database::BOTH;
use crate::support::deployment::{PATH, add_endpoint};

#[tokio::test(flavor = "multi_thread")]
async fn regions_and_endpoints_are_administered() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let refused = async |path: &str, body: Value| {
            let path = format!("/api/v1/admin/{path}");
            let (status, problem) = control.ask(Method::POST, &path, ADMIN_KEY, Some(&body)).await;
            (status.as_u16(), problem["errors"][0]["field"].as_str().unwrap_or_default().to_owned())
        };
        let region = control.create("regions", json!({ "code": REGION })).await;
        let plain = json!({
            "id": region["id"], "code": REGION, "name": REGION, "names": {}, "exit_country": "", "udp": true,
            "ipv6": false, "resolvers": [], "revision": 0,
        });
        assert_eq!(region, plain);
        let change = json!({
            "name": "Frankfurt", "names": { "fr": "Francfort" }, "exit_country": "DE", "udp": false, "ipv6": true,
            "resolvers": ["9.9.9.9", "2620:fe::fe"],
        });
        let changed = control.update("regions", &id(&region), change).await;
        let expected = json!({
            "id": region["id"], "code": REGION, "name": "Frankfurt", "names": { "fr": "Francfort" },
            "exit_country": "DE", "udp": false, "ipv6": true, "resolvers": ["9.9.9.9", "2620:fe::fe"], "revision": 1,
        });
        assert_eq!((&changed, &control.list("regions").await[0]), (&expected, &expected));
        let typed = json!({ "names": { "de": "Mitte" }, "resolvers": [] });
        let changed = control.update("regions", &id(&region), typed).await;
        assert_eq!((&changed["names"], &changed["resolvers"]), (&json!({ "de": "Mitte" }), &json!([])));
        for (field, value) in [
            ("exit_country", json!("de")),
            ("resolvers", json!(["dns.example.com"])),
            ("names", json!({ "": "x" })),
            ("names", json!("nonsense")),
        ] {
            let mut body = json!({ "code": "x" });
            body[field] = value;
            assert_eq!(refused("regions", body).await, (422, field.to_owned()));
        }
        let (gateway, _) = register_gateway(&control, "gateway").await;
        let endpoint = add_endpoint(&control, &gateway, "gw.example.com").await;
        assert_eq!(
            (&endpoint["gateway_id"], &endpoint["port"], &endpoint["sni"], &endpoint["transports"]),
            (&json!(gateway), &json!(443), &json!("gw.example.com"), &json!(["h2", "h2ws", "ws"]))
        );
        let change = json!({ "transports": ["h2", "ws"], "state": "reserve", "weight": 3, "port": 8443 });
        let changed = control.update("endpoints", &id(&endpoint), change).await;
        assert_eq!(
            (&changed["transports"], &changed["state"], &changed["weight"], &changed["port"]),
            (&json!(["h2", "ws"]), &json!("reserve"), &json!(3), &json!(8443))
        );
        for (field, value) in [
            ("path", json!("no-slash")),
            ("host", json!("a b")),
            ("port", json!(0)),
            ("transports", json!(["quic"])),
            ("tls_pin", json!("AAAA")),
            ("weight", json!(0)),
            ("state", json!("gone")),
        ] {
            let mut body = json!({ "gateway_id": gateway, "host": "other.example.com", "path": PATH });
            body[field] = value;
            assert_eq!(refused("endpoints", body).await, (422, field.to_owned()));
        }
        let twin = json!({ "gateway_id": gateway, "host": "gw.example.com", "port": 8443, "path": PATH });
        assert_eq!(refused("endpoints", twin).await.0, 409);
        let stray = json!({ "gateway_id": Uuid::now_v7(), "host": "gw.example.com", "path": PATH });
        assert_eq!(refused("endpoints", stray).await, (422, "gateway_id".to_owned()));
        assert_eq!(control.list(&format!("endpoints?gateway_id={gateway}")).await.len(), 1);
        control.admin(Method::DELETE, &format!("endpoints/{}", id(&endpoint)), Value::Null).await;
        assert_eq!(control.list("endpoints").await.len(), 0);
    }
}
