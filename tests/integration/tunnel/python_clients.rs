//! Clients in another language, written from docs/03 alone.

use std::process::Stdio;

use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::udp_echo::Echo;
use crate::support::wait::PATIENCE;

async fn run(script: &str, world: &World, ports: &[u16]) {
    let python = std::env::var("HTTVPS_TEST_PYTHON").expect("`make test` finds a Python with websockets");
    let mut args = vec![
        format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR")),
        world.url(),
        world.ca(),
        world.subscriber.device.clone(),
        world.subscriber.token.clone(),
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
    let output = tokio::time::timeout(PATIENCE, child).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("exact"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_frames_suffice() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Manner::Echo);
    let source = Destination::start(Manner::Source);
    run("v1_client.py", &world, &[echo.address.port(), source.address.port()]).await;
    world.settles_at(echo.got() + source.got(), echo.gave() + source.gave()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_v2() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Manner::Echo);
    let source = Destination::start(Manner::Source);
    let datagrams = Echo::start().await;
    let ports = [echo.address.port(), source.address.port(), datagrams.address.port()];
    run("v2_client.py", &world, &ports).await;
    let udp = datagrams.got.load(std::sync::atomic::Ordering::SeqCst);
    world.settles_at(echo.got() + source.got() + udp, echo.gave() + source.gave() + udp).await;
}
