//! Clients in another language, written from docs/03 alone.

use std::process::Stdio;

use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::udp_echo::Echo;
use crate::support::wait::TIMEOUT;

async fn run(script: &str, deployment: &Deployment, ports: &[u16]) {
    let python = std::env::var("HTTVPS_TEST_PYTHON").expect("`make test` finds a Python with websockets");
    let mut args = vec![
        format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR")),
        deployment.url(),
        deployment.ca(),
        deployment.subscriber.device.clone(),
        deployment.subscriber.token.clone(),
        REGION.to_owned(),
    ];
    args.extend(ports.iter().map(u16::to_string));
    let child = tokio::process::Command::new(python)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, child).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("exact"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_of_v1_suffice() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    let source = Destination::start(Behavior::Source);
    run("v1_client.py", &deployment, &[echo.address.port(), source.address.port()]).await;
    deployment.totals_are(echo.got() + source.got(), echo.gave() + source.gave()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_v2() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    let source = Destination::start(Behavior::Source);
    let datagrams = Echo::start().await;
    let ports = [echo.address.port(), source.address.port(), datagrams.address.port()];
    run("v2_client.py", &deployment, &ports).await;
    let udp = datagrams.got.load(std::sync::atomic::Ordering::SeqCst);
    deployment.totals_are(echo.got() + source.got() + udp, echo.gave() + source.gave() + udp).await;
}
