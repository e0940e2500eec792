use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Client;
use serde_json::{Value, json};

use crate::load;
use crate::postgres::Postgres;
use crate::support::control::{ADMIN_KEY, Control, SEED, id};
use crate::support::environment::{Env, env};
use crate::support::process::run;

const REGIONS: usize = 10;
const NODES: usize = 100;
const GATEWAYS: usize = 20;
pub(crate) const SESSIONS_OF_A_NODE: u32 = 1_000_000;

/// A gateway that is only a row and a token.
pub(crate) struct Gateway {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) region: String,
}

/// A control plane with its customers, nodes and gateways.
pub(crate) struct Site {
    pub(crate) control: Control,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) users: u64,
    pub(crate) sql: tokio_postgres::Client,
    postgres: Postgres,
}

/// Nothing becomes stale during a measurement.
fn settings(database: &str, listen: &str) -> Env {
    env(&[
        ("DATABASE__URL", database),
        ("CONTROL__LISTEN", listen),
        ("CONTROL__SIGNING_KEY", &BASE64_STANDARD.encode(SEED)),
        ("CONTROL__ENCRYPTION_KEY", &BASE64_STANDARD.encode([4; 32])),
        ("CONTROL__BOOTSTRAP_KEY", ADMIN_KEY),
        ("SESSIONS__STARTUP_GRACE", "0s"),
        ("SESSIONS__SESSION_TTL", "1d"),
        ("SESSIONS__GATEWAY_TIMEOUT", "1d"),
        ("SESSIONS__NODE_TIMEOUT", "1d"),
        ("OPS__CONTROL_LISTEN", "127.0.0.1:0"),
        ("LOG__LEVEL", "error"),
    ])
}

impl Site {
    pub(crate) async fn build(users: u64) -> Self {
        let postgres = Postgres::start();
        let listen = format!("127.0.0.1:{}", crate::postgres::free_port());
        let env = settings(&postgres.url, &listen);
        let (code, _, stderr) = run(&["migrate"], &env).await;
        assert_eq!(code, Some(0), "{stderr}");
        let http = Client::builder().no_proxy().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control { env, url: format!("http://{listen}"), process: None, http, folder };
        control.resume().await;
        let (sql, connection) = tokio_postgres::connect(&postgres.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let gateways = hosts(&control).await;
        let plans = plans(&control).await;
        load::customers(&sql, users, &plans).await;
        Self { control, gateways, users, sql, postgres }
    }

    /// The process id of the control plane.
    pub(crate) fn pid(&self) -> u32 {
        self.control.process.as_ref().unwrap().pid()
    }
}

async fn hosts(control: &Control) -> Vec<Gateway> {
    let regions: Vec<String> = (1..=REGIONS).map(|number| format!("region-{number}")).collect();
    for code in &regions {
        control.create("regions", json!({ "code": code })).await;
    }
    for number in 0..NODES {
        let node = json!({
            "region": regions[number % REGIONS],
            "internal_ip": format!("10.9.0.{number}"),
            "port": 8388,
            "method": "chacha20-ietf-poly1305",
            "password": "a password of the benchmark",
            "max_sessions": SESSIONS_OF_A_NODE,
        });
        control.create("nodes", node).await;
    }
    let mut gateways = Vec::new();
    for number in 0..GATEWAYS {
        let region = regions[number % REGIONS].clone();
        let row = control.create("gateways", json!({ "name": format!("gateway-{number}"), "region": region })).await;
        gateways.push(Gateway { id: id(&row), token: row["token"].as_str().unwrap().to_owned(), region });
    }
    gateways
}

/// Every second one is limited.
async fn plans(control: &Control) -> Vec<String> {
    let kinds: [Value; 4] = [
        json!({ "name": "small", "traffic_limit_gb": 100, "max_devices": 5, "max_sessions": 5 }),
        json!({ "name": "free of limits" }),
        json!({ "name": "large", "traffic_limit_gb": 1000, "rate_limit_mbps": 100 }),
        json!({ "name": "family", "max_devices": 10, "max_sessions": 5 }),
    ];
    let mut plans = Vec::new();
    for plan in kinds {
        plans.push(id(&control.create("plans", plan).await));
    }
    plans
}
