//! A gateway's, and a control plane's, clock that is wrong by a little and by much.

use std::path::Path;

use super::site::{Site, seconds};
use crate::support::database::Kind;
use crate::support::environment::Env;
use crate::support::wait::eventually;

const LIBRARY: &str = "faketime/libfaketime.so.1";
/// A clock that goes back must not find itself before the subscription.
const BEGUN_LONG_AGO: &str = "UPDATE subscriptions SET starts_at = starts_at - interval '10 days'";
/// As after any start: nothing is called stale before gateways had time to report.
const GRACE: &str = "5s";
const SHIFTS: [(&str, i64); 4] = [("+90s", 90), ("-90s", -90), ("+1d", 86_400), ("-1d", -86_400)];
/// What a clock may be off by besides, seconds.
const ABOUT: u64 = 10;

/// What makes a process's clock wrong, if Debian's faketime is there.
fn shifted(by: &str) -> Option<Env> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let library = folders.map(|folder| Path::new(folder).join(LIBRARY)).into_iter().find(|path| path.exists())?;
    let library = library.to_string_lossy().into_owned();
    let pairs = [("LD_PRELOAD", library.as_str()), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec())
}

/// By how many seconds the gateway takes its own clock to be ahead.
async fn offset(site: &Site) -> Option<i64> {
    let ops = site.world.gateway().line("ops-gateway");
    let text = site.world.control.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("httvps_clock_offset_seconds{peer=\"control\"} "));
    value?.parse().ok().map(|seconds: f64| seconds.round() as i64)
}

/// The crowd is served although a clock is wrong by so much; the gateway knows it, as so many seconds of its own.
async fn served(site: &Site, whose: &str, by: &str, ahead: i64) {
    eventually(|| async {
        let found = offset(site).await;
        if found.is_some_and(|found| found.abs_diff(ahead) <= ABOUT) {
            Ok(())
        } else {
            Err(format!("{found:?}, not {ahead}"))
        }
    })
    .await;
    let mark = site.mark().await;
    let tally = site.crowd().await.leave().await;
    assert_eq!(tally.failures, 0, "{whose} {by}: {tally:?}");
    site.exact_since(mark).await;
    println!("drill clocks: {whose} {by}: {} transfers, slowest {}", tally.transfers, seconds(tally.slowest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_clock_is_wrong() {
    let mut site = Site::build("gateway's clock", Kind::Postgres, &[]).await;
    let right = site.world.gateway_env.clone();
    for (by, seconds) in SHIFTS {
        let Some(wrong) = shifted(by) else { return println!("drill clocks: left out, Debian's faketime is not here") };
        site.world.gateway.take().unwrap().stop().await;
        site.world.gateway_env = right.iter().cloned().chain(wrong).collect();
        site.world.start_gateway().await;
        served(&site, "gateway", by, seconds).await;
    }
    site.world.gateway.take().unwrap().stop().await;
    site.world.gateway_env = right;
    site.world.start_gateway().await;
    served(&site, "gateway", "right again", 0).await;
    site.ends_clean("every session counted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_planes_clock_is_wrong() {
    let mut site = Site::build("control plane's clock", Kind::Postgres, &[]).await;
    site.world.control.rewrite(BEGUN_LONG_AGO).await;
    let mut right = site.world.control.env.clone();
    right.push(("HTTVPS_SESSIONS__STARTUP_GRACE".into(), GRACE.into()));
    for (by, seconds) in SHIFTS {
        let Some(wrong) = shifted(by) else { return println!("drill clocks: left out, Debian's faketime is not here") };
        site.world.control.kill().await;
        site.world.control.env = right.iter().cloned().chain(wrong).collect();
        site.world.control.resume().await;
        served(&site, "control plane", by, -seconds).await;
    }
    site.world.control.kill().await;
    site.world.control.env = right;
    site.world.control.resume().await;
    served(&site, "control plane", "right again", 0).await;
    site.ends_clean("every session counted").await;
}
