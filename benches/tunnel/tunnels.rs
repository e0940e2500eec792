use std::time::Duration;

use rustls::client::Resumption;
use tokio::time::sleep;

use crate::field::Field;
use crate::measure::{cpu_seconds, in_lanes};
use crate::report::{Goal, HTTVPS, Report, SING_BOX};
use crate::session::Door;
use crate::streams;
use crate::support::wait::eventually;

pub(crate) const OPENED: &str = "cpu_tunnel_opened_full_handshake";
const CLOSED: &str = "cpu_tunnel_opened_and_closed_full_handshake";
const TUNNELS: usize = 1_000;
const LANES: usize = 8;
const MILLISECONDS: f64 = 0.35;
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) async fn run(field: &Field, report: &mut Report) {
    let deployment = &field.deployment;
    let pid = deployment.gateway().pid();
    let door = Door::of(deployment, Resumption::disabled());
    let sessions = deployment.metric("httvps_sessions").await;
    let before = cpu_seconds(pid);
    let held = in_lanes(TUNNELS, LANES, || async { door.enter(&[]).await.unwrap() }).await;
    let opened = cpu_seconds(pid) - before;
    drop(held);
    eventually(|| async {
        let open = deployment.metric("httvps_sessions").await;
        if open <= sessions { Ok(()) } else { Err(format!("{open} sessions")) }
    })
    .await;
    sleep(SETTLE).await;
    let closed = cpu_seconds(pid) - before;
    report.add(OPENED, HTTVPS, opened * 1000.0 / TUNNELS as f64, "ms", Goal::at_most(MILLISECONDS));
    report.add(CLOSED, HTTVPS, closed * 1000.0 / TUNNELS as f64, "ms", Goal::NONE);
    let Some(sing_box) = field.subjects.iter().find(|subject| subject.name == SING_BOX) else { return };
    let cost = match report.value(streams::FIGURE, SING_BOX) {
        Some(cost) => Ok(cost),
        None => streams::cost(sing_box).await,
    };
    match cost {
        Ok(cost) => {
            report.add(OPENED, SING_BOX, cost, "ms", Goal::NONE);
            report.add(CLOSED, SING_BOX, cost, "ms", Goal::NONE);
        }
        Err(error) => eprintln!("{SING_BOX}, tunnels: {error}"),
    }
}
