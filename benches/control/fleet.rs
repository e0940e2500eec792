use futures_util::future::join_all;
use httvps::clock::Clock;
use httvps::net::tls::Identity;
use serde_json::json;
use tempfile::TempDir;

use crate::pace::in_time;
use crate::site::{Gateway, SESSIONS_OF_A_NODE, Site};
use crate::support::control::{REGION, id};
use crate::support::deployment::PATH;
use crate::support::environment::{Env, env};
use crate::support::node::{AEAD_2022, Node};
use crate::support::process::Process;
use crate::support::wait::eventually;

pub(crate) struct Fleet {
    pub(crate) gateways: Vec<Process>,
    /// The id of the node that all sessions use.
    pub(crate) row: String,
    folder: TempDir,
    node: Node,
}

impl Fleet {
    pub(crate) async fn start(site: &Site) -> Self {
        let node = Node::start(AEAD_2022).await;
        let row = in_time("the fleet has a region", region(site, &node)).await;
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::self_signed(Clock::system().now()).unwrap();
        std::fs::write(path(&folder, "cert.pem"), &identity.cert).unwrap();
        std::fs::write(path(&folder, "key.pem"), &identity.key).unwrap();
        let starting = site.gateways.iter().map(|gateway| started(site, environment(site, gateway, &folder)));
        let gateways = join_all(starting).await;
        all_follow(site, &row).await;
        Self { gateways, row, folder, node }
    }

    pub(crate) fn ca(&self) -> String {
        path(&self.folder, "cert.pem")
    }
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_string_lossy().into_owned()
}

async fn region(site: &Site, node: &Node) -> String {
    site.control.create("regions", json!({ "code": REGION })).await;
    let row = json!({
        "region": REGION,
        "internal_ip": node.key.host,
        "port": node.key.port,
        "method": node.key.method,
        "password": node.key.password,
        "max_sessions": SESSIONS_OF_A_NODE,
    });
    let row = id(&site.control.create("nodes", row).await);
    let exits = site.gateways.iter().map(|gateway| async {
        site.control.update("gateways", &gateway.id, json!({ "exit_regions": [REGION] })).await;
    });
    join_all(exits).await;
    row
}

fn environment(site: &Site, gateway: &Gateway, folder: &TempDir) -> Env {
    env(&[
        ("GATEWAY__LISTEN", "127.0.0.1:0"),
        ("GATEWAY__CONTROL_URL", &site.control.url),
        ("GATEWAY__TOKEN", &gateway.token),
        ("GATEWAY__STATE_DIR", &path(folder, &gateway.id)),
        ("TUNNEL__PATH", PATH),
        ("TUNNEL__HELLOS_PER_MINUTE", "1000000"),
        ("TLS__CERT", &path(folder, "cert.pem")),
        ("TLS__KEY", &path(folder, "key.pem")),
        ("PROBE__TARGET", ""),
        ("OPS__GATEWAY_LISTEN", "127.0.0.1:0"),
        ("LOG__LEVEL", "error"),
    ])
}

async fn started(site: &Site, env: Env) -> Process {
    let gateway = Process::start(&["serve-gateway"], &env).await;
    let ready = format!("{}/readyz", gateway.line("ops-gateway"));
    eventually(|| async {
        let response = site.control.http.get(&ready).send().await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap()) }
    })
    .await;
    gateway
}

async fn all_follow(site: &Site, node: &str) {
    eventually(|| async {
        let answer = site.control.update("nodes", node, json!({ "state": "active" })).await;
        let delivery = &answer["delivery"];
        if delivery["acked"] == json!(site.gateways.len()) { Ok(()) } else { Err(delivery.to_string()) }
    })
    .await;
}
