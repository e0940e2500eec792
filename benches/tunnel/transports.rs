use std::collections::HashMap;
use std::time::{Duration, Instant};

use httvps::frame::Encoding;
use httvps::net::tunnel::Tunnel;
use rustls::client::Resumption;
use serde_json::json;
use tokio::time::sleep;

use crate::bulk::CASES;
use crate::field;
use crate::measure::{cpu_seconds, in_lanes, median, resident_kib, rounds};
use crate::peers::Subject;
use crate::report::{Goal, H2, H2WS, HTTVPS, Report};
use crate::session::{Door, Session};
use crate::support::deployment::Deployment;
use crate::support::http2_peer::Peer;

/// The transports by their name in the report; WebSocket over HTTP/1.1 is the baseline.
const TRANSPORTS: [(&str, &str); 3] = [(HTTVPS, "ws"), (H2WS, "h2ws"), (H2, "h2")];
const CPU_OF_A_GIB: f64 = 1.15;
const CPU_OF_A_TUNNEL: f64 = 1.3;
const TUNNELS: usize = 250;
const LANES: usize = 8;
const SETTLE: Duration = Duration::from_secs(2);

type Samples = HashMap<&'static str, Vec<f64>>;

enum Held {
    WebSocket(Box<Session>),
    Http2(Peer, Tunnel),
}

async fn enter(deployment: &Deployment, door: &Door, subject: &str) -> Held {
    match subject {
        H2WS => {
            let (peer, _) = Peer::begin(deployment).await;
            let tunnel = peer.websocket(deployment, Encoding::V2).await;
            Held::Http2(peer, tunnel)
        }
        H2 => {
            let (peer, _) = Peer::begin(deployment).await;
            let tunnel = peer.plain(deployment).await;
            Held::Http2(peer, tunnel)
        }
        _ => Held::WebSocket(Box::new(door.enter(&[]).await.unwrap())),
    }
}

/// Measures the transports in turns and compares their cost.
fn compare(figure: &str, samples: &Samples, unit: &'static str, most: Option<f64>, report: &mut Report) {
    let of = |subject: &str| samples.get(subject).map(|samples| median(samples.clone()));
    for (subject, _) in TRANSPORTS {
        if let Some(value) = of(subject) {
            report.add(&format!("transport_{figure}"), subject, value, unit, Goal::NONE);
        }
    }
    for subject in [H2WS, H2] {
        if let (Some(ours), Some(theirs)) = (of(subject), of(HTTVPS)) {
            let goal = most.map_or(Goal::NONE, Goal::at_most);
            report.add(&format!("{figure}_{subject}_to_ws"), HTTVPS, ours / theirs, "x", goal);
        }
    }
}

pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({}), &field::IN_A_HURRY).await;
    let pid = deployment.gateway().pid();
    let mut clients = Vec::new();
    for (subject, transport) in TRANSPORTS {
        let client = deployment.connect_by(transport, "v2").await;
        clients.push((Subject::known(subject, pid, client.line("socks")), client));
    }
    for case in &CASES {
        let (mut cpu, mut speed) = (Samples::new(), Samples::new());
        for round in 1..=rounds() {
            for (subject, _) in &clients {
                let started = Instant::now();
                match case.once(subject).await {
                    Ok(sample) => {
                        cpu.entry(subject.name).or_default().push(sample.cpu_of_a_gib());
                        speed.entry(subject.name).or_default().push(started.elapsed().as_secs_f64());
                    }
                    Err(error) => eprintln!("round {round}, {}, {}: {error}", subject.name, case.name),
                }
            }
        }
        compare(&format!("cpu_{}", case.name), &cpu, "s/GiB", Some(CPU_OF_A_GIB), report);
        compare(&format!("wall_{}", case.name), &speed, "s", None, report);
    }
    drop(clients);
    let door = Door::of(&deployment, Resumption::disabled());
    let (mut cpu, mut memory) = (Samples::new(), Samples::new());
    for _ in 0..=rounds() {
        for (subject, _) in TRANSPORTS {
            sleep(SETTLE).await;
            let (before, resident) = (cpu_seconds(pid), resident_kib(pid));
            let held = in_lanes(TUNNELS, LANES, || enter(&deployment, &door, subject)).await;
            let used = cpu_seconds(pid) - before;
            sleep(SETTLE).await;
            memory.entry(subject).or_default().push((resident_kib(pid) - resident) / TUNNELS as f64);
            drop(held);
            cpu.entry(subject).or_default().push(used * 1000.0 / TUNNELS as f64);
        }
    }
    compare("cpu_tunnel", &cpu, "ms", Some(CPU_OF_A_TUNNEL), report);
    compare("kib_tunnel", &memory, "KiB", None, report);
}
