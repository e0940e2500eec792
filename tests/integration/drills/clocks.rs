//! Clocks of a gateway and a control plane that are wrong by little and by much.

use std::path::Path;

use super::deployment::{DrillDeployment, seconds};
use crate::support::database::Kind;
use crate::support::environment::{Env, TO_SHIFT_CLOCKS, skip};
use crate::support::wait::eventually;

const LIBRARY: &str = "faketime/libfaketime.so.1";
/// A clock that goes back must not fall before the subscription's start.
const BEGUN_LONG_AGO: &str = "UPDATE subscriptions SET starts_at = starts_at - interval '10 days'";
/// The startup grace: nothing is stale before gateways had time to report.
const GRACE: &str = "5s";
const SHIFTS: [(&str, i64); 4] = [("+90s", 90), ("-90s", -90), ("+1d", 86_400), ("-1d", -86_400)];
/// The tolerance of a clock offset, in seconds.
const ABOUT: u64 = 10;

/// The variables that shift a process's clock; `None` without Debian's faketime, and then the test must say that it is
/// skipped.
fn shifted(by: &str) -> Option<Env> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let library = folders.map(|folder| Path::new(folder).join(LIBRARY)).into_iter().find(|path| path.exists())?;
    let library = library.to_string_lossy().into_owned();
    let pairs = [("LD_PRELOAD", library.as_str()), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec())
}

/// The gateway's estimate of its clock offset, in seconds.
async fn offset(drill: &DrillDeployment) -> Option<i64> {
    let ops = drill.deployment.gateway().line("ops-gateway");
    let text = drill.deployment.control.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("httvps_clock_offset_seconds{peer=\"control\"} "));
    value?.parse().ok().map(|seconds: f64| seconds.round() as i64)
}

/// Checks that the crowd is served although a clock is wrong, and that the gateway measures the offset.
async fn served(drill: &DrillDeployment, whose: &str, by: &str, ahead: i64) {
    eventually(|| async {
        let found = offset(drill).await;
        if found.is_some_and(|found| found.abs_diff(ahead) <= ABOUT) {
            Ok(())
        } else {
            Err(format!("{found:?}, not {ahead}"))
        }
    })
    .await;
    let mark = drill.mark().await;
    let tally = drill.crowd().await.leave().await;
    assert_eq!(tally.failures, 0, "{whose} {by}: {tally:?}");
    drill.exact_since(mark).await;
    println!("drill clocks: {whose} {by}: {} transfers, slowest {}", tally.transfers, seconds(tally.slowest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_clock_is_wrong() {
    let mut drill = DrillDeployment::build("gateway's clock", Kind::Postgres, &[]).await;
    let right = drill.deployment.gateway_env.clone();
    for (by, seconds) in SHIFTS {
        let Some(wrong) = shifted(by) else { return skip("drill clocks", TO_SHIFT_CLOCKS) };
        drill.deployment.gateway.take().unwrap().stop().await;
        drill.deployment.gateway_env = right.iter().cloned().chain(wrong).collect();
        drill.deployment.start_gateway().await;
        served(&drill, "gateway", by, seconds).await;
    }
    drill.deployment.gateway.take().unwrap().stop().await;
    drill.deployment.gateway_env = right;
    drill.deployment.start_gateway().await;
    served(&drill, "gateway", "right again", 0).await;
    drill.ends_clean("every session counted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_planes_clock_is_wrong() {
    let mut drill = DrillDeployment::build("control plane's clock", Kind::Postgres, &[]).await;
    drill.deployment.control.rewrite(BEGUN_LONG_AGO).await;
    let mut right = drill.deployment.control.env.clone();
    right.push(("HTTVPS_SESSIONS__STARTUP_GRACE".into(), GRACE.into()));
    for (by, seconds) in SHIFTS {
        let Some(wrong) = shifted(by) else { return skip("drill clocks", TO_SHIFT_CLOCKS) };
        drill.deployment.control.kill().await;
        drill.deployment.control.env = right.iter().cloned().chain(wrong).collect();
        drill.deployment.control.resume().await;
        served(&drill, "control plane", by, -seconds).await;
    }
    drill.deployment.control.kill().await;
    drill.deployment.control.env = right;
    drill.deployment.control.resume().await;
    served(&drill, "control plane", "right again", 0).await;
    drill.ends_clean("every session counted").await;
}
