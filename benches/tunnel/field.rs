use serde_json::{Value, json};

use crate::peers::{self, Subject};
use crate::report::HTTVPS;
use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::World;
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

pub(crate) async fn world(plan: Value, more: &[(&str, &str)]) -> World {
    let more: Vec<(&str, &str)> = AS_IN_PRODUCTION.iter().chain(more).copied().collect();
    let world = World::build(Kind::Sqlite, &[CHACHA], plan, &more).await;
    for node in world.control.list("nodes").await {
        world.control.update("nodes", &id(&node), json!({ "max_sessions": SESSIONS_OF_A_NODE })).await;
    }
    world
}

pub(crate) struct Field {
    pub(crate) world: World,
    pub(crate) subjects: Vec<Subject>,
    client: Process,
}

impl Field {
    pub(crate) async fn build() -> Self {
        let world = world(json!({}), &IN_A_HURRY).await;
        let client = world.connect("v2").await;
        let mut subjects = vec![Subject::known(HTTVPS, world.gateway().pid(), client.line("socks"))];
        if let Some(binary) = peers::sing_box_binary() {
            subjects.push(peers::sing_box(&binary, &world, false).await);
            subjects.push(peers::sing_box(&binary, &world, true).await);
        }
        subjects.push(peers::ss_local(&world).await);
        Self { world, subjects, client }
    }
}
