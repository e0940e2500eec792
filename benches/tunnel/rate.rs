use std::time::Duration;

use serde_json::json;

use crate::field;
use crate::report::{Goal, HTTVPS, Report};
use crate::throughput::{self, Span};

const MEGABITS: f64 = 50.0;
const TOLERANCE: f64 = 0.05;
const STREAMS: usize = 4;
const BYTES_OF_A_MEGABIT: f64 = 125_000.0;
const SPAN: Span = Span { warm_up: Duration::from_secs(1), time: Duration::from_secs(5) };

pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({ "rate_limit_mbps": MEGABITS as u32 }), &[]).await;
    let client = deployment.connect("v2").await;
    let goal = Goal::within(MEGABITS * (1.0 - TOLERANCE), MEGABITS * (1.0 + TOLERANCE));
    let down = throughput::down(client.line("socks"), STREAMS, SPAN).await / BYTES_OF_A_MEGABIT;
    report.add("rate_of_50_down", HTTVPS, down, "Mbit/s", goal);
    let up = throughput::up(client.line("socks"), STREAMS, SPAN).await / BYTES_OF_A_MEGABIT;
    report.add("rate_of_50_up", HTTVPS, up, "Mbit/s", goal);
}
