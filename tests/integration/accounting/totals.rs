//! Totals stay exact when parts of the system are away.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::socks;
use crate::support::wait::eventually;

async fn fetch(proxy: &str, source: &Destination, len: u64) {
    let mut socket = socks::connect(proxy, source.address).await.unwrap();
    socket.write_all(&len.to_be_bytes()).await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len() as u64, len);
}

async fn control_plane_away(kind: Kind, encoding: &str) {
    let mut world = World::start(kind, CHACHA).await;
    let client = world.connect(encoding).await;
    let source = Destination::start(Manner::Source);
    fetch(client.line("socks"), &source, 100_000).await;
    world.control.kill().await;
    fetch(client.line("socks"), &source, 1_234_567).await;
    let gateway = world.gateway().line("ops-gateway");
    assert!(world.control.http.get(format!("{gateway}/readyz")).send().await.unwrap().status().is_success());
    world.control.resume().await;
    fetch(client.line("socks"), &source, 7).await;
    world.settles_at(source.got(), source.gave()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_was_away_v2_postgres() {
    control_plane_away(Kind::Postgres, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_was_away_v1_sqlite() {
    control_plane_away(Kind::Sqlite, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_while_the_control_plane_was_away_is_reported_later() {
    let mut world = World::start(Kind::Sqlite, CHACHA).await;
    let client = world.connect("v2").await;
    let source = Destination::start(Manner::Source);
    world.control.kill().await;
    fetch(client.line("socks"), &source, 55_555).await;
    assert_eq!(client.stop().await.code, Some(0));
    eventually(|| async {
        match world.metric("httvps_sessions").await {
            0 => Ok(()),
            open => Err(format!("{open} sessions")),
        }
    })
    .await;
    assert_eq!(world.metric("httvps_usage_unreported_bytes").await, 55_563);
    let gateway = world.gateway.take().unwrap();
    assert_eq!(gateway.stop().await.code, Some(0));
    world.control.resume().await;
    world.start_gateway().await;
    world.settles_at(8, 55_555).await;
    eventually(|| async {
        match world.metric("httvps_usage_unreported_bytes").await {
            0 => Ok(()),
            left => Err(format!("{left} bytes")),
        }
    })
    .await;
}

async fn gateway_killed(kind: Kind, encoding: &str) {
    let mut world = World::start(kind, CHACHA).await;
    let client = world.connect(encoding).await;
    let source = Destination::start(Manner::Source);
    fetch(client.line("socks"), &source, 2_000_000).await;
    let (up, down) = (source.got(), source.gave());
    world.settles_at(up, down).await;
    let endless = Destination::start(Manner::Endless);
    let mut streaming = socks::connect(client.line("socks"), endless.address).await.unwrap();
    streaming.write_all(b"x").await.unwrap();
    let mut buffer = vec![0; 65_536];
    let mut got = 0;
    while got < 3_000_000 || world.totals().await.1 == down {
        got += streaming.read(&mut buffer).await.unwrap();
    }
    let gateway = world.gateway.take().unwrap();
    gateway.kill().await;
    world.start_gateway().await;
    eventually(|| async {
        let sessions = world.control.list("sessions").await;
        match sessions.iter().find(|session| session["bytes_down"].as_u64() > Some(down)) {
            Some(session) if session["state"] == "ended" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let (total_up, total_down) = world.totals().await;
    assert!(total_up <= up + 1, "never more: {total_up}");
    assert!(total_down <= down + endless.gave(), "never more: {total_down}");
    assert!(total_down >= down, "what was flushed is not lost: {total_down}");
    fetch(client.line("socks"), &source, 10_000).await;
    world.settles_at(total_up + 8, total_down + 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_got_kill_9_v2_postgres() {
    gateway_killed(Kind::Postgres, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_got_kill_9_v1_sqlite() {
    gateway_killed(Kind::Sqlite, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_survives_kill_9_without_any_report() {
    let rarely = [("GATEWAY__REPORT_INTERVAL", "1h")];
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &rarely).await;
    let client = world.connect("v2").await;
    let source = Destination::start(Manner::Source);
    fetch(client.line("socks"), &source, 2_000_000).await;
    eventually(|| async {
        match world.metric("httvps_usage_unflushed_bytes").await {
            0 if world.metric("httvps_usage_unreported_bytes").await == 2_000_008 => Ok(()),
            left => Err(format!("{left} bytes")),
        }
    })
    .await;
    assert_eq!(world.totals().await, (0, 0), "nothing was reported");
    world.gateway.take().unwrap().kill().await;
    assert_eq!(client.stop().await.code, Some(0));
    world.start_gateway().await;
    world.settles_at(8, 2_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_streams_finish_and_reports_the_rest() {
    for encoding in ["v1", "v2"] {
        let more = [("GATEWAY__DRAIN_TIMEOUT", "20s")];
        let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
        let client = world.connect(encoding).await;
        let source = Destination::start(Manner::Source);
        let len = 30_000_000u64;
        let mut socket = socks::connect(client.line("socks"), source.address).await.unwrap();
        socket.write_all(&len.to_be_bytes()).await.unwrap();
        let mut first = [0; 1000];
        socket.read_exact(&mut first).await.unwrap();
        let gateway = world.gateway.take().unwrap();
        gateway.signal("-TERM");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len() as u64, len - 1000, "{encoding}");
        assert_eq!(gateway.ended().await.code, Some(0));
        assert_eq!(world.totals().await, (8, len), "reported before the end, {encoding}");
        assert_eq!(world.control.list("sessions").await[0]["state"], "ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_gateways_sessions_are_reaped_and_reopen() {
    let mut world = World::start(Kind::Sqlite, CHACHA).await;
    world.control.kill().await;
    world.control.env.push(("HTTVPS_SESSIONS__SESSION_TTL".into(), "3s".into()));
    world.control.env.push(("HTTVPS_SESSIONS__GATEWAY_TIMEOUT".into(), "3s".into()));
    world.control.resume().await;
    let client = world.connect("v2").await;
    let source = Destination::start(Manner::Source);
    fetch(client.line("socks"), &source, 1000).await;
    world.settles_at(8, 1000).await;
    let reaches = async |world: &World, wanted: &str| {
        eventually(|| async {
            let state = world.control.list("sessions").await[0]["state"].as_str().unwrap().to_owned();
            if state == wanted { Ok(()) } else { Err(state) }
        })
        .await;
    };
    world.gateway().signal("-STOP");
    reaches(&world, "reaped").await;
    let settled = async |world: &World, sessions: u32, status: &str| {
        eventually(|| async {
            let held = world.control.list("nodes").await[0]["active_sessions"].clone();
            let gateway = world.control.list("gateways").await[0]["status"].clone();
            if held == json!(sessions) && gateway == status { Ok(()) } else { Err(format!("{held} {gateway}")) }
        })
        .await;
    };
    settled(&world, 0, "offline").await;
    world.gateway().signal("-CONT");
    reaches(&world, "active").await;
    fetch(client.line("socks"), &source, 500).await;
    world.settles_at(16, 1500).await;
    settled(&world, 1, "online").await;
    tokio::time::timeout(Duration::from_secs(30), client.stop()).await.unwrap();
}
