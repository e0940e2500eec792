use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use httvps::api::{ValidateDevice, Validated};
use httvps::clock::Clock;
use httvps::frame::Token;
use httvps::token::Issuer;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::load::{Row, devices, owner};
use crate::measure::percentile;
use crate::pace::{Progress, milliseconds, rate};
use crate::report::{Goal, HTTVPS, Report};
use crate::site::Site;
use crate::support::control::SEED;

const CONNECTIONS: usize = 16;
const CALLERS: u64 = 40_000;
/// A prime, which spreads callers over all devices.
const STRIDE: u64 = 1_000_003;
const TOKEN_SECONDS: i64 = 3_600;
const WARM_UP: Duration = Duration::from_secs(3);
const TIME: Duration = Duration::from_secs(20);
const PER_SECOND: f64 = 1_500.0;
const P99_MS: f64 = 50.0;

/// Devices that begin sessions, one after the other.
struct Callers<'a> {
    site: &'a Site,
    url: String,
    tokens: Vec<(Uuid, Token)>,
    next: AtomicUsize,
}

pub(crate) async fn run(site: &Site, report: &mut Report) {
    site.sessions(0).await;
    let callers = Callers::new(site);
    let progress = Progress::default();
    let lanes = (0..CONNECTIONS).map(|_| async {
        while progress.goes_on() {
            callers.begin().await;
            progress.add(1);
        }
    });
    let rate = rate(&progress, lanes, WARM_UP, TIME).await;
    report.add("validate_and_assign", HTTVPS, rate, "1/s", Goal::at_least(PER_SECOND));
    let samples = callers.paced(PER_SECOND / 2.0).await;
    report.add("validate_and_assign_p50", HTTVPS, percentile(samples.clone(), 0.5), "ms", Goal::NONE);
    report.add("validate_and_assign_p99", HTTVPS, percentile(samples, 0.99), "ms", Goal::at_most(P99_MS));
}

impl<'a> Callers<'a> {
    fn new(site: &'a Site) -> Self {
        let issuer = Issuer::new(&SEED).unwrap();
        let now = Clock::system().now().unix_timestamp();
        let devices = devices(site.users);
        let tokens = (0..CALLERS.min(devices)).map(|call| {
            let number = 1 + call * STRIDE % devices;
            let (device, user) = (Row::Device.id(number), Row::User.id(owner(number, site.users)));
            (device, Token::from(issuer.issue(device, user, now, TOKEN_SECONDS).unwrap()))
        });
        let url = format!("{}/api/v1/auth/validate-device", site.control.url);
        Self { site, url, tokens: tokens.collect(), next: AtomicUsize::new(0) }
    }

    /// The next device begins a session.
    async fn begin(&self) {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (device_id, access_token) = self.tokens[call % self.tokens.len()].clone();
        let gateway = &self.site.gateways[call % self.site.gateways.len()];
        let request = ValidateDevice {
            device_id,
            access_token,
            region: gateway.region.clone(),
            assign: true,
            session_id: Some(Uuid::now_v7()),
            replaces: None,
            exclude: Vec::new(),
            client_version: Some("1.0.0".into()),
            platform: Some("android".into()),
            support_id: None,
        };
        let sent = self.site.control.http.post(&self.url).bearer_auth(&gateway.token).json(&request).send();
        let response = sent.await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let answer: Validated = response.json().await.unwrap();
        assert!(answer.ok && answer.node.is_some(), "{answer:?}");
    }

    /// Milliseconds from when each request was due until its answer.
    async fn paced(&self, per_second: f64) -> Vec<f64> {
        let (ticks, started) = (AtomicU64::new(0), Instant::now());
        let lanes = (0..CONNECTIONS).map(|_| async {
            let mut samples = Vec::new();
            loop {
                let due = Duration::from_secs_f64(ticks.fetch_add(1, Ordering::Relaxed) as f64 / per_second);
                if due > TIME {
                    return samples;
                }
                sleep_until(started + due).await;
                self.begin().await;
                samples.push(milliseconds(started.elapsed().saturating_sub(due)));
            }
        });
        join_all(lanes).await.concat()
    }
}
