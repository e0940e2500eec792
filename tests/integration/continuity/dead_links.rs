//! Both ends notice a link that goes dead during a transfer (docs/03, "Keepalive").

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::freezable_relay::FreezableRelay;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::read_until_closed;
use crate::support::wait::eventually;

/// Three times what it may take, and less than on an idle link.
const NOTICED: Duration = Duration::from_secs(3 * 10);
/// Enough for the estimates of the link to settle.
const MUCH: u64 = 50_000_000;
const LONG: Duration = Duration::from_secs(4);

/// Waits until a new stream receives the greeting.
async fn is_back(client: &Process, greeter: &Destination) {
    eventually(|| async {
        let socket = socks::connect(client.line("socks"), greeter.address).await;
        let mut socket = socket.map_err(|error| error.to_string())?;
        socket.read_exact(&mut [0; GREETING.len()]).await.map_err(|error| error.to_string())
    })
    .await;
}

async fn is_noticed(up: bool) {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    let line = FreezableRelay::start(deployment.address()).await;
    let url = format!("wss://127.0.0.1:{}{PATH}", line.port);
    let client = Process::start(&["connect"], &deployment.client_env_of(&url, "v2")).await;
    let (there, greeter) = (
        Destination::start(if up { Behavior::Discard } else { Behavior::Endless }),
        Destination::start(Behavior::Greeter),
    );
    let mut socket = socks::connect(client.line("socks"), there.address).await.unwrap();
    tokio::spawn(async move {
        if up {
            while socket.write_all(&[7; 65_536]).await.is_ok() {}
        } else {
            socket.write_all(b"x").await.unwrap();
            read_until_closed(socket).await;
        }
    });
    let begun = Instant::now();
    eventually(|| async {
        let counters = &there.counters;
        let moved = counters.got.load(Ordering::Relaxed) + counters.gave.load(Ordering::Relaxed);
        if moved >= MUCH && begun.elapsed() > LONG { Ok(()) } else { Err(format!("{moved} bytes")) }
    })
    .await;
    line.freeze();
    let since = Instant::now();
    is_back(&client, &greeter).await;
    println!("up {up}: the client is back after {:?}", since.elapsed());
    assert!(since.elapsed() < NOTICED, "up {up}: the client notices after {:?}", since.elapsed());
    deployment.session_count_is(1).await;
    println!("up {up}: the old session is over after {:?}", since.elapsed());
    assert!(since.elapsed() < NOTICED, "up {up}: the gateway notices after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_is_noticed_during_a_download() {
    is_noticed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_is_noticed_during_an_upload() {
    is_noticed(true).await;
}
