use std::collections::HashSet;
use std::time::Instant;

use httvps::api::EventAck;
use reqwest::{Client, Method};
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;
use uuid::Uuid;

use crate::follower::Follower;
use crate::load::Row;
use crate::measure::percentile;
use crate::pace::milliseconds;
use crate::process::PATIENCE;
use crate::report::{Goal, HTTVPS, Report};
use crate::site::Site;

const SESSIONS: u64 = 2_000;
const TIMES: u64 = 200;
/// A prime, so that every gateway has its turn.
const STRIDE: u64 = 997;
const P99_MS: f64 = 1_000.0;
const ALL_ACKED_PERCENT: f64 = 99.0;
const SIGHTS: usize = 65_536;

/// A gateway learnt of something; nothing in particular is a snapshot.
struct Sight {
    gateway: usize,
    subject: Option<Uuid>,
    at: Instant,
}

pub(crate) async fn run(site: &Site, report: &mut Report) {
    let sessions = SESSIONS.min(site.users);
    site.sessions(sessions).await;
    let (sender, mut sights) = channel(SIGHTS);
    let mut gateways = tokio::task::JoinSet::new();
    for (index, gateway) in site.gateways.iter().enumerate() {
        let (http, url, token) = (site.control.http.clone(), site.control.url.clone(), gateway.token.clone());
        gateways.spawn(stand_in(http, url, token, index, sender.clone()));
    }
    let mut following = HashSet::new();
    while following.len() < site.gateways.len() {
        following.insert(next(&mut sights).await.gateway);
    }
    let (mut delays, mut answers, mut in_full) = (Vec::new(), Vec::new(), 0.0);
    for time in 0..TIMES {
        let session = 1 + time * STRIDE % sessions;
        let (path, change, subject) = match time % 2 {
            0 => ("users", "banned", Row::User.id(session)),
            _ => ("devices", "revoked", Row::Device.id(session)),
        };
        let started = Instant::now();
        let path = format!("{path}/{subject}");
        let answer = site.control.admin(Method::PATCH, &path, json!({ "status": change })).await;
        answers.push(milliseconds(started.elapsed()));
        let seen = loop {
            let sight = next(&mut sights).await;
            if sight.subject == Some(subject) && sight.gateway == site.gateway_of(session) {
                break sight.at;
            }
        };
        delays.push(milliseconds(seen - started));
        let delivery = &answer["delivery"];
        assert_eq!(delivery["of"], json!(site.gateways.len()), "{answer}");
        in_full += if delivery["acked"] == delivery["of"] { 1.0 } else { 0.0 };
    }
    report.add("revocation_p50", HTTVPS, percentile(delays.clone(), 0.5), "ms", Goal::NONE);
    report.add("revocation_p99", HTTVPS, percentile(delays, 0.99), "ms", Goal::at_most(P99_MS));
    report.add("revocation_answer_p99", HTTVPS, percentile(answers, 0.99), "ms", Goal::NONE);
    let in_full = 100.0 * in_full / TIMES as f64;
    report.add("revocation_acked_by_all", HTTVPS, in_full, "%", Goal::at_least(ALL_ACKED_PERCENT));
}

async fn next(sights: &mut Receiver<Sight>) -> Sight {
    timeout(PATIENCE, sights.recv()).await.expect("gateways hear of it").expect("they go on")
}

/// Follows events and acknowledges them, as a gateway that has nothing else to do.
async fn stand_in(http: Client, url: String, token: String, gateway: usize, sights: Sender<Sight>) {
    let mut follower = Follower::open(&http, &url, &token, None).await;
    let ack = format!("{url}/api/v1/gateway/events/ack");
    while let Some(event) = follower.next().await {
        if sights.send(Sight { gateway, subject: event.subject, at: Instant::now() }).await.is_err() {
            return;
        }
        let done = EventAck { epoch: event.epoch, seq: event.seq };
        let acked = http.post(&ack).bearer_auth(&token).json(&done).send().await.unwrap();
        assert!(acked.status().is_success(), "{acked:?}");
    }
}
