use serde_json::{Value, json};

use crate::peers::{self, Subject};
use crate::report::HTTVPS;
use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::node::CHACHA;
use crate::support::process::Process;

const AS_IN_PRODUCTION: [(&str, &str); 4] = [
    ("GATEWAY__HEARTBEAT_INTERVAL", "15s"),
    ("GATEWAY__REPORT_INTERVAL", "30s"),
    ("GATEWAY__FLUSH_INTERVAL", "1s"),
    ("LOG__LEVEL", "error"),
];
pub(crate) const IN_A_HURRY: [(&str, &str); 2] =
    [("MUX__OPENS_PER_SECOND", "100000"), ("MUX__RESETS_PER_SECOND", "100000")];
const SESSIONS_OF_A_NODE: u32 = 1_000_000;

pub(crate) async fn deployment(plan: Value, more: &[(&str, &str)]) -> Deployment {
    let more: Vec<(&str, &str)> = AS_IN_PRODUCTION.iter().chain(more).copied().collect();
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan, &more).await;
    for node in deployment.control.list("nodes").await {
        deployment.control.update("nodes", &id(&node), json!({ "max_sessions": SESSIONS_OF_A_NODE })).await;
    }
    deployment
}

pub(crate) struct Field {
    pub(crate) deployment: Deployment,
    pub(crate) subjects: Vec<Subject>,
    client: Process,
}

impl Field {
    pub(crate) async fn build() -> Self {
        let deployment = deployment(json!({}), &IN_A_HURRY).await;
        let client = deployment.connect("v2").await;
        let mut subjects = vec![Subject::known(HTTVPS, deployment.gateway().pid(), client.line("socks"))];
        if let Some(binary) = peers::sing_box_binary() {
            subjects.push(peers::sing_box(&binary, &deployment, false).await);
            subjects.push(peers::sing_box(&binary, &deployment, true).await);
        }
        subjects.push(peers::ss_local(&deployment).await);
        Self { deployment, subjects, client }
    }
}
