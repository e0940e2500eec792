//! Tunnels over HTTP/2 by foreign software: Node, Python's h2 and a browser.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::AEAD_2022;
use crate::support::wait::TIMEOUT;

const SIZE: u64 = 3_000_000;

/// The path of a file of the web tests.
fn file(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn authority(deployment: &Deployment) -> String {
    deployment.address().replace("127.0.0.1", "localhost")
}

struct Destinations {
    echo: Destination,
    source: Destination,
}

impl Destinations {
    fn start() -> Self {
        Self { echo: Destination::start(Behavior::Echo), source: Destination::start(Behavior::Source) }
    }

    async fn are_billed(&self, deployment: &Deployment) {
        let (up, down) = (self.echo.got() + self.source.got(), self.echo.gave() + self.source.gave());
        deployment.totals_are(up, down).await;
    }
}

async fn deployment() -> Deployment {
    Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 5 }), &[]).await
}

/// Runs a program that opens a tunnel of each kind on one connection.
async fn both(program: &str, script: &str) {
    let (deployment, places) = (deployment().await, Destinations::start());
    let mut args = vec![file(script), authority(&deployment), PATH.to_owned(), deployment.ca()];
    args.extend([deployment.subscriber.device.clone(), deployment.subscriber.token.clone(), REGION.to_owned()]);
    args.extend([places.echo.address.port(), places.source.address.port()].map(|port| port.to_string()));
    args.push(SIZE.to_string());
    let child = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, child).await.expect("it ends").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("exact"), "{text}");
    assert_eq!((deployment.tunnels_by("h2").await, deployment.tunnels_by("h2ws").await), (1, 1));
    places.are_billed(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_http2() {
    let node = std::env::var("HTTVPS_TEST_NODE").expect("`make test` finds Node");
    both(&node, "web/http2_client.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_h2() {
    let python = std::env::var("HTTVPS_TEST_PYTHON").expect("`make test` finds a Python with h2");
    both(&python, "python/http2_client.py").await;
}

/// A web site that serves a script to the browser and receives its report.
async fn site(settings: Value) -> (String, mpsc::Receiver<String>) {
    let (told, reports) = mpsc::channel(1);
    let text = |name: &str, kind: &'static str| {
        let body = std::fs::read_to_string(file(&format!("web/{name}"))).unwrap();
        get(move || async move { ([(CONTENT_TYPE, kind)], body) })
    };
    let settings = settings.to_string();
    let report = |State(told): State<Arc<mpsc::Sender<String>>>, body: String| async move {
        told.send(body).await.unwrap();
    };
    let router = Router::new()
        .route("/", text("page.html", "text/html"))
        .route("/tunnel.mjs", text("tunnel.mjs", "text/javascript"))
        .route("/settings", get(move || async move { settings }))
        .route("/result", post(report))
        .with_state(Arc::new(told));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, reports)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_websocket_on_its_established_connection() {
    let browser = std::env::var("HTTVPS_TEST_CHROMIUM").expect("`make test` finds Chromium");
    let (deployment, places) = (deployment().await, Destinations::start());
    let hello = json!({
        "device_id": deployment.subscriber.device, "access_token": deployment.subscriber.token, "region": REGION,
        "client_version": "1.0.0", "platform": "web",
    });
    let settings = json!({
        "url": format!("wss://{}{PATH}", authority(&deployment)), "hello": hello, "size": SIZE,
        "echo": places.echo.address.port(), "source": places.source.address.port(),
    });
    let (url, mut reports) = site(settings).await;
    let profile = tempfile::tempdir().unwrap();
    let mut running = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--ignore-certificate-errors", "--disable-background-networking", "--disable-component-update"])
        .args([&format!("--user-data-dir={}", profile.path().display()), &url])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let report = tokio::time::timeout(TIMEOUT, reports.recv()).await.expect("a report");
    assert_eq!(report.as_deref(), Some("exact"));
    assert_eq!((deployment.tunnels_by("h2ws").await, deployment.tunnels_by("ws").await), (1, 0));
    places.are_billed(&deployment).await;
    running.kill().await.unwrap();
}
