//! A gateway of a region is drained, and its clients go on at another one (docs/03, "Draining").

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::balancer::Balancer;
use crate::support::database::Kind;
use crate::support::deployment::{PATH, World, metric};
use crate::support::destination::{Destination, GREETING, Manner};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::raw_session::address_of;
use crate::support::second_gateway::Branch;
use crate::support::settling::open_sessions;
use crate::support::socks;
use crate::support::wait::eventually;

/// What a stream may take while its client moves, and three times that for a busy machine.
const GAP: Duration = Duration::from_millis(3 * 300);

/// Opens streams until one is greeted; gives how long that took and how many were reset.
async fn greeted(client: &Process, greeter: &Destination) -> (Duration, usize) {
    let (since, mut lost) = (Instant::now(), 0);
    loop {
        let mut socket = socks::connect(client.line("socks"), greeter.address).await.unwrap();
        let mut greeting = [0; GREETING.len()];
        if socket.read_exact(&mut greeting).await.is_ok() {
            assert_eq!(greeting, GREETING);
            return (since.elapsed(), lost);
        }
        lost += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_streams_go_on_at_another_gateway_and_old_ones_end_by_a_reset() {
    for (sessions, encoding) in [(1, "v2"), (2, "v2"), (1, "v1")] {
        let plan = json!({ "max_sessions": sessions, "traffic_limit_gb": 1 });
        let short = [("GATEWAY__DRAIN_TIMEOUT", "8s")];
        let mut world = World::build(Kind::Sqlite, &[CHACHA], plan, &short).await;
        let branch = Branch::start(&world, "other", &[]).await;
        let other = branch.process.as_ref().unwrap();
        let balancer = Balancer::to(address_of(world.gateway())).await;
        let url = format!("wss://{}{PATH}", balancer.address);
        let client = Process::start(&["connect"], &world.client_env_of(&url, encoding)).await;
        let (greeter, echo) = (Destination::start(Manner::Greeter), Destination::start(Manner::Echo));
        greeted(&client, &greeter).await;
        let mut old = socks::connect(client.line("socks"), echo.address).await.unwrap();
        old.write_all(b"still here").await.unwrap();
        old.read_exact(&mut [0; 10]).await.unwrap();
        open_sessions(&world, 1).await;
        balancer.chosen.send_replace(address_of(other).to_owned());
        let gateway = world.gateway.take().unwrap();
        gateway.signal("-TERM");
        let (drained, mut slowest, mut resets, mut after) = (Instant::now(), Duration::ZERO, 0, 0);
        let ops = other.line("ops-gateway");
        while after < 20 {
            let (took, lost) = greeted(&client, &greeter).await;
            (slowest, resets) = (slowest.max(took), resets + lost);
            let has_moved = metric(&world.control.http, ops, "httvps_sessions").await > 0;
            after += usize::from(has_moved);
            assert!(drained.elapsed() < Duration::from_secs(24), "{sessions} {encoding}: it does not move");
        }
        println!("{sessions} session(s), {encoding}: {slowest:?}, {resets} resets");
        assert!(slowest < GAP, "{sessions} {encoding}: {slowest:?}");
        let spare = usize::from(sessions == 1);
        assert!(resets <= spare, "only where the old session gives its place away: {resets}");
        let ended = old.read(&mut [0; 1]).await;
        assert!(ended.is_err(), "{sessions} {encoding}: half of it never looks whole: {ended:?}");
        assert!(drained.elapsed() < Duration::from_secs(24), "{:?}", drained.elapsed());
        assert_eq!(gateway.ended().await.code, Some(0));
        eventually(|| async {
            let rows = world.control.list("sessions").await;
            let live = rows.iter().filter(|row| row["ended_at"].is_null()).count();
            if live == 1 { Ok(()) } else { Err(format!("{live} live sessions: {rows:?}")) }
        })
        .await;
        greeted(&client, &greeter).await;
        assert_eq!(client.stop().await.code, Some(0));
    }
}
