use std::time::Duration;

use httvps::api::{UsageReport, UsageReports, UsageVerdicts};
use httvps::clock::Clock;
use reqwest::Client;

use crate::load::{LEASE, Row, is_limited};
use crate::pace::{Progress, rate};
use crate::report::{Goal, HTTVPS, Report};
use crate::site::Site;

const SESSIONS: u64 = 100_000;
const BATCH: usize = 1_000;
const CONNECTIONS: usize = 4;
const WARM_UP: Duration = Duration::from_secs(3);
const TIME: Duration = Duration::from_secs(20);
const SESSIONS_PER_SECOND: f64 = 15_000.0;
const UP: u64 = 100_000;
const DOWN: u64 = 1_000_000;

/// A gateway's next report.
struct Batch {
    token: String,
    reports: Vec<UsageReport>,
}

pub(crate) async fn run(site: &Site, report: &mut Report) {
    let sessions = SESSIONS.min(site.users);
    site.sessions(sessions).await;
    let mut lanes: Vec<Vec<Batch>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for (index, gateway) in site.gateways.iter().enumerate() {
        let mine: Vec<u64> = (1..=sessions).filter(|session| site.gateway_of(*session) == index).collect();
        for numbers in mine.chunks(BATCH) {
            let reports = numbers.iter().map(|number| first(*number)).collect();
            lanes[index % CONNECTIONS].push(Batch { token: gateway.token.clone(), reports });
        }
    }
    let url = format!("{}/api/v1/usage/report", site.control.url);
    let progress = Progress::default();
    let lanes = lanes.into_iter().map(|batches| lane(&site.control.http, &url, batches, &progress));
    let rate = rate(&progress, lanes, WARM_UP, TIME).await;
    report.add("usage_in_batches", HTTVPS, rate, "sessions/s", Goal::at_least(SESSIONS_PER_SECOND));
}

fn first(number: u64) -> UsageReport {
    UsageReport {
        gateway_id: None,
        device_id: Row::Device.id(number),
        session_id: Row::Session.id(number),
        bytes_up: 0,
        bytes_down: 0,
        started_at: Clock::system().now() - time::Duration::hours(1),
        ended_at: None,
        access_token: None,
        allowed: is_limited(number).then_some(LEASE),
        asks: false,
        silent_ms: None,
        leaving: false,
    }
}

async fn lane(http: &Client, url: &str, mut batches: Vec<Batch>, progress: &Progress) {
    while progress.goes_on() {
        for batch in &mut batches {
            if progress.goes_on() {
                batch.send(http, url).await;
                progress.add(batch.reports.len() as u64);
            }
        }
    }
}

impl Batch {
    async fn send(&mut self, http: &Client, url: &str) {
        for report in &mut self.reports {
            report.bytes_up += UP;
            report.bytes_down += DOWN;
        }
        let body = UsageReports::Batch { reports: self.reports.clone() };
        let response = http.post(url).bearer_auth(&self.token).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let verdicts: UsageVerdicts = response.json().await.unwrap();
        assert_eq!(verdicts.sessions.len(), self.reports.len());
        for (report, verdict) in self.reports.iter_mut().zip(verdicts.sessions) {
            assert!(verdict.go_on && verdict.session_id == report.session_id, "{verdict:?}");
            if let Some(lease) = verdict.lease {
                report.allowed = Some(lease.allowed);
            }
        }
    }
}
