use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httvps::frame::SessionCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::clients::Clients;
use crate::fleet::Fleet;
use crate::load::Row;
use crate::measure::percentile;
use crate::pace::{in_time, milliseconds};
use crate::report::{Goal, HTTVPS, Report};
use crate::site::Site;
use crate::support::control::id;

const SESSIONS: u64 = 2_000;
const TIMES: u64 = 200;
const STRIDE: u64 = 997;
const CHANGES: usize = 60;
const P99_MS: f64 = 1_000.0;
const ALL_ACKED_PERCENT: f64 = 99.0;

struct Change {
    method: Method,
    path: String,
    body: Value,
    code: SessionCode,
}

impl Change {
    fn nth(time: u64, number: u64, session: &str) -> Self {
        let patch = |path, status| (Method::PATCH, path, json!({ "status": status }));
        let ((method, path, body), code) = match time % 3 {
            0 => (patch(format!("users/{}", Row::User.id(number)), "banned"), SessionCode::UserBanned),
            1 => (patch(format!("devices/{}", Row::Device.id(number)), "revoked"), SessionCode::DeviceBanned),
            _ => ((Method::DELETE, format!("sessions/{session}"), Value::Null), SessionCode::SessionKilled),
        };
        Self { method, path, body, code }
    }
}

pub(crate) async fn run(site: &Site, report: &mut Report) {
    site.sessions(0).await;
    let fleet = Fleet::start(site).await;
    let count = SESSIONS.min(site.users);
    let mut clients = Clients::open(site, &fleet, count).await;
    let (mut delays, mut answers, mut in_full) = (Vec::new(), Vec::new(), 0.0);
    for time in 0..TIMES.min(count) {
        let number = 1 + time * STRIDE % count;
        let Change { method, path, body, code } = Change::nth(time, number, clients.session(number));
        let started = Instant::now();
        let answer = in_time("an administrator is answered", site.control.admin(method, &path, body)).await;
        answers.push(milliseconds(started.elapsed()));
        let end = clients.next_end().await;
        assert_eq!((end.number, end.why), (number, Ok(code)), "{path}");
        delays.push(milliseconds(end.at - started));
        let delivery = &answer["delivery"];
        assert_eq!(delivery["of"], json!(site.gateways.len()), "{answer}");
        in_full += if delivery["acked"] == delivery["of"] { 1.0 } else { 0.0 };
    }
    let in_full = 100.0 * in_full / answers.len() as f64;
    let changes = changes(site, &fleet).await;
    report.add("revocation_p50", HTTVPS, percentile(delays.clone(), 0.5), "ms", Goal::NONE);
    report.add("revocation_p99", HTTVPS, percentile(delays, 0.99), "ms", Goal::at_most(P99_MS));
    report.add("change_acted_on_p50", HTTVPS, percentile(changes.clone(), 0.5), "ms", Goal::NONE);
    report.add("change_acted_on_p99", HTTVPS, percentile(changes, 0.99), "ms", Goal::at_most(P99_MS));
    report.add("revocation_answer_p99", HTTVPS, percentile(answers, 0.99), "ms", Goal::NONE);
    report.add("revocation_acked_by_all", HTTVPS, in_full, "%", Goal::at_least(ALL_ACKED_PERCENT));
}

/// Milliseconds until all gateways have acted on changes of a plan, a node and its password.
async fn changes(site: &Site, fleet: &Fleet) -> Vec<f64> {
    let plans = site.control.list("plans").await;
    let mut samples = Vec::new();
    for time in 0..CHANGES {
        let state = if time % 2 == 0 { "draining" } else { "active" };
        let password = BASE64_STANDARD.encode([time as u8; 32]);
        let node = format!("nodes/{}", fleet.row);
        let (method, path, body) = match time % 3 {
            0 => {
                let plan = id(&plans[time % plans.len()]);
                (Method::PATCH, format!("plans/{plan}"), json!({ "rate_limit_mbps": 100 + time }))
            }
            1 => (Method::PATCH, node, json!({ "state": state })),
            _ => (Method::POST, node + "/password", json!({ "password": password })),
        };
        let started = Instant::now();
        let answer = in_time("a change is acted on", site.control.admin(method, &path, body)).await;
        samples.push(milliseconds(started.elapsed()));
        let delivery = &answer["delivery"];
        assert_eq!(delivery["acked"], delivery["of"], "{path}: {answer}");
    }
    samples
}
