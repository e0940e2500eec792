//! The REST API on both databases.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::database::{BOTH, Kind};
use crate::process::{eventually, run};
use crate::world::{ADMIN_KEY, Control, REGION, SEED, Subscriber, env, id, register_gateway};

/// A control plane with a region, a gateway's token and nodes that nobody dials.
pub(crate) struct Api {
    pub(crate) control: Control,
    pub(crate) token: String,
    pub(crate) nodes: Vec<String>,
}

impl Api {
    pub(crate) async fn start(kind: Kind, capacities: &[i32], more: &[(&str, &str)]) -> Self {
        let control = Control::start_with(kind, more).await;
        control.create("regions", json!({ "code": REGION })).await;
        let mut nodes = Vec::new();
        for (index, capacity) in capacities.iter().enumerate() {
            let key = format!("ss://aes-256-gcm:hush@10.0.0.{}:8388", index + 1);
            let node = json!({ "region": REGION, "access_key": key, "max_sessions": capacity });
            nodes.push(id(&control.create("nodes", node).await));
        }
        let (_, token) = register_gateway(&control, "gw-1").await;
        Self { control, token, nodes }
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, answer) =
            self.control.ask(Method::POST, &format!("/api/v1/{path}"), &self.token, Some(&body)).await;
        (status.as_u16(), answer)
    }

    pub(crate) async fn validate(&self, subscriber: &Subscriber, more: Value) -> Value {
        let mut body = json!({ "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = self.post("auth/validate-device", body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(crate) async fn begin(&self, subscriber: &Subscriber) -> String {
        let session = Uuid::now_v7().to_string();
        let answer = self.validate(subscriber, json!({ "assign": true, "session_id": session })).await;
        assert_eq!(answer["ok"], true, "{answer}");
        session
    }

    pub(crate) fn report(subscriber: &Subscriber, session: &str, up: u64, down: u64) -> Value {
        json!({
            "device_id": subscriber.device, "session_id": session, "bytes_up": up, "bytes_down": down,
            "started_at": "2026-11-01T00:00:00Z",
        })
    }

    pub(crate) async fn tell(&self, report: Value) -> Value {
        let (status, answer) = self.post("usage/report", report).await;
        assert_eq!(status, 200, "{answer}");
        answer["sessions"][0].clone()
    }

    pub(crate) async fn counts(&self) -> Vec<i64> {
        let mut counts = Vec::new();
        for node in &self.nodes {
            counts.push(self.control.get("nodes", node).await["active_sessions"].as_i64().unwrap());
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_answers_limits_and_the_node_in_one_call() {
    for kind in BOTH {
        let api = Api::start(kind, &[10], &[]).await;
        let plan = json!({ "traffic_limit_gb": "1.5", "max_sessions": "5", "rate_limit_mbps": 50 });
        let subscriber = Subscriber::create(&api.control, plan).await;
        let answer = api.validate(&subscriber, json!({})).await;
        assert_eq!(answer["ok"], true);
        assert_eq!(answer["user"], json!({ "id": subscriber.user, "status": "active" }));
        assert_eq!(answer["subscription"]["id"], json!(subscriber.subscription));
        let limits = json!({ "max_sessions": 5, "rate_limit_mbps": 50, "traffic_limit_bytes": 1_500_000_000u64 });
        assert_eq!(answer["limits"], limits);
        assert_eq!((&answer["remaining_bytes"], &answer["node"]), (&json!(1_500_000_000u64), &Value::Null));
        assert_eq!(api.counts().await, [0]);
        let session = Uuid::now_v7();
        let answer = api.validate(&subscriber, json!({ "assign": true, "session_id": session })).await;
        let node = json!({
            "id": api.nodes[0], "region": REGION, "internal_ip": "10.0.0.1", "port": 8388, "method": "aes-256-gcm",
            "password": "hush", "generation": 1, "oldest_generation": 1, "draining": false,
        });
        assert_eq!(answer["node"], node);
        assert_eq!(api.counts().await, [1]);
        eventually(|| async {
            let device = api.control.get("devices", &subscriber.device).await;
            if device["last_seen_at"].is_string() { Ok(()) } else { Err(device.to_string()) }
        })
        .await;
        let row = api.control.get("sessions", &session.to_string()).await;
        assert_eq!((&row["state"], &row["bytes_up"]), (&json!("reserved"), &json!(0)));
        let listed = api.control.list("nodes").await[0].to_string();
        assert!(!listed.contains("hush") && !listed.contains("ss_password"), "{listed}");
        let refused =
            api.validate(&subscriber, json!({ "region": "nowhere", "assign": true, "session_id": session })).await;
        assert_eq!(refused, json!({ "ok": false, "code": "UNKNOWN_REGION" }));
        let (status, problem) = api
            .post("auth/validate-device", json!({ "device_id": subscriber.device, "access_token": "x", "region": 5 }))
            .await;
        assert_eq!(
            (status, &problem["code"], &problem["errors"][0]["field"]),
            (422, &json!("INVALID"), &json!("region"))
        );
        assert!(problem["request_id"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_atomic_and_spread_by_load() {
    for kind in BOTH {
        let api = Api::start(kind, &[10, 10, 5], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let wishes = (0..40).map(|_| {
            let body = json!({
                "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
                "session_id": Uuid::now_v7(), "access_token": subscriber.token,
            });
            api.post("nodes/assign-outline", body)
        });
        let answers = futures_util::future::join_all(wishes).await;
        let granted = answers.iter().filter(|(status, _)| *status == 200).count();
        assert_eq!(granted, 25, "{kind:?}");
        let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
        assert!(refused.iter().all(|(status, answer)| *status == 503 && answer["code"] == "NO_NODE_AVAILABLE"));
        assert_eq!(api.counts().await, [10, 10, 5]);
        let nowhere = json!({
            "region": "nowhere", "user_id": subscriber.user, "device_id": subscriber.device,
            "access_token": subscriber.token,
        });
        let (status, answer) = api.post("nodes/assign-outline", nowhere).await;
        assert_eq!((status, &answer["code"]), (404, &json!("UNKNOWN_REGION")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_nodes_refuses_nobody() {
    for kind in BOTH {
        let api = Api::start(kind, &[1], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        for _ in 0..3 {
            let session = api.begin(&subscriber).await;
            let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
            assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{kind:?}");
            let mut last = Api::report(&subscriber, &session, 1, 1);
            last["ended_at"] = json!("2026-11-01T00:01:00Z");
            api.tell(last).await;
        }
        api.control.create("regions", json!({ "code": "elsewhere" })).await;
        api.control.update("nodes", &api.nodes[0], json!({ "region": "elsewhere" })).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{kind:?}");
    }
}

/// What another replica does to a node is not known here for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_remembered_is_looked_at_before_it_is_given() {
    let api = Api::start(Kind::Postgres, &[1000], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    api.control.create("regions", json!({ "code": "elsewhere" })).await;
    let elsewhere = "(SELECT id FROM regions WHERE code = 'elsewhere')";
    let home = format!("(SELECT id FROM regions WHERE code = '{REGION}')");
    for (column, lost, good) in [
        ("state", "'draining'", "'active'"),
        ("health_status", "'unhealthy'", "'healthy'"),
        ("max_sessions", "0", "1000"),
        ("region_id", elsewhere, home.as_str()),
    ] {
        api.begin(&subscriber).await;
        api.control.rewrite(&format!("UPDATE outline_nodes SET {column} = {lost}")).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE", "{column}");
        api.control.rewrite(&format!("UPDATE outline_nodes SET {column} = {good}")).await;
    }
    api.begin(&subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_device_was_there_is_written_at_the_end_too() {
    for kind in BOTH {
        let mut api = Api::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let version = json!({ "client_version": "7.1" });
        assert_eq!(api.validate(&subscriber, version).await["ok"], true);
        let wish = json!({
            "region": REGION, "user_id": subscriber.user, "device_id": subscriber.device,
            "access_token": subscriber.token,
        });
        assert_eq!(api.post("nodes/assign-outline", wish).await.0, 200, "which knows of no version");
        api.control.process.take().unwrap().stop().await;
        api.control.resume().await;
        let device = api.control.get("devices", &subscriber.device).await;
        assert!(device["last_seen_at"].is_string() && device["client_version"] == "7.1", "{kind:?} {device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_question_finds_its_session() {
    for kind in BOTH {
        let api = Api::start(kind, &[10, 10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "max_sessions": 1, "traffic_limit_gb": 1 })).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        for _ in 0..2 {
            let answer = api.validate(&subscriber, wish.clone()).await;
            assert_eq!(answer["ok"], true, "{kind:?} {answer}");
            assert!(answer["lease"]["allowed"].as_u64().unwrap() > 0, "{answer}");
        }
        assert_eq!(api.counts().await.iter().sum::<i64>(), 1);
        assert_eq!(api.control.list("sessions").await.len(), 1);
        let other = Subscriber::create(&api.control, json!({})).await;
        let body = json!({
            "device_id": other.device, "access_token": other.token, "region": REGION, "assign": true,
            "session_id": wish["session_id"],
        });
        let (status, answer) = api.post("auth/validate-device", body).await;
        assert_eq!((status, &answer["code"]), (409, &json!("SESSION_TAKEN")), "{kind:?}");
        assert_eq!(api.counts().await.iter().sum::<i64>(), 1, "nothing is left of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_was_never_used_expires_and_reopens_when_it_is() {
    for kind in BOTH {
        let api = Api::start(kind, &[1], &[("SESSIONS__RESERVATION_TTL", "300ms")]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let session = api.begin(&subscriber).await;
        eventually(|| async {
            match api.control.get("sessions", &session).await["state"].as_str() {
                Some("expired") => Ok(()),
                state => Err(format!("{state:?}")),
            }
        })
        .await;
        assert_eq!(api.counts().await, [0]);
        let verdict = api.tell(Api::report(&subscriber, &session, 5, 5)).await;
        assert_eq!(verdict["continue"], true);
        assert_eq!(api.counts().await, [1]);
        assert_eq!(api.control.get("sessions", &session).await["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_cumulative_idempotent_and_order_does_not_matter() {
    for kind in BOTH {
        let api = Api::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 0.000_01 })).await;
        let session = api.begin(&subscriber).await;
        for (up, down, left) in
            [(100, 1000, 8900), (100, 1000, 8900), (50, 2000, 7900), (100, 900, 7900), (200, 2000, 7800)]
        {
            let verdict = api.tell(Api::report(&subscriber, &session, up, down)).await;
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
            Api::report(&subscriber, &second, 700, 0),
            Api::report(&subscriber, &session, 200, 2100),
            Api::report(&subscriber, &second, 600, 100),
            Api::report(&subscriber, &Uuid::now_v7().to_string(), 1, 1),
        ]});
        let (status, answer) = api.post("usage/report", reports).await;
        assert_eq!(status, 200);
        let of = |id: &str| {
            answer["sessions"].as_array().unwrap().iter().find(|verdict| verdict["session_id"] == id).unwrap()
        };
        assert_eq!((&of(&session)["continue"], &of(&session)["remaining_bytes"]), (&json!(true), &json!(6900)));
        assert_eq!(of(&second)["remaining_bytes"], json!(6900));
        assert!(answer["sessions"].as_array().unwrap().iter().any(|verdict| verdict["code"] == "UNKNOWN_SESSION"));
        let mut last = Api::report(&subscriber, &session, 200, 2200);
        last["ended_at"] = json!("2026-11-01T00:01:00Z");
        for _ in 0..2 {
            let verdict = api.tell(last.clone()).await;
            assert_eq!(verdict, json!({ "session_id": session, "continue": false }));
        }
        assert_eq!(api.counts().await, [1]);
        let late = api.tell(Api::report(&subscriber, &session, 200, 2300)).await;
        assert_eq!(late["continue"], false, "final is sticky");
        let row = api.control.get("sessions", &session).await;
        assert_eq!(
            (&row["state"], &row["bytes_down"]),
            (&json!("ended"), &json!(2300)),
            "a late report is still charged"
        );
        let over = api.tell(Api::report(&subscriber, &second, 700, 9000)).await;
        assert_eq!((&over["continue"], &over["code"]), (&json!(false), &json!("LIMIT_REACHED")));
        assert_eq!(api.validate(&subscriber, json!({})).await, json!({ "ok": false, "code": "LIMIT_REACHED" }));
        let huge = api.tell(Api::report(&subscriber, &second, u64::MAX, 0)).await;
        assert_eq!((&huge["continue"], &huge["code"]), (&json!(false), &json!("OUT_OF_RANGE")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_subscription_when_the_user_has_renewed() {
    for kind in BOTH {
        let api = Api::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 1 })).await;
        let session = api.begin(&subscriber).await;
        api.tell(Api::report(&subscriber, &session, 1000, 0)).await;
        let renewed = json!({ "user_id": subscriber.user, "plan_id": subscriber.plan, "days": 30 });
        let renewed = id(&api.control.create("subscriptions", renewed).await);
        api.control.update("subscriptions", &subscriber.subscription, json!({ "status": "expired" })).await;
        let verdict = api.tell(Api::report(&subscriber, &session, 1500, 0)).await;
        assert_eq!((&verdict["continue"], &verdict["remaining_bytes"]), (&json!(true), &json!(999_999_500)));
        assert_eq!(api.control.get("sessions", &session).await["subscription_id"], json!(renewed));
        api.control.update("subscriptions", &renewed, json!({ "status": "cancelled" })).await;
        let verdict = api.tell(Api::report(&subscriber, &session, 1500, 0)).await;
        assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &json!("NO_SUBSCRIPTION")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reports_charge_once() {
    for kind in BOTH {
        let api = Api::start(kind, &[100], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 1 })).await;
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sessions.push(api.begin(&subscriber).await);
        }
        let posts = (0..30u64).map(|step| {
            let mut reports: Vec<_> =
                sessions.iter().map(|session| Api::report(&subscriber, session, step * 10, step * 100)).collect();
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

#[tokio::test(flavor = "multi_thread")]
async fn killed_foreign_unknown_and_deleted_sessions() {
    for kind in BOTH {
        let api = Api::start(kind, &[100], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let session = api.begin(&subscriber).await;
        api.control.admin(Method::DELETE, &format!("sessions/{session}"), Value::Null).await;
        assert_eq!(api.counts().await, [0]);
        let verdict = api.tell(Api::report(&subscriber, &session, 10, 10)).await;
        assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &json!("SESSION_KILLED")));
        assert_eq!(api.control.get("sessions", &session).await["state"], "killed");
        let mine = api.begin(&subscriber).await;
        let (_, other_token) = register_gateway(&api.control, "gw-2").await;
        let body = Api::report(&subscriber, &mine, 10, 10);
        let (_, answer) = api.control.ask(Method::POST, "/api/v1/usage/report", &other_token, Some(&body)).await;
        assert_eq!(answer["sessions"][0]["code"], "FORBIDDEN");
        assert_eq!(api.control.get("sessions", &mine).await["bytes_up"], 0);
        let unknown = Uuid::now_v7().to_string();
        let mut vouched = Api::report(&subscriber, &unknown, 30, 40);
        assert_eq!(api.tell(vouched.clone()).await["code"], "UNKNOWN_SESSION");
        vouched["access_token"] = json!(subscriber.token);
        vouched["started_at"] = json!("2027-11-01T00:00:00Z");
        let verdict = api.tell(vouched.clone()).await;
        assert_eq!(verdict["continue"], true, "{kind:?} {verdict}");
        assert_eq!(api.control.get("sessions", &unknown).await["bytes_down"], 40);
        let (status, _) = api
            .control
            .ask(Method::DELETE, &format!("/api/v1/admin/devices/{}", subscriber.device), ADMIN_KEY, None)
            .await;
        assert_eq!(status.as_u16(), 204);
        assert_eq!(api.tell(vouched).await["code"], "UNKNOWN_SESSION", "a tombstone charges nothing");
        assert_eq!(api.control.list("sessions").await.len(), 0);
        assert_eq!(api.counts().await, [0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_the_health_of_nodes() {
    for kind in BOTH {
        let short = [("SESSIONS__NODE_TIMEOUT", "2s"), ("SESSIONS__GATEWAY_TIMEOUT", "2s")];
        let api = Api::start(kind, &[10], &short).await;
        let (status, orders) = api.post("gateway/heartbeat", json!({ "version": "1", "sessions": 3 })).await;
        assert_eq!((status, &orders["region"], &orders["drain"]), (200, &json!(REGION), &json!(false)));
        assert_eq!(orders["nodes"][0]["password"], "hush");
        let gateway = orders["gateway_id"].as_str().unwrap().to_owned();
        let row = api.control.get("gateways", &gateway).await;
        assert_eq!((&row["status"], &row["sessions"], &row["token_hash"]), (&json!("online"), &json!(3), &Value::Null));
        let (_, second) = register_gateway(&api.control, "gw-2").await;
        let (_, third) = register_gateway(&api.control, "gw-3").await;
        for token in [&second, &third] {
            api.control.ask(Method::POST, "/api/v1/gateway/heartbeat", token, Some(&json!({}))).await;
        }
        let see = async |token: &str, healthy: bool| {
            let body = json!({ "node_id": api.nodes[0], "healthy": healthy, "latency_ms": 3 });
            let (status, answer) = api.control.ask(Method::POST, "/api/v1/outline/heartbeat", token, Some(&body)).await;
            assert_eq!(status.as_u16(), 200, "{answer}");
            answer["health_status"].as_str().unwrap().to_owned()
        };
        assert_eq!(see(&api.token, true).await, "healthy");
        assert_eq!(see(&second, false).await, "healthy", "one of three");
        assert_eq!(see(&third, false).await, "unhealthy", "two of three");
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish.clone()).await["code"], "NO_NODE_AVAILABLE");
        assert_eq!(see(&second, true).await, "healthy");
        assert_eq!(api.validate(&subscriber, wish).await["ok"], true);
        eventually(|| async {
            let health = api.control.get("nodes", &api.nodes[0]).await["health_status"].clone();
            let status = api.control.get("gateways", &gateway).await["status"].clone();
            if (&health, &status) == (&json!("offline"), &json!("offline")) {
                Ok(())
            } else {
                Err(format!("{health} {status}"))
            }
        })
        .await;
        let wish = json!({ "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, wish).await["code"], "NO_NODE_AVAILABLE");
        api.control.update("gateways", &gateway, json!({ "draining": "true" })).await;
        let (_, orders) = api.post("gateway/heartbeat", json!({})).await;
        assert_eq!(orders["drain"], true);
        let elsewhere = json!({ "node_id": Uuid::now_v7(), "healthy": true });
        assert_eq!(api.post("outline/heartbeat", elsewhere).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_regions_decide_what_a_gateway_may_use() {
    for kind in BOTH {
        let api = Api::start(kind, &[10], &[]).await;
        let subscriber = Subscriber::create(&api.control, json!({})).await;
        api.control.create("regions", json!({ "code": "us-1", "name": "West" })).await;
        let node = json!({ "region": "us-1", "access_key": "ss://aes-256-gcm:west@10.1.0.1:8388" });
        api.control.create("nodes", node).await;
        let there = json!({ "region": "us-1", "assign": true, "session_id": Uuid::now_v7() });
        assert_eq!(api.validate(&subscriber, there.clone()).await["code"], "UNKNOWN_REGION");
        let gateway = id(&api.control.list("gateways").await[0]);
        let updated = api.control.update("gateways", &gateway, json!({ "exit_regions": "eu-1, us-1" })).await;
        assert_eq!(updated["exit_regions"], json!(["eu-1", "us-1"]));
        assert_eq!(api.validate(&subscriber, there).await["node"]["password"], "west");
        let (_, orders) = api.post("gateway/heartbeat", json!({})).await;
        assert_eq!(orders["nodes"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn administration() {
    for kind in BOTH {
        let api = Api::start(kind, &[1], &[]).await;
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
        let changed = control.update("plans", &id(&plan), json!({ "traffic_limit_gb": null, "price": "499" })).await;
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
        let claims = verifier.verify(device["access_token"].as_str().unwrap()).unwrap();
        assert_eq!((json!(claims.sub), claims.exp - claims.iat), (device["id"].clone(), 30 * 86_400));
        let (_, keys) = control.ask(Method::GET, "/.well-known/jwks.json", "", None).await;
        let set = serde_json::from_value(keys).unwrap();
        assert!(httvps::token::Verifier::new(&set).verify(device["access_token"].as_str().unwrap()).is_ok());
        let page = control.admin(Method::GET, "plans?limit=1", Value::Null).await;
        assert_eq!((page["items"].as_array().unwrap().len(), &page["next"]), (1, &page["items"][0]["id"]));
        let after = format!("plans?after={}", page["next"].as_str().unwrap());
        assert_eq!(control.admin(Method::GET, &after, Value::Null).await["items"], json!([]));
        let gateway = id(&control.list("gateways").await[0]);
        let rotated = control.create(&format!("gateways/{gateway}/token"), json!({ "now": true })).await;
        assert_ne!(rotated["token"], json!(api.token));
        assert_eq!(api.post("gateway/heartbeat", json!({})).await.0, 401, "the old token is spent");
        assert_eq!(control.ask(Method::GET, "/nothing", ADMIN_KEY, None).await.1["code"], "NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_command() {
    let control = Control::start(Kind::Sqlite).await;
    let env = env(&[("ADMIN__URL", &control.url), ("ADMIN__KEY", ADMIN_KEY)]);
    let admin = async |line: &str| {
        let args: Vec<&str> = ["admin"].into_iter().chain(line.split(' ')).collect();
        run(&args, &env).await
    };
    let (code, stdout, stderr) = admin("regions create code=eu-1 name=Europe").await;
    assert_eq!(code, Some(0), "{stderr}");
    let region = stdout.lines().find_map(|line| line.strip_prefix("id ")).unwrap().to_owned();
    let (code, stdout, _) = admin("plans create name=basic max_devices=3 traffic_limit_gb=0.5 --json").await;
    assert_eq!(code, Some(0));
    let plan: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&plan["max_devices"], &plan["traffic_limit_gb"]), (&json!(3), &json!(0.5)));
    let (_, stdout, _) = admin(&format!("plans update {} traffic_limit_gb=", id(&plan))).await;
    assert!(stdout.contains("traffic_limit_gb -\n"), "{stdout}");
    let (_, stdout, _) = admin("regions list").await;
    assert!(stdout.starts_with(&format!("{region}  code=eu-1  ")) && stdout.contains("  name=Europe  "), "{stdout}");
    let (code, _, stderr) = admin("plans create nam=x").await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: INVALID: nam UNKNOWN: unknown field `nam`"), "{stderr}");
    assert_eq!(admin(&format!("regions delete {region}")).await.0, Some(0));
    assert_eq!(admin(&format!("regions get {region}")).await.0, Some(1));
    let health = control.process.as_ref().unwrap().line("ops-control");
    assert_eq!(run(&["healthcheck", "--url", &format!("{health}/readyz")], &env).await.0, Some(0));
    assert_eq!(run(&["healthcheck", "--url", &format!("{health}/nothing")], &env).await.0, Some(1));
}
