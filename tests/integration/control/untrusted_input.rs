//! Untrusted input stays within bounds: gateways, texts, numbers, idle connections.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, REGION, SEED, post_as_gateway, register_gateway};
use crate::support::database::{BOTH, Kind, connect};
use crate::support::deployment::{Deployment, metric};
use crate::support::destination::{Behavior, Destination};
use crate::support::gateway_api::GatewayApi;
use crate::support::in_process::{TunnelDialer, fetch};
use crate::support::node::CHACHA;
use crate::support::subscriber::Subscriber;
use crate::support::times::{now, rfc3339};
use crate::support::wait::eventually;

const CURSOR_WITH_NUL: &str = "admin/plans?sort=name&cursor=eyJzb3J0IjoibmFtZSIsInRleHQiOiJcdTAwMDAiLCJpZCI6IjAxOTk3YjVlLTdjMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMSJ9";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fresh_token_a_gateway_can_only_move_its_own_live_sessions() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10, 10], &[]).await;
        let (_, other) = register_gateway(&api.control, "gw-2").await;
        let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 2 })).await;
        let session = api.begin(&subscriber).await;
        let wish = |session: &str, token: Option<&str>| {
            json!({
                "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device, "session_id": session,
                "access_token": token,
            })
        };
        let fresh = Uuid::now_v7().to_string();
        for (token, wish) in [
            (&other, wish(&session, None)),
            (&other, wish(&fresh, None)),
            (&api.token, wish(&fresh, None)),
            (&api.token, wish(&fresh, Some("nonsense"))),
            (&api.token, json!({ "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device })),
        ] {
            let (status, problem) = post_as_gateway(&api.control, "nodes/assign-outline", token, wish).await;
            assert_eq!((status, &problem["code"]), (403, &json!("FORBIDDEN")), "{kind:?} {problem}");
        }
        let stranger = Subscriber::create(&api.control, json!({})).await;
        let (status, _) =
            post_as_gateway(&api.control, "nodes/assign-outline", &api.token, wish(&fresh, Some(&stranger.token)))
                .await;
        assert_eq!(status, 403, "the token is another device's");
        let (status, moved) =
            post_as_gateway(&api.control, "nodes/assign-outline", &api.token, wish(&session, None)).await;
        assert_eq!((status, &moved["session_id"]), (200, &json!(session)), "{kind:?} {moved}");
        let (status, _) =
            post_as_gateway(&api.control, "nodes/assign-outline", &api.token, wish(&fresh, Some(&subscriber.token)))
                .await;
        assert_eq!(status, 200);
        assert_eq!(api.counts().await.iter().sum::<i64>(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_vouches_for_a_while_only() {
    let issuer = httvps::token::Issuer::new(&SEED).unwrap();
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[("SESSIONS__VOUCH_MAX_AGE", "1h")]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let ids = (subscriber.device.parse().unwrap(), subscriber.user.parse().unwrap());
        for (expired_minutes, code) in [(50, Value::Null), (70, json!("UNKNOWN_SESSION"))] {
            let issued = now() - Duration::from_secs(60 * (expired_minutes + 10));
            let token = issuer.issue(ids.0, ids.1, issued.unix_timestamp(), 600).unwrap();
            let mut report = GatewayApi::report(&subscriber, &Uuid::now_v7().to_string(), 5, 5);
            report["started_at"] = json!(rfc3339(issued + Duration::from_mins(5)));
            report["access_token"] = json!(token);
            assert_eq!(api.tell(report).await["code"], code, "{kind:?} {expired_minutes}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_implausible_report_is_refused_alone() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 5 })).await;
        let honest = Subscriber::create(&api.control, json!({})).await;
        let (lying, own) = (api.begin(&subscriber).await, api.begin(&honest).await);
        for bytes in [10_u64.pow(12), i64::MAX.unsigned_abs(), u64::MAX] {
            let reports = json!({ "reports": [
                GatewayApi::report(&subscriber, &lying, 0, bytes), GatewayApi::report(&honest, &own, 7, 7),
            ] });
            let (status, answer) = api.post("usage/report", reports).await;
            assert_eq!(status, 200, "{kind:?} {answer}");
            let verdict = |session: &str| {
                let all = answer["sessions"].as_array().unwrap();
                all.iter().find(|verdict| verdict["session_id"] == session).unwrap().clone()
            };
            let code = if bytes > i64::MAX.unsigned_abs() { "OUT_OF_RANGE" } else { "IMPLAUSIBLE" };
            assert_eq!(verdict(&lying)["code"], code, "{kind:?} {answer}");
            assert_eq!(verdict(&own)["continue"], true);
        }
        assert_eq!(api.validate(&subscriber, json!({})).await["remaining_bytes"], 5_000_000_000_u64);
        let ops = api.control.process.as_ref().unwrap().line("ops-control").to_owned();
        assert_eq!(metric(&api.control.http, &ops, "httvps_usage_implausible_total").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_session_does_not_hold_up_its_batch() {
    let api = GatewayApi::start(Kind::Postgres, &[10], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(api.begin(&subscriber).await);
    }
    let bad = &sessions[5];
    let client = connect(api.control.database()).await;
    let sql = format!(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER refuse BEFORE UPDATE ON sessions FOR EACH ROW WHEN (NEW.id = '{bad}') EXECUTE FUNCTION refuse()"
    );
    client.batch_execute(&sql).await.unwrap();
    let reports: Vec<Value> = sessions.iter().map(|session| GatewayApi::report(&subscriber, session, 3, 4)).collect();
    let (status, answer) = api.post("usage/report", json!({ "reports": reports })).await;
    assert_eq!(status, 200, "{answer}");
    for verdict in answer["sessions"].as_array().unwrap() {
        let is_bad = verdict["session_id"] == bad.as_str();
        assert_eq!((&verdict["continue"], verdict["code"] == "INTERNAL"), (&json!(!is_bad), is_bad), "{verdict}");
    }
    for session in &sessions {
        let row = api.control.get("sessions", session).await;
        assert_eq!(row["bytes_down"], if session == bad { 0 } else { 4 });
    }
    let (status, answer) = api.post("usage/report", json!({ "reports": [] })).await;
    assert_eq!((status, &answer["sessions"]), (200, &json!([])), "{answer}");
    let all = "CREATE TRIGGER refuse_all BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()";
    client.batch_execute(all).await.unwrap();
    let reports: Vec<Value> = sessions.iter().map(|session| GatewayApi::report(&subscriber, session, 5, 6)).collect();
    let (status, answer) = api.post("usage/report", json!({ "reports": reports })).await;
    assert_eq!(status, 500, "what refuses everybody is nobody's verdict: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_the_database_refuses_is_kept() {
    let deployment = Deployment::start(Kind::Postgres, CHACHA).await;
    let source = Destination::start(Behavior::Source);
    let dialer = TunnelDialer::of(&deployment, &deployment.subscriber);
    let (refused, other) = (dialer.enter().await.unwrap(), dialer.enter().await.unwrap());
    assert_eq!(fetch(&refused.tunnel, source.address, 1000).await, (1000, Ok(())));
    deployment.totals_are(8, 1000).await;
    let sessions = deployment.control.list("sessions").await;
    let bad = sessions.iter().find(|session| session["bytes_down"] == 1000).unwrap()["id"].as_str().unwrap().to_owned();
    let client = connect(deployment.control.database()).await;
    let sql = format!(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER refuse BEFORE UPDATE ON sessions FOR EACH ROW WHEN (NEW.id = '{bad}') EXECUTE FUNCTION refuse()"
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(fetch(&refused.tunnel, source.address, 2000).await, (2000, Ok(())));
    let ops = deployment.control.process.as_ref().unwrap().line("ops-control").to_owned();
    let splits = async || metric(&deployment.control.http, &ops, "httvps_usage_split_total").await;
    let before = splits().await;
    eventually(async || if splits().await > before + 1 { Ok(()) } else { Err("no report was split".into()) }).await;
    assert_eq!(fetch(&refused.tunnel, source.address, 3000).await, (3000, Ok(())), "the session goes on");
    drop(refused);
    let before = splits().await;
    eventually(async || if splits().await > before + 1 { Ok(()) } else { Err("the last usage was forgotten".into()) })
        .await;
    client.batch_execute("DROP TRIGGER refuse ON sessions").await.unwrap();
    deployment.totals_are(24, 6000).await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn extreme_numbers_saturate() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let plan = json!({ "traffic_limit_gb": 9e9, "period": "term" });
        let subscriber = Subscriber::create(&api.control, plan).await;
        for payment in 0..3 {
            let path = format!("/api/v1/admin/subscriptions/{}/renew", subscriber.subscription);
            let body = json!({ "days": 3660, "payment_id": payment.to_string() });
            let (status, answer) = api.control.ask(Method::POST, &path, ADMIN_KEY, Some(&body)).await;
            assert_eq!(status, 200, "{kind:?} {answer}");
        }
        let left = api.validate(&subscriber, json!({})).await["remaining_bytes"].as_u64().unwrap();
        assert_eq!(left, 9_000_000_000_000_000_000 + i64::MAX.unsigned_abs());
        let session = api.begin(&subscriber).await;
        assert_eq!(api.tell(GatewayApi::report(&subscriber, &session, 1, 1)).await["continue"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_are_refused_with_their_field() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let code = api.control.create("codes", json!({ "user_id": subscriber.user })).await["code"].clone();
        let device = format!("client/devices/{}", subscriber.device);
        let enroll = |field: &str| {
            let mut body =
                json!({ "code": code, "device_uuid": "d", "platform": "p", "name": "n", "client_version": "1" });
            body[field] = json!("a\u{0}b");
            ("auth/enroll", Method::POST, body)
        };
        let admin = |path: &'static str, body: Value| (path, Method::POST, body);
        let probe = json!({ "node_id": api.nodes[0], "healthy": false, "error": "\u{0}" });
        let cases = [
            ("name", enroll("name"), ""),
            ("client_version", enroll("client_version"), ""),
            ("device_uuid", enroll("device_uuid"), ""),
            ("platform", enroll("platform"), ""),
            ("name", (device.as_str(), Method::PATCH, json!({ "name": "a\u{1b}]0;x\u{7}" })), &subscriber.token),
            ("version", ("gateway/heartbeat", Method::POST, json!({ "version": "1\u{0}" })), &api.token),
            ("error", ("outline/heartbeat", Method::POST, probe), &api.token),
            ("name", admin("admin/plans", json!({ "name": "\u{0}" })), ADMIN_KEY),
            ("regions[0]", admin("admin/plans", json!({ "name": "x", "regions": ["\u{0}"] })), ADMIN_KEY),
            ("region", admin("admin/gateways", json!({ "name": "g", "region": "\u{0}" })), ADMIN_KEY),
            (
                "public_ip",
                admin("admin/gateways", json!({ "name": "g", "region": REGION, "public_ip": "\u{0}" })),
                ADMIN_KEY,
            ),
            ("identifier", admin("admin/users", json!({ "identifier": "\u{85}" })), ADMIN_KEY),
            ("name", admin("admin/devices", json!({ "user_id": subscriber.user, "name": "\u{0}" })), ADMIN_KEY),
            (
                "device_uuid",
                ("auth/refresh", Method::POST, json!({ "refresh_token": "r", "device_uuid": "\u{0}" })),
                "",
            ),
            ("support_id", ("admin/refusals?support_id=%00", Method::GET, Value::Null), ADMIN_KEY),
            ("cursor", (CURSOR_WITH_NUL, Method::GET, Value::Null), ADMIN_KEY),
        ];
        for (field, (path, method, body), key) in cases {
            let body = (!body.is_null()).then_some(&body);
            let (status, problem) = api.control.ask(method, &format!("/api/v1/{path}"), key, body).await;
            assert_eq!(
                (status.as_u16(), &problem["errors"][0]["field"]),
                (422, &json!(field)),
                "{kind:?} {path} {problem}"
            );
        }
        let (status, _) = api.control.ask(Method::GET, "/api/v1/admin/plans/a%00b", ADMIN_KEY, None).await;
        assert_eq!(status.as_u16(), 404, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_self_description_cannot_stop_a_gateway() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let odd = json!({ "client_version": "1\u{0}\u{1b}[2J", "platform": "\u{0}", "support_id": "\u{0}" });
        assert_eq!(api.validate(&subscriber, odd).await["ok"], true, "{kind:?}");
        assert_eq!(api.validate(&subscriber, json!({ "region": "eu-1\u{0}" })).await["code"], "UNKNOWN_REGION");
        let note = json!({
            "device_id": subscriber.device, "code": "NO_SUBSCRIPTION", "client_version": "\u{0}", "support_id": "7KQ2-M9XD",
            "at": "2026-11-01T00:00:00Z",
        });
        let (status, _) = api.post("gateway/heartbeat", json!({ "version": "1", "refusals": [note] })).await;
        assert_eq!(status, 200);
        eventually(|| async {
            let device = api.control.get("devices", &subscriber.device).await;
            let version = device["client_version"].as_str().unwrap_or_default().to_owned();
            if version.starts_with('1') && !version.contains(char::is_control) { Ok(()) } else { Err(version) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_unauthenticated_connections_make_room() {
    let more = [("CONTROL__MAX_CONNECTIONS", "32"), ("CONTROL__HEADER_TIMEOUT", "60s")];
    let api = GatewayApi::start(Kind::Sqlite, &[], &more).await;
    let pid = api.control.process.as_ref().unwrap().pid();
    let limited = std::process::Command::new("prlimit").args([&format!("--pid={pid}"), "--nofile=128:128"]).status();
    assert!(limited.unwrap().success());
    let address = api.control.url.strip_prefix("http://").unwrap().to_owned();
    let mut strangers = Vec::new();
    for _ in 0..160 {
        strangers.push(TcpStream::connect(&address).await.unwrap());
    }
    let ops = api.control.process.as_ref().unwrap().line("ops-control").to_owned();
    for _ in 0..3 {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap();
        assert!(client.get(format!("{ops}/readyz")).send().await.unwrap().status().is_success());
        let response = client.get(format!("{}/.well-known/jwks.json", api.control.url)).send().await.unwrap();
        assert!(response.status().is_success());
    }
    api.control.create("users", json!({ "identifier": "somebody@example.com" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_forbid_proxy_buffering() {
    let api = GatewayApi::start(Kind::Sqlite, &[], &[]).await;
    let url = format!("{}/api/v1/gateway/events", api.control.url);
    let response = api.control.http.get(url).bearer_auth(&api.token).send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("x-accel-buffering"), header("cache-control")), ("no".into(), "no-store".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_buffers_events_is_named() {
    let mut deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("GATEWAY__EVENTS_TIMEOUT", "600ms")]).await;
    let ops = deployment.control.process.as_ref().unwrap().line("ops-control").to_owned();
    let streams = "httvps_http_request_seconds_count{route=\"/api/v1/gateway/events\",status=\"200\"}";
    eventually(|| async {
        match metric(&deployment.control.http, &ops, streams).await {
            0..3 => Err("it has not asked for the events again".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert_eq!(log.matches("events come late: a proxy").count(), 1, "{log}");
}
