//! Totals stay exact while parts of the system are down.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::socks;
use crate::support::transfer::fetch;
use crate::support::wait::eventually;

async fn control_plane_away(kind: Kind, encoding: &str) {
    let mut deployment = Deployment::start(kind, CHACHA).await;
    let client = deployment.connect(encoding).await;
    let source = Destination::start(Behavior::Source);
    fetch(client.line("socks"), &source, 100_000).await;
    deployment.control.kill().await;
    fetch(client.line("socks"), &source, 1_234_567).await;
    let gateway = deployment.gateway().line("ops-gateway");
    assert!(deployment.control.http.get(format!("{gateway}/readyz")).send().await.unwrap().status().is_success());
    deployment.control.resume().await;
    fetch(client.line("socks"), &source, 7).await;
    deployment.totals_are(source.got(), source.gave()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_survive_a_control_plane_outage_v2_postgres() {
    control_plane_away(Kind::Postgres, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_survive_a_control_plane_outage_v1_sqlite() {
    control_plane_away(Kind::Sqlite, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_during_an_outage_is_reported_later() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    let source = Destination::start(Behavior::Source);
    deployment.control.kill().await;
    fetch(client.line("socks"), &source, 55_555).await;
    assert_eq!(client.stop().await.code, Some(0));
    deployment.metric_is("httvps_sessions", 0).await;
    assert_eq!(deployment.metric("httvps_usage_unreported_bytes").await, 55_563);
    let gateway = deployment.gateway.take().unwrap();
    assert_eq!(gateway.stop().await.code, Some(0));
    deployment.control.resume().await;
    deployment.start_gateway().await;
    deployment.totals_are(8, 55_555).await;
    deployment.metric_is("httvps_usage_unreported_bytes", 0).await;
}

async fn gateway_killed(kind: Kind, encoding: &str) {
    let mut deployment = Deployment::start(kind, CHACHA).await;
    let client = deployment.connect(encoding).await;
    let source = Destination::start(Behavior::Source);
    fetch(client.line("socks"), &source, 2_000_000).await;
    let (up, down) = (source.got(), source.gave());
    deployment.totals_are(up, down).await;
    let endless = Destination::start(Behavior::Endless);
    let mut streaming = socks::connect(client.line("socks"), endless.address).await.unwrap();
    streaming.write_all(b"x").await.unwrap();
    let mut buffer = vec![0; 65_536];
    let mut got = 0;
    while got < 3_000_000 || deployment.totals().await.1 == down {
        got += streaming.read(&mut buffer).await.unwrap();
    }
    let gateway = deployment.gateway.take().unwrap();
    gateway.kill().await;
    deployment.start_gateway().await;
    eventually(|| async {
        let sessions = deployment.control.list("sessions").await;
        match sessions.iter().find(|session| session["bytes_down"].as_u64() > Some(down)) {
            Some(session) if session["state"] == "ended" || session["state"] == "killed" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    deployment.metric_is("httvps_usage_unreported_bytes", 0).await;
    let (total_up, total_down) = deployment.totals().await;
    assert!(total_up <= up + 1, "never more: {total_up}");
    assert!(total_down <= down + endless.gave(), "never more: {total_down}");
    assert!(total_down >= down, "what was flushed is not lost: {total_down}");
    fetch(client.line("socks"), &source, 10_000).await;
    deployment.totals_are(total_up + 8, total_down + 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_survive_a_killed_gateway_v2_postgres() {
    gateway_killed(Kind::Postgres, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_survive_a_killed_gateway_v1_sqlite() {
    gateway_killed(Kind::Sqlite, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_usage_survives_sigkill_without_any_report() {
    let rarely = [("GATEWAY__REPORT_INTERVAL", "1h")];
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &rarely).await;
    let client = deployment.connect("v2").await;
    let source = Destination::start(Behavior::Source);
    fetch(client.line("socks"), &source, 2_000_000).await;
    eventually(|| async {
        match deployment.metric("httvps_usage_unflushed_bytes").await {
            0 if deployment.metric("httvps_usage_unreported_bytes").await == 2_000_008 => Ok(()),
            left => Err(format!("{left} bytes")),
        }
    })
    .await;
    assert_eq!(deployment.totals().await, (0, 0), "nothing was reported");
    deployment.gateway.take().unwrap().kill().await;
    assert_eq!(client.stop().await.code, Some(0));
    deployment.start_gateway().await;
    deployment.totals_are(8, 2_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_streams_finish_and_reports_the_rest() {
    for encoding in ["v1", "v2"] {
        let more = [("GATEWAY__DRAIN_TIMEOUT", "20s")];
        let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
        let client = deployment.connect(encoding).await;
        let source = Destination::start(Behavior::Source);
        let len = 30_000_000u64;
        let mut socket = socks::connect(client.line("socks"), source.address).await.unwrap();
        socket.write_all(&len.to_be_bytes()).await.unwrap();
        let mut first = [0; 1000];
        socket.read_exact(&mut first).await.unwrap();
        let gateway = deployment.gateway.take().unwrap();
        gateway.signal("-TERM");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len() as u64, len - 1000, "{encoding}");
        assert_eq!(gateway.ended().await.code, Some(0));
        assert_eq!(deployment.totals().await, (8, len), "reported before the end, {encoding}");
        assert_eq!(deployment.control.list("sessions").await[0]["state"], "ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_gateways_sessions_are_reaped_and_reopen() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.control.kill().await;
    deployment.control.env.push(("HTTVPS_SESSIONS__SESSION_TTL".into(), "3s".into()));
    deployment.control.env.push(("HTTVPS_SESSIONS__GATEWAY_TIMEOUT".into(), "3s".into()));
    deployment.control.resume().await;
    let client = deployment.connect("v2").await;
    let source = Destination::start(Behavior::Source);
    fetch(client.line("socks"), &source, 1000).await;
    deployment.totals_are(8, 1000).await;
    let reaches = async |deployment: &Deployment, wanted: &str| {
        eventually(|| async {
            let state = deployment.control.list("sessions").await[0]["state"].as_str().unwrap().to_owned();
            if state == wanted { Ok(()) } else { Err(state) }
        })
        .await;
    };
    deployment.gateway().signal("-STOP");
    reaches(&deployment, "reaped").await;
    let settled = async |deployment: &Deployment, sessions: u32, status: &str| {
        eventually(|| async {
            let held = deployment.control.list("nodes").await[0]["active_sessions"].clone();
            let gateway = deployment.control.list("gateways").await[0]["status"].clone();
            if held == json!(sessions) && gateway == status { Ok(()) } else { Err(format!("{held} {gateway}")) }
        })
        .await;
    };
    settled(&deployment, 0, "offline").await;
    deployment.gateway().signal("-CONT");
    reaches(&deployment, "active").await;
    fetch(client.line("socks"), &source, 500).await;
    deployment.totals_are(16, 1500).await;
    settled(&deployment, 1, "online").await;
    tokio::time::timeout(Duration::from_secs(30), client.stop()).await.unwrap();
}
