use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::field;
use crate::latency::Exchange;
use crate::line::{BYTES_PER_SECOND, Line};
use crate::measure::percentile;
use crate::report::{Goal, HTTVPS, Report};
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::process::Process;
use crate::throughput::{self, Span};

const SPAN: Span = Span { warm_up: Duration::from_secs(2), time: Duration::from_secs(6) };
const WITHOUT_END: Span = Span { warm_up: Duration::from_secs(2), time: Duration::from_hours(1) };
const PAUSE: Duration = Duration::from_secs(1);
const REQUESTS: usize = 100;
const PER_CENT: f64 = 90.0;
const MORE_MILLISECONDS: f64 = 30.0;

pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({}), &[]).await;
    let line = Line::to(deployment.address().parse().unwrap());
    let client = client(&deployment, &line, "ws").await;
    let proxy = client.line("socks");
    let echo = Destination::start(Behavior::Echo);
    let mut exchange = Exchange::open(proxy, echo.address).await.unwrap();
    exchange.times(2).await.unwrap();
    let idle = percentile(exchange.times(REQUESTS).await.unwrap(), 0.99) / 1000.0;
    report.add("line_request_p99_idle", HTTVPS, idle, "ms", Goal::NONE);
    fill(proxy, "line", report).await;
    for transport in ["h2ws", "h2"] {
        let other = self::client(&deployment, &line, transport).await;
        fill(other.line("socks"), &format!("line_{transport}"), report).await;
    }
    for (name, up) in [("line_request_p99_under_download", false), ("line_request_p99_under_upload", true)] {
        let bulk = async {
            if up {
                throughput::up(proxy, 1, WITHOUT_END).await;
            } else {
                throughput::down(proxy, 1, WITHOUT_END).await;
            }
        };
        let requests = async {
            sleep(SPAN.warm_up).await;
            exchange.times(REQUESTS).await
        };
        let loaded = tokio::select! {
            () = bulk => panic!("the bulk stream ended"),
            samples = requests => samples,
        };
        match loaded {
            Ok(samples) => {
                let goal = Goal::at_most(idle + MORE_MILLISECONDS);
                report.add(name, HTTVPS, percentile(samples, 0.99) / 1000.0, "ms", goal);
            }
            Err(error) => eprintln!("{HTTVPS}, {name}: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// One stream each way, one after the other.
async fn fill(proxy: &str, figure: &str, report: &mut Report) {
    let down = throughput::down(proxy, 1, SPAN).await;
    report.add(&format!("{figure}_down"), HTTVPS, of_the_line(down), "%", Goal::at_least(PER_CENT));
    sleep(PAUSE).await;
    let up = throughput::up(proxy, 1, SPAN).await;
    report.add(&format!("{figure}_up"), HTTVPS, of_the_line(up), "%", Goal::at_least(PER_CENT));
    sleep(PAUSE).await;
}

async fn client(deployment: &Deployment, line: &Line, transport: &str) -> Process {
    let mut env = deployment.client_env("v2");
    env.extend(crate::support::environment::env(&[("CLIENT__TRANSPORT", transport)]));
    for (key, value) in &mut env {
        if key == "HTTVPS_CLIENT__GATEWAY" {
            *value = format!("wss://{}{PATH}", line.address);
        }
    }
    Process::start(&["connect"], &env).await
}

fn of_the_line(bytes_per_second: f64) -> f64 {
    bytes_per_second / BYTES_PER_SECOND * 100.0
}
