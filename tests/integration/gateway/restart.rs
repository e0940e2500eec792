//! Restarts of a gateway: without the control plane, with damaged files, on a full disk, with a wrong clock.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use httvps::clock::Clock;
use httvps::frame::SessionCode;
use httvps::token::Issuer;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::control::{SEED, id};
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::outage::{
    SHORT_CONTROL_PATIENCE, deployment_with_known_device, make_device_known, plan_with_outage_allowance,
};
use crate::support::process::Process;
use crate::support::raw_session::{fetch_on, is_ok, is_refused, open_stream, read_stream, say_hello};
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// The subscriber's device transfers something through the restarted gateway and disconnects.
async fn visit(deployment: &Deployment, source: &Destination) {
    let (mut raw, answer) = say_hello(deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, source, 1000).await;
    drop(raw);
    deployment.session_count_is(0).await;
}

/// Restarts the gateway while the control plane is down; returns the time until it is ready.
async fn restart(deployment: &mut Deployment) -> Duration {
    deployment.gateway.take().unwrap().stop().await;
    let started = Instant::now();
    deployment.start_gateway().await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_started_during_an_outage_serves_known_devices() {
    let mut deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], plan_with_outage_allowance(), &[SHORT_CONTROL_PATIENCE]).await;
    let source = Destination::start(Behavior::Source);
    let stranger = Subscriber::create(&deployment.control, plan_with_outage_allowance()).await;
    let revoked = Subscriber::create(&deployment.control, plan_with_outage_allowance()).await;
    make_device_known(&deployment, &source).await;
    let (raw, answer) = say_hello(&deployment, &revoked).await;
    assert!(is_ok(&answer), "{answer:?}");
    drop(raw);
    deployment.session_count_is(0).await;
    deployment.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
    deployment.control.kill().await;
    deployment.gateway.take().unwrap().kill().await;
    let started = Instant::now();
    deployment.start_gateway().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 2_000_000).await;
    for subscriber in [&stranger, &revoked] {
        let (_, answer) = say_hello(&deployment, subscriber).await;
        assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
    }
    drop(raw);
    deployment.session_count_is(0).await;
    restart(&mut deployment).await;
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    open_stream(&mut raw, 1, &source, 5_000_000u64.to_be_bytes().to_vec()).await;
    let (got, code) = read_stream(&mut raw).await;
    assert_eq!(code, Some(SessionCode::ControlUnavailable), "the outage's allowance survives, too: {got}");
    assert!((2_000_000..=3_100_000).contains(&got), "{got}");
    drop(raw);
    deployment.control.resume().await;
    eventually(|| async {
        let (up, down) = deployment.totals().await;
        if down >= 2_001_000 + got { Ok(()) } else { Err(format!("{up} {down} of {got}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn persisted_state_is_encrypted_and_damage_costs_only_that_state() {
    let (mut deployment, source) = deployment_with_known_device(Kind::Sqlite).await;
    deployment.gateway.take().unwrap().stop().await;
    let password = deployment.nodes[0].key.password.clone();
    for file in std::fs::read_dir(deployment.state.path()).unwrap() {
        let (path, password) = (file.unwrap().path(), password.as_bytes());
        let bytes = std::fs::read(&path).unwrap();
        let shows = bytes.windows(password.len()).any(|window| window == password);
        assert!(!shows, "{} shows a node's password", path.display());
    }
    for name in ["state.db", "state.key"] {
        let mode = std::fs::metadata(deployment.state.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for damage in ["state.db", "state.key"] {
        std::fs::write(deployment.state.path().join(damage), [7; 5000]).unwrap();
        deployment.start_gateway().await;
        visit(&deployment, &source).await;
        let log = deployment.gateway.take().unwrap().stop().await.stderr;
        assert_eq!(log.matches("offline state is damaged").count(), 1, "{damage}: {log}");
    }
    deployment.start_gateway().await;
    deployment.control.kill().await;
    restart(&mut deployment).await;
    let (_, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_absent_devices_known() {
    let (mut deployment, _source) = deployment_with_known_device(Kind::Sqlite).await;
    let revoked = Subscriber::create(&deployment.control, plan_with_outage_allowance()).await;
    let (raw, answer) = say_hello(&deployment, &revoked).await;
    assert!(is_ok(&answer), "{answer:?}");
    drop(raw);
    deployment.session_count_is(0).await;
    deployment.gateway.take().unwrap().stop().await;
    deployment.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
    deployment.start_gateway().await;
    let nodes = deployment.control.list("nodes").await;
    deployment.control.update("nodes", &id(&nodes[0]), json!({ "state": "draining" })).await;
    let back = deployment.control.update("nodes", &id(&nodes[0]), json!({ "state": "active" })).await;
    assert_eq!(back["delivery"]["acked"], 1, "{back}");
    deployment.control.kill().await;
    let (_, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    let (_, answer) = say_hello(&deployment, &revoked).await;
    assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
}

/// Starts a gateway whose files cannot grow, as on a full disk.
async fn start_on_a_full_disk(deployment: &mut Deployment) -> String {
    deployment.gateway.take().unwrap().stop().await;
    deployment.gateway = Some(Process::start_ignoring("XFSZ", &["serve-gateway"], &deployment.gateway_env).await);
    deployment.becomes_ready().await;
    let pid = deployment.gateway().pid().to_string();
    limit(&pid, "0");
    pid
}

fn limit(pid: &str, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    assert!(std::process::Command::new("prlimit").args(["--pid", pid, &limit]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_journal_is_reported_and_usage_goes_out_at_once() {
    let more = [("GATEWAY__REPORT_INTERVAL", "1h"), SHORT_CONTROL_PATIENCE];
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let source = Destination::start(Behavior::Source);
    let pid = start_on_a_full_disk(&mut deployment).await;
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 100_000).await;
    eventually(|| async {
        let (_, down) = deployment.totals().await;
        if down == 100_000 { Ok(()) } else { Err(format!("{down}")) }
    })
    .await;
    let (status, text) = deployment.readiness().await;
    assert!(status == 503 && text.contains("usage cannot be kept on disk"), "{status} {text}");
    limit(&pid, "unlimited");
    deployment.becomes_ready().await;
    fetch_on(&mut raw, 3, &source, 1000).await;
}

const SLOW: Duration = Duration::from_secs(90);

/// A proxy that moves the control plane's clock ahead, so that the gateway's clock is slow.
async fn ahead(control: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state = (reqwest::Client::builder().no_proxy().build().unwrap(), control);
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass).with_state(state)).await });
    url
}

async fn pass(State((http, control)): State<(reqwest::Client, String)>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let url = format!("{control}{}", head.uri);
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let Ok(answer) = http.request(head.method, url).headers(head.headers).body(body).send().await else {
        return Response::builder().status(502).body(Body::empty()).unwrap();
    };
    let status = answer.status();
    if !head.uri.path().ends_with("gateway/heartbeat") {
        return Response::builder().status(status).body(Body::from_stream(answer.bytes_stream())).unwrap();
    }
    let mut orders: Value = answer.json().await.unwrap();
    let time = OffsetDateTime::parse(orders["server_time"].as_str().unwrap(), &Rfc3339).unwrap() + SLOW;
    orders["server_time"] = time.format(&Rfc3339).unwrap().into();
    Response::builder().status(status).body(Body::from(orders.to_string())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_slow_clock_says_so_and_uses_the_control_planes() {
    let (mut deployment, source) = deployment_with_known_device(Kind::Sqlite).await;
    deployment.gateway.take().unwrap().stop().await;
    let url = ahead(deployment.control.url.clone()).await;
    deployment.gateway_env.extend(env(&[("GATEWAY__CONTROL_URL", &url)]));
    deployment.start_gateway().await;
    visit(&deployment, &source).await;
    let (status, text) = deployment.readiness().await;
    assert!(status == 200 && text.contains("behind the control plane's: synchronize both by NTP"), "{text}");
    let ops = deployment.gateway().line("ops-gateway");
    let metrics = deployment.control.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let offset = metrics.lines().find_map(|line| line.strip_prefix("httvps_clock_offset_seconds{peer=\"control\"} "));
    let offset: f64 = offset.unwrap().parse().unwrap();
    assert!((-91.0..=-87.0).contains(&offset), "{offset}");
    eventually(|| async {
        let gateway = &deployment.control.list("gateways").await[0];
        let stored = gateway["clock_offset_ms"].as_i64().unwrap_or(0);
        if (-91_000..=-87_000).contains(&stored) { Ok(()) } else { Err(gateway.to_string()) }
    })
    .await;
    let why = deployment.control.get("devices", &format!("{}/why", deployment.subscriber.device)).await;
    let finding = why["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "CLOCK_OFFSET");
    assert!(finding.is_some_and(|finding| finding["text"].as_str().unwrap().contains("gateway gateway is ")), "{why}");
    let (device, user) = (deployment.subscriber.device.parse().unwrap(), deployment.subscriber.user.parse().unwrap());
    let token = |life| Issuer::new(&SEED).unwrap().issue(device, user, Clock::system().now().unix_timestamp(), life);
    let old = Subscriber { token: token(20).unwrap(), ..deployment.subscriber.clone() };
    let (_, answer) = say_hello(&deployment, &old).await;
    assert!(is_refused(&answer, SessionCode::TokenExpired), "by the control plane's clock it is over: {answer:?}");
    deployment.control.kill().await;
    let good = Subscriber { token: token(3600).unwrap(), ..deployment.subscriber.clone() };
    let (mut raw, answer) = say_hello(&deployment, &good).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch_on(&mut raw, 1, &source, 2000).await;
    drop(raw);
    deployment.control.resume().await;
    eventually(|| async {
        let sessions = deployment.control.list("sessions").await;
        let found = sessions.iter().find(|session| session["bytes_down"] == 2000);
        let found = found.ok_or("the session of the outage is not there yet")?;
        let started = OffsetDateTime::parse(found["started_at"].as_str().unwrap(), &Rfc3339).unwrap();
        let ahead = started - Clock::system().now();
        if ahead > Duration::from_secs(30) { Ok(()) } else { Err(format!("{ahead}")) }
    })
    .await;
}
