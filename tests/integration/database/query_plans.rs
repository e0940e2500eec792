//! No request made for a customer scans a large table.

use std::collections::BTreeMap;

use httvps::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, Control, REGION, id, register_gateway};
use crate::support::database::{Kind, connect};
use crate::support::event_follower::Follower;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

const ROWS: u32 = 60_000;
const LIVE: u32 = 500;
const GATEWAYS: u32 = 20;
const BATCH: u32 = 20;
const BIG: [&str; 10] = [
    "users",
    "devices",
    "subscriptions",
    "sessions",
    "usage_periods",
    "refresh_families",
    "activation_codes",
    "refusals",
    "events",
    "payments",
];
const WORK: [&str; 8] =
    ["sweep", "admission", "usage", "heartbeats", "enrollment", "account", "administration", "deletion"];

/// A row's id; each kind of row has its own range.
#[derive(Clone, Copy)]
enum Row {
    User = 1,
    Device = 2,
    Subscription = 3,
    Session = 4,
}

impl Row {
    fn id(self, number: u32) -> Uuid {
        let base = 0x01a0_0000_0000_7000_8000_0000_0000_0000_u128;
        Uuid::from_u128(base | (self as u128) << 80 | u128::from(number))
    }

    /// The same as an SQL expression over the number `g`.
    fn sql(self) -> String {
        format!("('01a00000-000{}-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid", self as u8)
    }
}

/// An index scan that returns this many rows has read the whole table.
const MANY: i64 = 30_000;

/// Sequential scans of the large tables and rows read through indexes, once every other connection is closed and its
/// statistics are written.
async fn scans(url: &str) -> BTreeMap<String, (i64, i64)> {
    let sql = connect(url).await;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    eventually(|| async {
        match sql.query_one(others, &[]).await.unwrap().get::<_, i64>(0) {
            0 => Ok(()),
            count => Err(format!("{count} connections")),
        }
    })
    .await;
    let counts = "SELECT relname::text, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname::text = ANY($1)";
    let rows = sql.query(counts, &[&BIG.as_slice()]).await.unwrap();
    assert_eq!(rows.len(), BIG.len());
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// A control plane with many customers, and a gateway's token.
struct LargeDataset {
    control: Control,
    database: String,
    token: String,
}

impl LargeDataset {
    async fn build() -> Self {
        let control = Control::start_with(Kind::Postgres, &[("EVENTS__ACK_TIMEOUT", "0s")]).await;
        control.create("regions", json!({ "code": REGION })).await;
        let node = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", node).await);
        let mut gateways = Vec::new();
        for number in 0..GATEWAYS {
            gateways.push(register_gateway(&control, &format!("gateway-{number}")).await);
        }
        let limits = json!({ "name": "plan", "traffic_limit_gb": 100, "max_devices": 5, "max_sessions": 5 });
        let plan = id(&control.create("plans", limits).await);
        let database = control.database().to_owned();
        let token = gateways[0].1.clone();
        let mut dataset = Self { control, database, token };
        dataset.control.kill().await;
        let ids: Vec<String> = gateways.into_iter().map(|(id, _)| format!("'{id}'")).collect();
        dataset.fill(&plan, &node, &format!("(ARRAY[{}]::uuid[])", ids.join(", "))).await;
        dataset
    }

    /// Live sessions belong to the first gateway; ended ones are spread over all.
    async fn fill(&self, plan: &str, node: &str, gateways: &str) {
        let (user, device) = (Row::User.sql(), Row::Device.sql());
        let (subscription, session) = (Row::Subscription.sql(), Row::Session.sql());
        let all = format!("FROM generate_series(1, {ROWS}) AS g");
        let sql = connect(&self.database).await;
        let statements = [
            format!(
                "INSERT INTO users SELECT {user}, 'email', 'u' || g || '@example.com', 'active', now(), now() {all}"
            ),
            format!(
                "INSERT INTO devices (id, user_id, device_uuid, platform, status, created_at) \
                 SELECT {device}, {user}, 'd' || g, 'test', 'active', now() - interval '9 days' {all}"
            ),
            format!(
                "INSERT INTO subscriptions (id, user_id, plan_id, status, starts_at, valid_until, created_at) \
                 SELECT {subscription}, {user}, '{plan}'::uuid, 'active', now() - interval '9 days', \
                 now() + interval '60 days', now() {all}"
            ),
            format!(
                "INSERT INTO usage_periods (subscription_id, period_start, bytes_up, bytes_down) \
                 SELECT {subscription}, date_trunc('month', now(), 'UTC'), 1, 1 {all}"
            ),
            format!(
                "INSERT INTO sessions (id, user_id, device_id, subscription_id, gateway_node_id, outline_node_id, \
                 state, started_at, expires_at, ended_at, bytes_up, bytes_down) SELECT {session}, {user}, {device}, \
                 {subscription}, {gateways}[CASE WHEN g <= {LIVE} THEN 1 ELSE 1 + g % {GATEWAYS} END], '{node}'::uuid, \
                 CASE WHEN g <= {LIVE} THEN 'active' ELSE 'ended' END, now() - interval '2 days', \
                 now() + interval '1 hour', CASE WHEN g > {LIVE} THEN now() - interval '1 day' END, 0, 0 {all}"
            ),
            format!(
                "INSERT INTO refresh_families SELECT gen_random_uuid(), {device}, 'r' || g, NULL, now(), \
                 now() + interval '60 days' {all}"
            ),
            format!(
                "INSERT INTO activation_codes SELECT gen_random_uuid(), {user}, 'c' || g, now(), \
                 now() + interval '7 days', NULL, NULL {all}"
            ),
            format!(
                "INSERT INTO refusals SELECT gen_random_uuid(), {device}, {gateways}[1 + g % {GATEWAYS}], \
                 'OVERLOADED', NULL, 's' || g, now() {all}"
            ),
            format!("INSERT INTO payments SELECT 'p' || g, {subscription}, 'renew', 30, 0, now() {all}"),
            format!(
                "INSERT INTO events SELECT last_seq + g, 'user_changed', {user}, NULL, now() \
                 FROM installation, generate_series(1, {ROWS}) AS g"
            ),
            format!("UPDATE installation SET last_seq = last_seq + {ROWS}"),
            "UPDATE outline_nodes SET health_status = 'healthy', last_heartbeat_at = now()".to_owned(),
            "VACUUM ANALYZE".to_owned(),
        ];
        for statement in statements {
            sql.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let path = format!("/api/v1/{path}");
        let (status, answer) = self.control.ask(Method::POST, &path, &self.token, Some(&body)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn token_of(&self, number: u32) -> Value {
        let device = Row::Device.id(number);
        self.control.create(&format!("devices/{device}/token"), Value::Null).await["access_token"].clone()
    }

    async fn validate(&self, number: u32) -> Value {
        let wish = json!({
            "device_id": Row::Device.id(number), "access_token": self.token_of(number).await, "region": REGION,
            "assign": true, "session_id": Uuid::now_v7(), "client_version": "1.0.0", "support_id": format!("v{number}"),
        });
        self.post("auth/validate-device", wish).await
    }

    async fn work(&self, what: &str) {
        match what {
            "sweep" => self.sweep().await,
            "admission" => {
                for number in 1..=BATCH {
                    assert_eq!(self.validate(number).await["ok"], true);
                }
            }
            "usage" => self.usage().await,
            "heartbeats" => self.heartbeats().await,
            "enrollment" => self.enrollment().await,
            "account" => self.account().await,
            "administration" => self.administration().await,
            "deletion" => {
                let (node, gateway) = (self.control.list("nodes").await, self.control.list("gateways").await);
                for path in [
                    format!("users/{}", Row::User.id(1000)),
                    format!("devices/{}", Row::Device.id(1001)),
                    format!("subscriptions/{}", Row::Subscription.id(1002)),
                    format!("nodes/{}", id(&node[0])),
                    format!("gateways/{}", id(gateway.last().unwrap())),
                ] {
                    self.control.admin(Method::DELETE, &path, Value::Null).await;
                }
            }
            other => panic!("no work {other}"),
        }
    }

    /// The sweep finds a session without reports.
    async fn sweep(&self) {
        let sql = connect(&self.database).await;
        let session = Row::Session.id(LIVE).to_string();
        let stale = format!("UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = '{session}'");
        sql.batch_execute(&stale).await.unwrap();
        eventually(|| async {
            let state = self.control.get("sessions", &session).await["state"].clone();
            if state == "reaped" { Ok(()) } else { Err(state.to_string()) }
        })
        .await;
    }

    async fn usage(&self) {
        let report = |number: u32, session: Uuid| {
            json!({
                "device_id": Row::Device.id(number), "session_id": session, "bytes_up": 1000, "bytes_down": 100_000,
                "started_at": "2026-11-22T10:00:00Z", "allowed": 1_000_000,
            })
        };
        let mut reports: Vec<Value> = (1..=BATCH).map(|number| report(number, Row::Session.id(number))).collect();
        let mut unknown = report(BATCH + 1, Uuid::now_v7());
        unknown["started_at"] = json!(Clock::system().now().format(&Rfc3339).unwrap());
        unknown["access_token"] = self.token_of(BATCH + 1).await;
        reports.push(unknown);
        let answer = self.post("usage/report", json!({ "reports": reports })).await;
        let verdicts = answer["sessions"].as_array().unwrap();
        assert!(verdicts.len() == reports.len() && verdicts.iter().all(|one| one["continue"] == true), "{answer}");
    }

    async fn heartbeats(&self) {
        let refusal = |number: u32| {
            json!({
                "device_id": Row::Device.id(number), "code": "OVERLOADED", "support_id": format!("h{number}"),
                "at": "2026-11-22T10:00:00Z",
            })
        };
        let refusals: Vec<Value> = (1..=BATCH).map(refusal).collect();
        let orders = self.post("gateway/heartbeat", json!({ "version": "9.9.9", "refusals": refusals })).await;
        let node = orders["nodes"][0]["id"].clone();
        self.post("outline/heartbeat", json!({ "node_id": node, "healthy": true })).await;
        let mut follower = Follower::open(&self.control.http, &self.control.url, &self.token, None).await;
        let snapshot = follower.next().await.unwrap();
        self.post("gateway/events/ack", json!({ "epoch": snapshot.epoch, "seq": snapshot.seq })).await;
    }

    async fn enrollment(&self) {
        let code = self.control.create("codes", json!({ "user_id": Row::User.id(30) })).await["code"].clone();
        let tokens = self.post("auth/enroll", json!({ "code": code, "device_uuid": "new", "platform": "test" })).await;
        let refresh = json!({ "refresh_token": tokens["refresh_token"], "device_uuid": "new" });
        for _ in 0..2 {
            self.post("auth/refresh", refresh.clone()).await;
        }
    }

    async fn account(&self) {
        let token = self.token_of(40).await;
        let headers = token.as_str().unwrap();
        for path in ["account", "config"] {
            let url = format!("{}/api/v1/client/{path}", self.control.url);
            let answer = self.control.http.get(url).bearer_auth(headers).send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
        }
    }

    async fn administration(&self) {
        let control = &self.control;
        let (user, device) = (Row::User.id(50).to_string(), Row::Device.id(50).to_string());
        control.update("users", &user, json!({ "status": "banned" })).await;
        assert_eq!(self.validate(50).await["code"], "USER_BANNED");
        let why = control.get("devices", &format!("{device}/why")).await;
        assert_eq!(why["refusals"][0]["code"], "USER_BANNED", "{why}");
        control.update("users", &user, json!({ "status": "active" })).await;
        control.update("devices", &Row::Device.id(51).to_string(), json!({ "status": "revoked" })).await;
        control.admin(Method::DELETE, &format!("sessions/{}", Row::Session.id(52)), Value::Null).await;
        let subscription = format!("subscriptions/{}", Row::Subscription.id(53));
        control.create(&format!("{subscription}/top-up"), json!({ "gb": 1, "payment_id": "new-1" })).await;
        control.create(&format!("{subscription}/renew"), json!({ "days": 30, "payment_id": "new-2" })).await;
        for list in ["devices", "subscriptions", "sessions", "codes"] {
            assert!(!control.list(&format!("{list}?user_id={user}")).await.is_empty(), "{list}");
        }
        let (status, _) = control.ask(Method::GET, "/api/v1/admin/users?limit=10", ADMIN_KEY, None).await;
        assert!(status.is_success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_big_table_is_scanned() {
    let mut dataset = LargeDataset::build().await;
    let mut before = scans(&dataset.database).await;
    let mut found = Vec::new();
    for what in WORK {
        dataset.control.resume().await;
        dataset.work(what).await;
        dataset.control.kill().await;
        let after = scans(&dataset.database).await;
        for (table, (scanned, fetched)) in &after {
            let (scanned, fetched) = (scanned - before[table].0, fetched - before[table].1);
            if scanned > 0 || fetched > MANY {
                found.push(format!("{what}: {table} {scanned} times, {fetched} rows by indexes"));
            }
        }
        before = after;
    }
    assert!(found.is_empty(), "sequential scans: {}", found.join("; "));
}

/// A connection keeps the plans that it made while the tables were empty.
#[tokio::test(flavor = "multi_thread")]
async fn plans_made_for_empty_tables_use_indexes() {
    let more = [("SESSIONS__SWEEP_INTERVAL", "1d"), ("SESSIONS__STARTUP_GRACE", "1d")];
    let api = GatewayApi::start(Kind::Postgres, &[1000], &more).await;
    let limits = json!({ "traffic_limit_gb": 100, "max_devices": 5, "max_sessions": 100 });
    let subscriber = Subscriber::create(&api.control, limits).await;
    let GatewayApi { mut control, token, nodes } = api;
    control.kill().await;
    let before = scanned(control.database()).await;
    control.resume().await;
    let mut api = GatewayApi { control, token, nodes };
    for _ in 0..BATCH {
        let session = api.begin(&subscriber).await;
        api.tell(GatewayApi::report(&subscriber, &session, 1, 1)).await;
    }
    api.control.kill().await;
    assert_eq!(scanned(api.control.database()).await, before);
}

async fn scanned(url: &str) -> BTreeMap<String, i64> {
    scans(url).await.into_iter().map(|(table, (scanned, _))| (table, scanned)).collect()
}
