use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::load::Row;
use crate::measure::{in_lanes, resident_kib};
use crate::pace::milliseconds;
use crate::report::{Goal, HTTVPS, Report};
use crate::site::Site;
use crate::support::event_follower::Follower;
use crate::support::wait::TIMEOUT;

const STREAMS: usize = 10_000;
const LANES: usize = 32;
const SETTLE: Duration = Duration::from_secs(3);
const KIB_OF_A_MIB: f64 = 1_024.0;
const MIB: f64 = 1_024.0;

pub(crate) async fn run(site: &Site, report: &mut Report) {
    let (url, http) = (&site.control.url, &site.control.http);
    site.sessions(0).await;
    let first = &site.gateways[0];
    let newest = Follower::open(http, url, &first.token, None).await.next().await.unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let head = |token: &str| {
        let path = format!("/api/v1/gateway/events?after={}&epoch={}", newest.seq, newest.epoch);
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    let heads: Vec<String> = site.gateways.iter().map(|gateway| head(&gateway.token)).collect();
    let next = AtomicUsize::new(0);
    let before = resident_kib(site.pid()) / KIB_OF_A_MIB;
    let mut streams = in_lanes(STREAMS, LANES, || async {
        let head = &heads[next.fetch_add(1, Ordering::Relaxed) % heads.len()];
        quiet_stream(address, head).await
    })
    .await;
    sleep(SETTLE).await;
    let after = resident_kib(site.pid()) / KIB_OF_A_MIB;
    report.add("idle_event_streams", HTTVPS, after, "MiB", Goal::at_most(MIB));
    report.add("idle_event_stream", HTTVPS, (after - before) * KIB_OF_A_MIB / STREAMS as f64, "KiB", Goal::NONE);
    let user = Row::User.id(site.users).to_string();
    let started = Instant::now();
    let told = async {
        for stream in &mut streams {
            hears_of(stream, &user).await;
        }
        milliseconds(started.elapsed())
    };
    let path = format!("users/{user}");
    let ban = site.control.admin(Method::PATCH, &path, json!({ "status": "banned" }));
    let (_, told) = tokio::join!(ban, told);
    report.add("all_event_streams_told", HTTVPS, told, "ms", Goal::NONE);
    site.control.admin(Method::PATCH, &path, json!({ "status": "active" })).await;
}

/// A stream before its first event.
async fn quiet_stream(address: &str, head: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut socket, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    socket
}

async fn hears_of(socket: &mut TcpStream, subject: &str) {
    read_until(socket, subject).await;
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match timeout(TIMEOUT, socket.read(&mut buffer)).await.expect("something comes").unwrap() {
            0 => panic!("the stream ended: {}", String::from_utf8_lossy(&read)),
            count => read.extend_from_slice(&buffer[..count]),
        }
        let text = String::from_utf8_lossy(&read);
        if text.contains(end) {
            return text.into_owned();
        }
    }
}
