//! A gateway that starts again: without the control plane, with damaged files, on a full disk, with a wrong clock.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use httvps::frame::SessionCode;
use httvps::token::Issuer;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::control::{SEED, id};
use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::outage::{PATIENT, become_known, plan};
use crate::support::process::Process;
use crate::support::raw_session::{enter, fetch, is_ok, is_refused, open, read};
use crate::support::settling::{open_sessions, readiness};
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// The subscriber's device moves something through a gateway that was started again, and leaves.
async fn visit(world: &World, source: &Destination) {
    let (mut raw, answer) = enter(world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, source, 1000).await;
    drop(raw);
    open_sessions(world, 0).await;
}

/// Starts the gateway again while the control plane is away; gives how long until it says that it is ready.
async fn restart(world: &mut World) -> Duration {
    world.gateway.take().unwrap().stop().await;
    let started = Instant::now();
    world.start_gateway().await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_while_the_control_plane_is_away_serves_whom_it_knew() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    let stranger = Subscriber::create(&world.control, plan()).await;
    let revoked = Subscriber::create(&world.control, plan()).await;
    become_known(&world, &source).await;
    let (raw, answer) = enter(&world, &revoked).await;
    assert!(is_ok(&answer), "{answer:?}");
    drop(raw);
    open_sessions(&world, 0).await;
    world.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
    world.control.kill().await;
    world.gateway.take().unwrap().kill().await;
    let started = Instant::now();
    world.start_gateway().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 2_000_000).await;
    for subscriber in [&stranger, &revoked] {
        let (_, answer) = enter(&world, subscriber).await;
        assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
    }
    drop(raw);
    open_sessions(&world, 0).await;
    restart(&mut world).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    open(&mut raw, 1, &source, 5_000_000u64.to_be_bytes().to_vec()).await;
    let (got, code) = read(&mut raw).await;
    assert_eq!(code, Some(SessionCode::ControlUnavailable), "the outage's allowance survives, too: {got}");
    assert!((2_000_000..=3_100_000).contains(&got), "{got}");
    drop(raw);
    world.control.resume().await;
    eventually(|| async {
        let (up, down) = world.totals().await;
        if down >= 2_001_000 + got { Ok(()) } else { Err(format!("{up} {down} of {got}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_keeps_is_sealed_and_damage_costs_only_what_was_kept() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    become_known(&world, &source).await;
    world.gateway.take().unwrap().stop().await;
    let password = world.nodes[0].key.password.clone();
    for file in std::fs::read_dir(world.state.path()).unwrap() {
        let (path, password) = (file.unwrap().path(), password.as_bytes());
        let bytes = std::fs::read(&path).unwrap();
        let shows = bytes.windows(password.len()).any(|window| window == password);
        assert!(!shows, "{} shows a node's password", path.display());
    }
    for name in ["state.db", "state.key"] {
        let mode = std::fs::metadata(world.state.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for damage in ["state.db", "state.key"] {
        std::fs::write(world.state.path().join(damage), [7; 5000]).unwrap();
        world.start_gateway().await;
        visit(&world, &source).await;
        let log = world.gateway.take().unwrap().stop().await.stderr;
        assert_eq!(log.matches("starts afresh").count(), 1, "{damage}: {log}");
    }
    world.start_gateway().await;
    world.control.kill().await;
    restart(&mut world).await;
    let (_, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_make_the_devices_that_are_not_there_strangers() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    become_known(&world, &source).await;
    let revoked = Subscriber::create(&world.control, plan()).await;
    let (raw, answer) = enter(&world, &revoked).await;
    assert!(is_ok(&answer), "{answer:?}");
    drop(raw);
    open_sessions(&world, 0).await;
    world.gateway.take().unwrap().stop().await;
    world.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
    world.start_gateway().await;
    let nodes = world.control.list("nodes").await;
    world.control.update("nodes", &id(&nodes[0]), json!({ "state": "draining" })).await;
    let back = world.control.update("nodes", &id(&nodes[0]), json!({ "state": "active" })).await;
    assert_eq!(back["delivery"]["acked"], 1, "{back}");
    world.control.kill().await;
    let (_, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    let (_, answer) = enter(&world, &revoked).await;
    assert!(is_refused(&answer, SessionCode::ControlUnavailable), "{answer:?}");
}

/// A gateway whose files cannot grow, as on a full disk.
async fn start_on_a_full_disk(world: &mut World) -> String {
    world.gateway.take().unwrap().stop().await;
    world.gateway = Some(Process::start_ignoring("XFSZ", &["serve-gateway"], &world.gateway_env).await);
    eventually(|| async {
        let (status, text) = readiness(world).await;
        if status == 200 { Ok(()) } else { Err(text) }
    })
    .await;
    let pid = world.gateway().pid().to_string();
    limit(&pid, "0");
    pid
}

fn limit(pid: &str, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    assert!(std::process::Command::new("prlimit").args(["--pid", pid, &limit]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_is_named_and_reports_go_at_once() {
    let more = [("GATEWAY__REPORT_INTERVAL", "1h"), PATIENT];
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let source = Destination::start(Manner::Source);
    let pid = start_on_a_full_disk(&mut world).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 100_000).await;
    eventually(|| async {
        let (_, down) = world.totals().await;
        if down == 100_000 { Ok(()) } else { Err(format!("{down}")) }
    })
    .await;
    let (status, text) = readiness(&world).await;
    assert!(status == 503 && text.contains("usage cannot be kept on disk"), "{status} {text}");
    limit(&pid, "unlimited");
    eventually(|| async {
        let (status, text) = readiness(&world).await;
        if status == 200 { Ok(()) } else { Err(text) }
    })
    .await;
    fetch(&mut raw, 3, &source, 1000).await;
}

const SLOW: Duration = Duration::from_secs(90);

/// A control plane whose clock is ahead: a gateway behind it is slow.
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
async fn a_gateway_whose_clock_is_slow_says_so_and_goes_by_the_control_planes() {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], plan(), &[PATIENT]).await;
    let source = Destination::start(Manner::Source);
    become_known(&world, &source).await;
    world.gateway.take().unwrap().stop().await;
    let url = ahead(world.control.url.clone()).await;
    world.gateway_env.extend(env(&[("GATEWAY__CONTROL_URL", &url)]));
    world.start_gateway().await;
    visit(&world, &source).await;
    let (status, text) = readiness(&world).await;
    assert!(status == 200 && text.contains("behind the control plane's: synchronize both by NTP"), "{text}");
    let ops = world.gateway().line("ops-gateway");
    let metrics = world.control.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let offset = metrics.lines().find_map(|line| line.strip_prefix("httvps_clock_offset_seconds{peer=\"control\"} "));
    let offset: f64 = offset.unwrap().parse().unwrap();
    assert!((-91.0..=-87.0).contains(&offset), "{offset}");
    eventually(|| async {
        let gateway = &world.control.list("gateways").await[0];
        let stored = gateway["clock_offset_ms"].as_i64().unwrap_or(0);
        if (-91_000..=-87_000).contains(&stored) { Ok(()) } else { Err(gateway.to_string()) }
    })
    .await;
    let why = world.control.get("devices", &format!("{}/why", world.subscriber.device)).await;
    let finding = why["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "CLOCK_OFFSET");
    assert!(finding.is_some_and(|finding| finding["text"].as_str().unwrap().contains("gateway gateway is ")), "{why}");
    let (device, user) = (world.subscriber.device.parse().unwrap(), world.subscriber.user.parse().unwrap());
    let token =
        |life| Issuer::new(&SEED).unwrap().issue(device, user, OffsetDateTime::now_utc().unix_timestamp(), life);
    let old = Subscriber { token: token(20).unwrap(), ..world.subscriber.clone() };
    let (_, answer) = enter(&world, &old).await;
    assert!(is_refused(&answer, SessionCode::TokenExpired), "by the control plane's clock it is over: {answer:?}");
    world.control.kill().await;
    let good = Subscriber { token: token(3600).unwrap(), ..world.subscriber.clone() };
    let (mut raw, answer) = enter(&world, &good).await;
    assert!(is_ok(&answer), "{answer:?}");
    fetch(&mut raw, 1, &source, 2000).await;
    drop(raw);
    world.control.resume().await;
    eventually(|| async {
        let sessions = world.control.list("sessions").await;
        let found = sessions.iter().find(|session| session["bytes_down"] == 2000);
        let found = found.ok_or("the session of the outage is not there yet")?;
        let started = OffsetDateTime::parse(found["started_at"].as_str().unwrap(), &Rfc3339).unwrap();
        let ahead = started - OffsetDateTime::now_utc();
        if ahead > Duration::from_secs(30) { Ok(()) } else { Err(format!("{ahead}")) }
    })
    .await;
}
