use serde_json::json;

use crate::bulk::CASES;
use crate::field;
use crate::measure::{median, rounds};
use crate::peers::Subject;
use crate::report::{Goal, HTTVPS, Report};
use crate::support::environment::env;
use crate::support::process::Process;

/// What resumability may cost a session that never uses it.
const COST: f64 = 1.03;
const WITHOUT: &str = r#"["open", "udp", "half", "code", "window", "notice", "limits", "error"]"#;

/// Compares the gateway's CPU for resumable and non-resumable sessions, in turns.
pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({}), &field::IN_A_HURRY).await;
    let pid = deployment.gateway().pid();
    for (transport, name) in [("ws", "ws"), ("h2", "h2")] {
        let with = deployment.connect_by(transport, "v2").await;
        let mut settings = deployment.client_env("v2");
        settings.extend(env(&[("CLIENT__TRANSPORT", transport), ("CLIENT__FEATURES", WITHOUT)]));
        let without = Process::start(&["connect"], &settings).await;
        let subjects = [&with, &without].map(|client| Subject::known(HTTVPS, pid, client.line("socks")));
        for case in &CASES {
            let mut ratios = Vec::new();
            for round in 1..=rounds() {
                match (case.once(&subjects[0]).await, case.once(&subjects[1]).await) {
                    (Ok(with), Ok(without)) => ratios.push(with.cpu_of_a_gib() / without.cpu_of_a_gib()),
                    (with, without) => eprintln!("round {round}, {name}: {:?} {:?}", with.err(), without.err()),
                }
            }
            let figure = format!("resumable_cpu_{}_{name}", case.name);
            report.add(&figure, HTTVPS, median(ratios), "x", Goal::at_most(COST));
        }
    }
}
