//! A gateway drains, and its clients move to another one in the region (docs/03, "Draining").

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::balancer::Balancer;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH, gateway_address, metric};
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::second_gateway::SecondGateway;
use crate::support::socks;
use crate::support::wait::eventually;

/// Three times what a stream may take while its client moves, for a busy machine.
const GAP: Duration = Duration::from_millis(3 * 300);

/// Opens streams until one receives the greeting; returns the time taken and the number of resets.
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
async fn new_streams_move_to_another_gateway_and_old_ones_are_reset() {
    for (sessions, encoding) in [(1, "v2"), (2, "v2"), (1, "v1")] {
        let plan = json!({ "max_sessions": sessions, "traffic_limit_gb": 1 });
        let short = [("GATEWAY__DRAIN_TIMEOUT", "8s")];
        let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], plan, &short).await;
        let second_gateway = SecondGateway::start(&deployment, "other", &[]).await;
        let other = second_gateway.process.as_ref().unwrap();
        let balancer = Balancer::to(deployment.address()).await;
        let url = format!("wss://{}{PATH}", balancer.address);
        let client = Process::start(&["connect"], &deployment.client_env_of(&url, encoding)).await;
        let (greeter, echo) = (Destination::start(Behavior::Greeter), Destination::start(Behavior::Echo));
        greeted(&client, &greeter).await;
        let mut old = socks::connect(client.line("socks"), echo.address).await.unwrap();
        old.write_all(b"still here").await.unwrap();
        old.read_exact(&mut [0; 10]).await.unwrap();
        deployment.session_count_is(1).await;
        balancer.chosen.send_replace(gateway_address(other).to_owned());
        let gateway = deployment.gateway.take().unwrap();
        gateway.signal("-TERM");
        let (drained, mut slowest, mut resets, mut after) = (Instant::now(), Duration::ZERO, 0, 0);
        let ops = other.line("ops-gateway");
        while after < 20 {
            let (took, lost) = greeted(&client, &greeter).await;
            (slowest, resets) = (slowest.max(took), resets + lost);
            let has_moved = metric(&deployment.control.http, ops, "httvps_sessions").await > 0;
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
            let rows = deployment.control.list("sessions").await;
            let live = rows.iter().filter(|row| row["ended_at"].is_null()).count();
            if live == 1 { Ok(()) } else { Err(format!("{live} live sessions: {rows:?}")) }
        })
        .await;
        greeted(&client, &greeter).await;
        assert_eq!(client.stop().await.code, Some(0));
    }
}
