use std::time::Duration;

use httvps::frame::{Frame, Target};
use rustls::client::Resumption;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::measure::{in_lanes, resident_kib};
use crate::report::{Goal, HTTVPS, Report, SING_BOX};
use crate::session::{Door, Session, open};
use crate::support::destination::{Behavior, Destination};
use crate::{field, peers, streams};

const FIGURE: &str = "idle_tunnel_with_a_stream";
const WARM_UP: usize = 50;
const TUNNELS: usize = 1_000;
const LANES: usize = 32;
const KIB: f64 = 28.0;
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({}), &[]).await;
    let echo = Destination::start(Behavior::Echo);
    let ours = of_httvps(&Door::of(&deployment, Resumption::disabled()), &echo, deployment.gateway().pid()).await;
    report.add(FIGURE, HTTVPS, ours, "KiB", Goal::at_most(KIB));
    if let Some(binary) = peers::sing_box_binary() {
        let subject = peers::sing_box(&binary, &deployment, false).await;
        let theirs = of_socks(&subject.socks, &echo, subject.pid).await;
        report.add(FIGURE, SING_BOX, theirs, "KiB", Goal::NONE);
    }
}

async fn of_httvps(door: &Door, echo: &Destination, pid: u32) -> f64 {
    let early = [open(1, &Target::Ip(echo.address), b"x")];
    let warm = tunnels(door, &early, WARM_UP).await;
    let before = settled(pid).await;
    let held = tunnels(door, &early, TUNNELS).await;
    let after = settled(pid).await;
    drop((warm, held));
    (after - before) / TUNNELS as f64
}

async fn tunnels(door: &Door, early: &[Frame], count: usize) -> Vec<Session> {
    in_lanes(count, LANES, || async {
        let mut session = door.enter(early).await.unwrap();
        session.until(|frame| matches!(frame, Frame::Data { .. }).then_some(())).await.unwrap();
        session
    })
    .await
}

async fn of_socks(proxy: &str, echo: &Destination, pid: u32) -> f64 {
    let warm = connections(proxy, echo, WARM_UP).await;
    let before = settled(pid).await;
    let held = connections(proxy, echo, TUNNELS).await;
    let after = settled(pid).await;
    drop((warm, held));
    (after - before) / TUNNELS as f64
}

async fn connections(proxy: &str, echo: &Destination, count: usize) -> Vec<TcpStream> {
    in_lanes(count, LANES, || async { streams::touch(proxy, echo).await.unwrap() }).await
}

async fn settled(pid: u32) -> f64 {
    sleep(SETTLE).await;
    resident_kib(pid)
}
