//! What a user sees when something moves: a line for each case (docs/04, "What a user sees").

mod networks;
mod user;

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;

use crate::support::database::Kind;
use crate::support::deployment::{PATH, World};
use crate::support::environment::{Env, env, free_port};
use crate::support::faulty_link::{Loss, Road};
use crate::support::node::{CHACHA, Software};
use crate::support::process::Process;
use crate::support::second_gateway::Branch;
use crate::support::wait::eventually;
use networks::Host;
use user::{Seen, User};

/// One at a time: what is measured is time.
static TURN: Mutex<()> = Mutex::const_new(());

const SLACK: u32 = 3;
/// Streams that may be under way when a process is killed, beside the download.
const UNDER_WAY: usize = 4;

struct Scene {
    world: World,
    road: Road,
    client: Process,
}

impl Scene {
    async fn of(nodes: &[Software], more: &[(&str, &str)]) -> Self {
        let world = World::build(Kind::Sqlite, nodes, json!({ "max_sessions": 2 }), more).await;
        let road = Road::to(&address(world.gateway())).await;
        let client = Process::start(&["connect"], &settings(&world, &road.address.to_string())).await;
        Self { world, road, client }
    }

    /// The client is on a host of its own.
    async fn on(host: &Host) -> Self {
        let listen = host.gateway(free_port());
        let (cert, key) = host.identity();
        let more = [("GATEWAY__LISTEN", &*listen), ("TLS__CERT", &*cert), ("TLS__KEY", &*key)];
        let world = World::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 2 }), &more).await;
        let road = Road::to(&listen).await;
        let mut settings = settings(&world, &listen);
        settings.extend(env(&[("CLIENT__CA", &cert), ("CLIENT__SOCKS", &host.near(0)), ("CLIENT__HTTP", "")]));
        let client = host.start(&["connect"], &settings).await;
        Self { world, road, client }
    }

    /// What somebody sees of it; what is given back lives until they have.
    async fn seen<T>(&mut self, case: &str, happens: impl AsyncFnOnce(&mut World, &Road) -> T) -> Seen {
        let user = User::of(&self.client).await;
        let _kept = happens(&mut self.world, &self.road).await;
        user.is_well().await;
        let seen = user.stop().await;
        seen.tell(case);
        assert_eq!(seen.wrong, 0, "{case}: {seen:?}");
        seen
    }
}

/// A client with the defaults, over `h2`.
fn settings(world: &World, address: &str) -> Env {
    let mut settings = world.client_env_of(&format!("wss://{address}{PATH}"), "v2");
    settings.retain(|(key, _)| !key.starts_with("HTTVPS_CLIENT__BACKOFF"));
    settings.extend(env(&[("CLIENT__TRANSPORT", "h2")]));
    settings
}

fn address(gateway: &Process) -> String {
    gateway.line("gateway").strip_prefix("wss://").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_network_and_the_old_one_resets() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[]).await;
    let seen = scene.seen("Wi-Fi to LTE, reset", async |_, road| road.switch(Loss::Reset)).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_network_and_the_old_one_swallows() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[]).await;
    let seen = scene.seen("Wi-Fi to LTE, black hole", async |_, road| road.switch(Loss::Swallowed)).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(10), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_network_and_the_client_knows() {
    let _turn = TURN.lock().await;
    let Some(host) = Host::make() else {
        return println!("continuity | left out: only root may make network namespaces (and needs iproute2)");
    };
    let mut scene = Scene::on(&host).await;
    let seen = scene.seen("another interface, another address, another route", async |_, _| host.bustle()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    let seen = scene.seen("Wi-Fi to LTE, black hole, the address is gone", async |_, _| host.leave_wifi()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
    let seen = scene.seen("LTE to Wi-Fi, black hole, the address stays", async |_, _| host.prefer_wifi()).await;
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.gap.max(seen.wait) < SLACK * Duration::from_secs(2), "{seen:?}");
    let ended = scene.client.stop().await;
    let counts = ["tunnel is up", "the host is in another network"].map(|line| ended.stderr.matches(line).count());
    assert_eq!(counts, [3, 2], "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_gateway() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[]).await;
    let seen = scene
        .seen("gateway upgrade (takeover)", async |world, _| {
            let old = world.gateway.take().unwrap();
            world.start_gateway().await;
            old
        })
        .await;
    assert_eq!(seen.lost, 0, "the old process serves what it has: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_millis(300), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[]).await;
    let seen = scene
        .seen("kill -9 of the gateway, started again at once", async |world, _| {
            world.gateway.take().unwrap().kill().await;
            world.start_gateway().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "{seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA, CHACHA], &[]).await;
    let seen = scene
        .seen("kill -9 of the node, another one in the region", async |world, _| {
            let session = world.control.list("sessions").await.pop().unwrap();
            let used = session["outline_node_id"].clone();
            let rows = world.control.list("nodes").await;
            let port = rows.iter().find(|row| row["id"] == used).unwrap()["ss_port"].as_u64().unwrap();
            let node = world.nodes.iter_mut().find(|node| u64::from(node.key.port) == port).unwrap();
            node.kill().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "{seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_gateway_that_drains() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[("GATEWAY__DRAIN_TIMEOUT", "4s")]).await;
    let seen = scene
        .seen("drain of the only gateway, started again at its end", async |world, _| {
            let ended = world.gateway.take().unwrap().stop().await;
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            world.start_gateway().await;
        })
        .await;
    assert!(seen.is_download_lost && seen.lost <= 1 + UNDER_WAY, "it is longer than the drain: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_gateways_that_drains() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::of(&[CHACHA], &[]).await;
    let branch = Branch::start(&scene.world, "second", &[]).await;
    let other = address(branch.process.as_ref().unwrap());
    let seen = scene
        .seen("drain of one of two gateways", async |world, road| {
            road.lead_to(&other);
            world.gateway().signal("-TERM");
        })
        .await;
    assert_eq!(seen.lost, 0, "the download ends within the drain: {seen:?}");
    assert!(seen.wait < SLACK * Duration::from_millis(300), "{seen:?}");
    eventually(|| async {
        let moved = scene.world.control.list("sessions").await;
        let at = moved.iter().filter(|session| session["gateway_node_id"] == branch.id.as_str()).count();
        if at > 0 { Ok(()) } else { Err(format!("{moved:?}")) }
    })
    .await;
}
