//! What a gateway relays for clients, and what anybody else gets instead.

use httvps::clock::Clock;
use httvps::frame::{Frame, SessionCode};
use httvps::token::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::configuration::{CONFIG, KEYS, verify};
use crate::support::control::{ADMIN_KEY, REGION, SEED, id};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::{Deployment, PATH, add_endpoint};
use crate::support::http2_peer::{self, Peer};
use crate::support::node::CHACHA;
use crate::support::raw::{self, RawClient, UPGRADE, dial};
use crate::support::subscriber::Subscriber;

const ACCOUNT: &str = "/api/v1/client/account";
const ENROLL: &str = "/api/v1/auth/enroll";
const REFRESH: &str = "/api/v1/auth/refresh";
const MANY: (&str, &str) = ("PORTAL__DEVICE_REQUESTS_PER_MINUTE", "1000");

/// A gateway's response without the `Date` header.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

async fn exchange(socket: &mut TlsStream<TcpStream>, request: &str) -> Answer {
    let head = raw::request(socket, request).await;
    let lines: Vec<&str> = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date: ")).collect();
    let mut answer = Answer { head: lines.join("\n"), body: Vec::new() };
    let has_body = !request.starts_with("HEAD ");
    let length = answer.header("content-length").filter(|_| has_body).map_or(0, |length| length.parse().unwrap());
    answer.body.resize(length, 0);
    socket.read_exact(&mut answer.body).await.unwrap();
    answer
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn ask(deployment: &Deployment, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    exchange(&mut dial(deployment).await, &request(method, &below(path), headers, body)).await
}

/// A path below the portal's prefix.
fn below(path: &str) -> String {
    format!("{PATH}{path}")
}

async fn post(deployment: &Deployment, path: &str, body: &Value) -> Answer {
    ask(deployment, "POST", path, "", &body.to_string()).await
}

async fn get(deployment: &Deployment, path: &str, token: &str) -> Answer {
    ask(deployment, "GET", path, &bearer(token), "").await
}

async fn deployment(more: &[(&str, &str)]) -> Deployment {
    let deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "traffic_limit_gb": 1, "max_devices": 3 }), more).await;
    let gateway = id(&deployment.control.list("gateways").await[0]);
    add_endpoint(&deployment.control, &gateway, "gw.example.com").await;
    deployment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_needs_nothing_but_a_gateway() {
    let deployment = deployment(&[MANY]).await;
    let code = deployment.control.create("codes", json!({ "user_id": deployment.subscriber.user })).await;
    let body = json!({ "code": code["code"], "device_uuid": "phone", "platform": "android", "name": "Phone" });
    let enrolled = post(&deployment, ENROLL, &body).await;
    assert_eq!((enrolled.status(), enrolled.header("content-type")), (200, Some("application/json")), "{enrolled:?}");
    assert_eq!(enrolled.header("x-request-id"), None);
    let first = enrolled.json();
    let body = json!({ "refresh_token": first["refresh_token"], "device_uuid": "phone" });
    let refreshed = post(&deployment, REFRESH, &body).await;
    assert_eq!(refreshed.status(), 200, "{refreshed:?}");
    let refreshed = refreshed.json();
    assert_ne!(refreshed["refresh_token"], first["refresh_token"]);
    let token = refreshed["access_token"].as_str().unwrap();
    let config = get(&deployment, CONFIG, token).await;
    assert_eq!((config.status(), config.header("content-type")), (200, Some("application/jose")), "{config:?}");
    assert_eq!(config.header("cache-control"), Some("private"));
    let payload = verify(&deployment.control, config.text()).await;
    assert_eq!((&payload["regions"][0]["code"], &payload["min_client_version"]), (&json!(REGION), &json!("")));
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 86_400);
    let endpoint = json!({
        "host": "gw.example.com", "port": 443, "sni": "gw.example.com", "path": PATH, "transports": ["h2", "h2ws", "ws"],
        "tls_pin": "", "weight": 1, "state": "active",
    });
    let gateway = &payload["gateways"][0];
    assert_eq!((&gateway["endpoints"], &gateway["exit_regions"]), (&json!([endpoint]), &json!([REGION])));
    let etag = config.header("etag").unwrap();
    let same = ask(&deployment, "GET", CONFIG, &format!("{}If-None-Match: {etag}\r\n", bearer(token)), "").await;
    assert_eq!((same.status(), same.header("etag"), same.body.len()), (304, Some(etag), 0));
    let keys = get(&deployment, KEYS, token).await.json();
    assert_eq!(keys, deployment.control.ask(Method::GET, KEYS, "", None).await.1);
    let account = ask(&deployment, "GET", ACCOUNT, &format!("authorization: bearer {token}\r\n"), "").await.json();
    assert_eq!(account["user"], json!({ "id": deployment.subscriber.user, "status": "active" }));
    let subscription = &account["subscription"];
    assert_eq!(
        (&subscription["id"], &subscription["state"], &subscription["days_left"]),
        (&json!(deployment.subscriber.subscription), &json!("active"), &json!(30))
    );
    let traffic = &account["traffic"];
    assert_eq!(
        (&traffic["limit_bytes"], &traffic["used_bytes"], &traffic["remaining_bytes"]),
        (&json!(1_000_000_000), &json!(0), &json!(1_000_000_000))
    );
    assert!(traffic["period_start"].is_string() && traffic["period_end"].is_string(), "{traffic}");
    assert_eq!(account["limits"], json!({ "max_devices": 3, "max_sessions": null, "rate_limit_mbps": null }));
    let devices = account["devices"].as_array().unwrap();
    let this = devices.iter().find(|device| device["this"] == true).unwrap();
    assert_eq!((devices.len(), &this["id"], &this["name"]), (2, &first["device_id"], &json!("Phone")), "{account}");
    let path = format!("/api/v1/client/devices/{}", first["device_id"].as_str().unwrap());
    let renamed = ask(&deployment, "PATCH", &path, &bearer(token), r#"{"name":"Old phone"}"#).await;
    assert_eq!((renamed.status(), &renamed.json()["name"]), (200, &json!("Old phone")));
    deployment.control.update("plans", &deployment.subscriber.plan, json!({ "max_devices": 2 })).await;
    let code = deployment.control.create("codes", json!({ "user_id": deployment.subscriber.user })).await;
    let body = json!({ "code": code["code"], "device_uuid": "third", "platform": "test" });
    let crowded = post(&deployment, ENROLL, &body).await;
    assert_eq!((crowded.status(), &crowded.json()["code"]), (409, &json!("DEVICE_LIMIT")));
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"not_a_tunnel\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_portal_is_invisible() {
    let mut deployment = deployment(&[MANY]).await;
    let other = Subscriber::create(&deployment.control, json!({})).await;
    let now = Clock::system().now().unix_timestamp();
    let (device, user) = (deployment.subscriber.device.parse().unwrap(), deployment.subscriber.user.parse().unwrap());
    let foreign = Issuer::new(&[9; 32]).unwrap().issue(device, user, now, 3600).unwrap();
    let expired = Issuer::new(&SEED).unwrap().issue(device, user, now - 7200, 3600).unwrap();
    let genuine = deployment.subscriber.token.clone();
    let forged = format!("{}.{}", genuine.rsplit_once('.').unwrap().0, foreign.rsplit_once('.').unwrap().1);
    let device = format!("/api/v1/client/devices/{}", deployment.subscriber.device);
    let others = format!("/api/v1/client/devices/{}", other.device);
    let wrong = json!({ "code": "0000-0000-0000-0000-0000-0000-00", "device_uuid": "x", "platform": "x" }).to_string();
    let stolen = json!({ "refresh_token": "x".repeat(43), "device_uuid": "x" }).to_string();
    let long = format!("{}Content-Length: 100000\r\n", bearer(&genuine));
    let nobody = String::new();
    let cases: [(&str, &str, &str, &str); 19] = [
        ("GET", KEYS, &nobody, ""),
        ("GET", KEYS, &bearer(&expired), ""),
        ("HEAD", KEYS, &bearer(&genuine), ""),
        ("GET", CONFIG, &nobody, ""),
        ("GET", ACCOUNT, &bearer("x.y.z"), ""),
        ("GET", CONFIG, &bearer(&foreign), ""),
        ("GET", CONFIG, &bearer(&forged), ""),
        ("GET", ACCOUNT, &bearer(&expired), ""),
        ("GET", CONFIG, &format!("Authorization: Basic {genuine}\r\n"), ""),
        ("DELETE", &device, &nobody, ""),
        ("DELETE", &others, &bearer(&genuine), ""),
        ("PATCH", &device, &long, ""),
        ("POST", CONFIG, &bearer(&genuine), ""),
        ("HEAD", CONFIG, &bearer(&genuine), ""),
        ("POST", ENROLL, &nobody, &wrong),
        ("POST", ENROLL, &nobody, "nonsense"),
        ("POST", REFRESH, &nobody, &stolen),
        ("GET", "/api/v1/admin/users", &bearer(ADMIN_KEY), ""),
        ("POST", "/api/v1/gateway/heartbeat", &bearer(&genuine), "{}"),
    ];
    for (method, path, headers, body) in cases {
        let given = ask(&deployment, method, path, headers, body).await;
        assert_eq!(
            given,
            ask(&deployment, method, "/elsewhere", headers, body).await,
            "{method} {path} {headers} {body}"
        );
        assert_eq!(given.status(), 404);
    }
    let listed = deployment.control.list("devices").await;
    assert!(listed.iter().all(|device| device["status"] == "active"));
    assert_eq!(get(&deployment, CONFIG, &genuine).await.status(), 200);
    deployment.control.kill().await;
    assert_eq!(
        get(&deployment, CONFIG, &genuine).await,
        get(&deployment, "/elsewhere", &genuine).await,
        "nobody to ask"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_portal_answers_below_its_path_only() {
    let deployment = deployment(&[MANY]).await;
    let token = bearer(&deployment.subscriber.token);
    let mut socket = dial(&deployment).await;
    let nobody = exchange(&mut socket, &request("GET", "/elsewhere", &token, "")).await;
    for path in [CONFIG, ACCOUNT, KEYS] {
        assert_eq!(get(&deployment, path, &deployment.subscriber.token).await.status(), 200, "{path}");
        for elsewhere in
            [path.to_owned(), format!("{PATH}x{path}"), format!("/x{PATH}{path}"), format!("{PATH}/{path}")]
        {
            assert_eq!(exchange(&mut socket, &request("GET", &elsewhere, &token, "")).await, nobody, "{elsewhere}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_rate_a_client_sees_no_portal() {
    let limits = [("PORTAL__DEVICE_REQUESTS_PER_MINUTE", "2"), ("PORTAL__REQUESTS_PER_MINUTE", "1")];
    let deployment = deployment(&limits).await;
    let wrong = json!({ "code": "0000-0000-0000-0000-0000-0000-00", "device_uuid": "x", "platform": "x" });
    for _ in 0..3 {
        assert_eq!(
            post(&deployment, ENROLL, &wrong).await.status(),
            404,
            "somebody behind the same address sends junk"
        );
    }
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"portal_rate\"}").await, 2);
    let token = &deployment.subscriber.token;
    for _ in 0..5 {
        assert_eq!(
            get(&deployment, CONFIG, "x.y.z").await.status(),
            404,
            "what does not leave the gateway costs nothing"
        );
    }
    let mut socket = dial(&deployment).await;
    for _ in 0..2 {
        assert_eq!(exchange(&mut socket, &request("GET", &below(ACCOUNT), &bearer(token), "")).await.status(), 200);
    }
    assert_eq!(get(&deployment, ACCOUNT, token).await, get(&deployment, "/elsewhere", token).await);
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"portal_rate\"}").await, 3);
    RawClient::session(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_portal_can_be_disabled() {
    let deployment = deployment(&[("PORTAL__ENABLED", "false")]).await;
    let token = &deployment.subscriber.token;
    let closed = get(&deployment, CONFIG, token).await;
    assert_eq!((closed.status(), closed), (404, get(&deployment, "/elsewhere", token).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_tunnel_end_in_time() {
    let deployment = deployment(&[("TUNNEL__HANDSHAKE_TIMEOUT", "1s")]).await;
    let mut socket = dial(&deployment).await;
    let answer =
        exchange(&mut socket, &request("GET", &below(CONFIG), &bearer(&deployment.subscriber.token), "")).await;
    assert_eq!(answer.status(), 200);
    let end =
        tokio::time::timeout(crate::support::wait::TIMEOUT, socket.read(&mut [0; 1])).await.expect("it is closed");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_revoked_by_its_user_loses_its_tunnel() {
    for kind in BOTH {
        let deployment = Deployment::build(kind, &[CHACHA], json!({}), &[MANY]).await;
        let device = deployment.control.create("devices", json!({ "user_id": deployment.subscriber.user })).await;
        let token = device["access_token"].as_str().unwrap();
        let mut raw = RawClient::session(&deployment).await;
        let path = format!("/api/v1/client/devices/{}", deployment.subscriber.device);
        for _ in 0..2 {
            assert_eq!(
                ask(&deployment, "DELETE", &path, &bearer(token), "").await.status(),
                204,
                "once more is no error"
            );
        }
        let ended = loop {
            if let Frame::Error { code, .. } = raw.next_frame().await {
                break code;
            }
        };
        assert_eq!((ended, raw.closed().await), (SessionCode::DeviceBanned, Some(4006)));
        let refused = get(&deployment, ACCOUNT, &deployment.subscriber.token).await;
        assert_eq!((refused.status(), &refused.json()["code"]), (403, &json!("DEVICE_BANNED")));
        let account = get(&deployment, ACCOUNT, token).await.json();
        let states: Vec<&Value> = account["devices"].as_array().unwrap().iter().map(|row| &row["status"]).collect();
        assert_eq!(states, ["active", "revoked"]);
        deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
        let refused = get(&deployment, CONFIG, token).await;
        assert_eq!((refused.status(), &refused.json()["code"]), (403, &json!("USER_BANNED")));
    }
}

async fn checked(deployment: &Deployment) -> u64 {
    deployment.metric("httvps_tokens_checked_total{outcome=\"genuine\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_token_is_checked_once() {
    let deployment = deployment(&[]).await;
    let token = deployment.subscriber.token.clone();
    assert_eq!(checked(&deployment).await, 0);
    assert_eq!(get(&deployment, CONFIG, &token).await.status(), 200);
    assert_eq!(checked(&deployment).await, 1, "a request of the portal's");
    let peer = Peer::dial(&deployment).await;
    let headers = [("authorization", format!("Bearer {token}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let asked = peer.ask(http2_peer::request("GET", &below(CONFIG), &headers), b"").await.unwrap();
    assert_eq!((asked.status.as_u16(), checked(&deployment).await), (200, 2), "over HTTP/2");
    drop(Peer::dial(&deployment).await.plain(&deployment).await);
    assert_eq!(checked(&deployment).await, 4, "a tunnel's over HTTP/2, and hello's");
    let mut socket = dial(&deployment).await;
    let upgrade = format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{}\r\n", bearer(&token));
    assert!(raw::request(&mut socket, &upgrade).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(checked(&deployment).await, 5, "an upgrade's");
}
