//! What a user sees when networks or processes change, one line per case (docs/08, "What a user sees").

mod networks;
mod user;

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;

use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH, gateway_address};
use crate::support::environment::{Env, TO_MAKE_NAMESPACES, env, free_port, skip};
use crate::support::faulty_link::{FaultyLink, Loss};
use crate::support::node::{CHACHA, Software};
use crate::support::process::Process;
use crate::support::second_gateway::SecondGateway;
use crate::support::wait::eventually;
use networks::MultihomedHost;
use user::{Observations, User};

/// These tests run one at a time, because they measure time.
static TURN: Mutex<()> = Mutex::const_new(());

const SLACK: u32 = 3;
/// Streams that may be in progress, besides the download, when a process is killed.
const UNDER_WAY: usize = 4;

struct Scenario {
    deployment: Deployment,
    link: FaultyLink,
    client: Process,
}

impl Scenario {
    async fn of(nodes: &[Software], more: &[(&str, &str)]) -> Self {
        let deployment = Deployment::build(Kind::Sqlite, nodes, json!({ "max_sessions": 2 }), more).await;
        let link = FaultyLink::to(&address(deployment.gateway())).await;
        let client = Process::start(&["connect"], &settings(&deployment, &link.address.to_string())).await;
        Self { deployment, link, client }
    }

    /// A scenario whose client runs on a host with two networks.
    async fn on(host: &MultihomedHost) -> Self {
        let listen = host.gateway(free_port());
        let (cert, key) = host.identity();
        let more = [("GATEWAY__LISTEN", &*listen), ("TLS__CERT", &*cert), ("TLS__KEY", &*key)];
        let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 2 }), &more).await;
        let link = FaultyLink::to(&listen).await;
        let mut settings = settings(&deployment, &listen);
        settings.extend(env(&[("CLIENT__CA", &cert), ("CLIENT__SOCKS", &host.near(0)), ("CLIENT__HTTP", "")]));
        let client = host.start(&["connect"], &settings).await;
        Self { deployment, link, client }
    }

    /// Observes a user while something happens; what `happens` returns is kept until the user is done.
    async fn seen<T>(
        &mut self,
        case: &str,
        happens: impl AsyncFnOnce(&mut Deployment, &FaultyLink) -> T,
    ) -> Observations {
        let user = User::of(&self.client).await;
        let _kept = happens(&mut self.deployment, &self.link).await;
        user.is_well().await;
        let seen = user.stop().await;
        seen.tell(case);
        assert_eq!(seen.wrong, 0, "{case}: {seen:?}");
        seen
    }
}

/// The settings of a client with the defaults, over `h2`.
fn settings(deployment: &Deployment, address: &str) -> Env {
    let mut settings = deployment.client_env_of(&format!("wss://{address}{PATH}"), "v2");
    settings.retain(|(key, _)| !key.starts_with("HTTVPS_CLIENT__BACKOFF"));
    settings.extend(env(&[("CLIENT__TRANSPORT", "h2")]));
    settings
}

fn address(gateway: &Process) -> String {
    gateway_address(gateway).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_changes_and_the_old_one_resets() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[]).await;
    let seen = scenario.seen("Wi-Fi to LTE, reset", async |_, link| link.switch(Loss::Reset)).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_changes_and_the_old_one_drops_everything() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[]).await;
    let seen = scenario.seen("Wi-Fi to LTE, black hole", async |_, link| link.switch(Loss::Swallowed)).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(10), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_changes_and_the_host_knows() {
    let _turn = TURN.lock().await;
    let Some(host) = MultihomedHost::make() else {
        return skip("a host in two networks", TO_MAKE_NAMESPACES);
    };
    let mut scenario = Scenario::on(&host).await;
    let seen = scenario.seen("another interface, another address, another route", async |_, _| host.bustle()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    let seen = scenario.seen("Wi-Fi to LTE, black hole, the address is gone", async |_, _| host.leave_wifi()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
    let seen = scenario.seen("LTE to Wi-Fi, black hole, the address stays", async |_, _| host.prefer_wifi()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
    let ended = scenario.client.stop().await;
    let counts = ["tunnel is up", "the host is in another network"].map(|line| ended.stderr.matches(line).count());
    assert_eq!(counts, [3, 2], "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_gateway() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[]).await;
    let seen = scenario
        .seen("gateway upgrade (takeover)", async |deployment, _| {
            let old = deployment.gateway.take().unwrap();
            deployment.start_gateway().await;
            old
        })
        .await;
    assert_eq!(seen.lost, 0, "the old process serves what it has: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_millis(300), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[]).await;
    let seen = scenario
        .seen("kill -9 of the gateway, started again at once", async |deployment, _| {
            deployment.gateway.take().unwrap().kill().await;
            deployment.start_gateway().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "{seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA, CHACHA], &[]).await;
    let seen = scenario
        .seen("kill -9 of the node, another one in the region", async |deployment, _| {
            let session = deployment.control.list("sessions").await.pop().unwrap();
            let used = session["outline_node_id"].clone();
            let rows = deployment.control.list("nodes").await;
            let port = rows.iter().find(|row| row["id"] == used).unwrap()["ss_port"].as_u64().unwrap();
            let node = deployment.nodes.iter_mut().find(|node| u64::from(node.key.port) == port).unwrap();
            node.kill().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "{seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_gateway_that_drains() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[("GATEWAY__DRAIN_TIMEOUT", "4s")]).await;
    let seen = scenario
        .seen("drain of the only gateway, started again at its end", async |deployment, _| {
            let ended = deployment.gateway.take().unwrap().stop().await;
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            deployment.start_gateway().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "it is longer than the drain: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_gateways_that_drains() {
    let _turn = TURN.lock().await;
    let mut scenario = Scenario::of(&[CHACHA], &[]).await;
    let second_gateway = SecondGateway::start(&scenario.deployment, "second", &[]).await;
    let other = address(second_gateway.process.as_ref().unwrap());
    let seen = scenario
        .seen("drain of one of two gateways", async |deployment, link| {
            link.lead_to(&other);
            deployment.gateway().signal("-TERM");
        })
        .await;
    assert_eq!(seen.lost, 0, "the download ends within the drain: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_millis(300), "{seen:?}");
    eventually(|| async {
        let moved = scenario.deployment.control.list("sessions").await;
        let at = moved.iter().filter(|session| session["gateway_node_id"] == second_gateway.id.as_str()).count();
        if at > 0 { Ok(()) } else { Err(format!("{moved:?}")) }
    })
    .await;
}
