//! A client in another language, written from docs/03 with the owner's frames only.

use std::process::Stdio;

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::node::CHACHA;
use crate::process::PATIENCE;
use crate::world::{REGION, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_frames_suffice() {
    let world = World::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Manner::Echo).await;
    let source = Destination::start(Manner::Source).await;
    let python = std::env::var("HTTVPS_TEST_PYTHON").expect("`make test` finds a Python with websockets");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/v1_client.py");
    let args = [
        script,
        &world.url(),
        &world.ca(),
        &world.subscriber.device,
        &world.subscriber.token,
        REGION,
        &echo.address.port().to_string(),
        &source.address.port().to_string(),
    ];
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
    world.settles_at(echo.got() + source.got(), echo.gave() + source.gave()).await;
}
