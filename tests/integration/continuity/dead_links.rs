//! A line that goes dead while data is under way is noticed at both its ends (docs/03, "Keepalive").

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::{PATH, World};
use crate::support::destination::{Destination, GREETING, Manner};
use crate::support::freezable_relay::Freezer;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::raw_session::address_of;
use crate::support::settling::open_sessions;
use crate::support::socks;
use crate::support::transfer::drain;
use crate::support::wait::eventually;

/// Three times what it may take, and less than an idle line takes.
const NOTICED: Duration = Duration::from_secs(3 * 10);
/// Enough to know the line.
const MUCH: u64 = 50_000_000;
const LONG: Duration = Duration::from_secs(4);

/// Waits until a new stream is greeted.
async fn is_back(client: &Process, greeter: &Destination) {
    eventually(|| async {
        let socket = socks::connect(client.line("socks"), greeter.address).await;
        let mut socket = socket.map_err(|error| error.to_string())?;
        socket.read_exact(&mut [0; GREETING.len()]).await.map_err(|error| error.to_string())
    })
    .await;
}

async fn is_noticed(up: bool) {
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    let line = Freezer::start(address_of(world.gateway())).await;
    let url = format!("wss://127.0.0.1:{}{PATH}", line.port);
    let client = Process::start(&["connect"], &world.client_env_of(&url, "v2")).await;
    let (there, greeter) =
        (Destination::start(if up { Manner::Discard } else { Manner::Endless }), Destination::start(Manner::Greeter));
    let mut socket = socks::connect(client.line("socks"), there.address).await.unwrap();
    tokio::spawn(async move {
        if up {
            while socket.write_all(&[7; 65_536]).await.is_ok() {}
        } else {
            socket.write_all(b"x").await.unwrap();
            drain(socket).await;
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
    open_sessions(&world, 1).await;
    println!("up {up}: the old session is over after {:?}", since.elapsed());
    assert!(since.elapsed() < NOTICED, "up {up}: the gateway notices after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_download() {
    is_noticed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_upload() {
    is_noticed(true).await;
}
