//! A session resumes over another connection, by any transport, and nothing is lost or repeated.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use httvps::frame::{
    Feature, Features, Frame, Hello, HelloOk, Notice, Resume, SessionCode, StreamId, StreamState, Target,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::support::balancer::Balancer;
use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH, gateway_address};
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::faulty_link::{FaultyLink, Loss};
use crate::support::node::AEAD_2022;
use crate::support::process::Process;
use crate::support::raw::{RawClient, dial_to, hello, request, upgrade_request};
use crate::support::second_gateway::SecondGateway;
use crate::support::socks;
use crate::support::transfer::{download, upload_then_half_close};
use crate::support::wait::eventually;

const LEN: usize = 100_000_000;
const CUTS: u64 = 10;
const QUESTIONS: u64 = 300;

/// A server that counts how often each number was requested.
struct Counting {
    address: SocketAddr,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
    task: AbortHandle,
}

impl Counting {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts: Arc<Mutex<HashMap<u64, usize>>> = Arc::default();
        let known = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let known = Arc::clone(&known);
                tokio::spawn(async move {
                    let number = socket.read_u64().await?;
                    *known.lock().unwrap().entry(number).or_default() += 1;
                    socket.write_u64(number).await
                });
            }
        });
        Self { address, counts, task: task.abort_handle() }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests numbers one after the other, each on its own stream.
async fn ask(proxy: String, server: SocketAddr) {
    for number in 0..QUESTIONS {
        let mut socket = socks::connect(&proxy, server).await.unwrap();
        socket.write_u64(number).await.unwrap();
        assert_eq!(socket.read_u64().await.unwrap(), number);
    }
}

/// Waits until sessions were resumed this many times.
async fn resumes(deployment: &Deployment, times: u64) {
    eventually(|| async {
        match deployment.metric("httvps_resumed_total{result=\"resumed\"}").await {
            resumed if resumed == times => Ok(()),
            resumed => Err(format!("{resumed} of {times} times")),
        }
    })
    .await;
}

/// Cuts the link repeatedly during a download and refuses the first connection after each cut, so that the
/// client falls back to the next transport.
async fn cut(deployment: &Deployment, link: &FaultyLink, source: &Destination, refused: usize) {
    for cut in 1..=CUTS {
        let at = cut * LEN as u64 / (CUTS + 1);
        eventually(|| async {
            match source.gave() {
                gave if gave >= at => Ok(()),
                gave => Err(format!("cut {cut}: {gave} of {at} bytes were given")),
            }
        })
        .await;
        link.refuse(refused);
        link.switch(Loss::Reset);
        resumes(deployment, cut).await;
    }
}

async fn exact(encoding: &str, transports: &str, refused: usize) {
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[]).await;
    let link = FaultyLink::to(deployment.address()).await;
    let mut settings = deployment.client_env_of(&format!("wss://{}{PATH}", link.address), encoding);
    settings.extend(env(&[("CLIENT__TRANSPORT", "auto"), ("CLIENT__TRANSPORTS", transports)]));
    let client = Process::start(&["connect"], &settings).await;
    let proxy = client.line("socks").to_owned();
    let [source, sink] = [Destination::start(Behavior::Source), Destination::start(Behavior::Sink)];
    let server = Counting::start().await;
    tokio::join!(
        download(&proxy, source.address, LEN),
        upload_then_half_close(&proxy, sink.address, LEN),
        ask(proxy.clone(), server.address),
        cut(&deployment, &link, &source, refused),
    );
    assert!((0..QUESTIONS).all(|number| server.counts.lock().unwrap().get(&number) == Some(&1)), "nothing runs twice");
    assert_eq!(deployment.metric("httvps_resumed_total{result=\"resumed\"}").await, CUTS);
    assert_eq!(deployment.metric("httvps_resumed_total{result=\"unknown\"}").await, 0);
    assert_eq!(deployment.control.list("sessions").await.len(), 1, "one session everywhere");
    let asked = 8 * QUESTIONS;
    deployment.totals_are(source.got() + sink.got() + asked, source.gave() + sink.gave() + asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_exact_over_cut_links_with_every_transport_in_turn() {
    exact("v2", r#"["h2", "h2ws", "ws"]"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_exact_in_v1_with_windows() {
    exact("v1", r#"["ws", "h2ws"]"#, 1).await;
}

/// A `hello` that asks to resume a session.
fn going_on(deployment: &Deployment, ok: &HelloOk, opened: u32, streams: &[StreamState]) -> Hello {
    let ticket = ok.resume.as_ref().unwrap().ticket.clone();
    Hello { resume: Some(Resume { ticket, opened, streams: streams.to_vec() }), ..asking(deployment) }
}

fn asking(deployment: &Deployment) -> Hello {
    Hello { features: Features::NONE.with(Feature::Resume), ..hello(deployment) }
}

async fn say(deployment: &Deployment, hello: Hello) -> (RawClient, HelloOk) {
    say_at(deployment, deployment.address(), hello).await
}

async fn say_at(deployment: &Deployment, address: &str, hello: Hello) -> (RawClient, HelloOk) {
    match answered(deployment, address, hello).await {
        (raw, Frame::HelloOk(ok)) => (raw, ok),
        (_, other) => panic!("no consent: {other:?}"),
    }
}

async fn answered(deployment: &Deployment, address: &str, hello: Hello) -> (RawClient, Frame) {
    let mut socket = dial_to(address, &deployment.ca()).await;
    let head = request(&mut socket, &upgrade_request("httvps.v2")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = RawClient::new(socket);
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

/// Waits until exactly these sessions are live in the control plane.
async fn live(deployment: &Deployment, expected: &[&str]) {
    eventually(|| async {
        let rows = deployment.control.list("sessions").await;
        let mut live: Vec<_> = rows.iter().filter(|row| row["ended_at"].is_null()).map(id).collect();
        let mut expected = expected.to_vec();
        live.sort_unstable();
        expected.sort_unstable();
        if live == expected { Ok(()) } else { Err(format!("{live:?} are live, not {expected:?}")) }
    })
    .await;
}

fn is_resumed(ok: &HelloOk) -> bool {
    ok.resume.as_ref().unwrap().resumed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_works_once_even_for_a_connection_that_looks_alive() {
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let (_alive, first) = say(&deployment, asking(&deployment)).await;
    assert!(!is_resumed(&first));
    let (_lost, second) = say(&deployment, going_on(&deployment, &first, 0, &[])).await;
    assert!(is_resumed(&second) && second.session_id == first.session_id);
    let (mut third, ok) = say(&deployment, going_on(&deployment, &first, 0, &[])).await;
    assert!(is_resumed(&ok), "nobody has shown the next ticket");
    third.frames(&[Frame::Window { id: StreamId(1), consumed: 0, limit: 0 }, Frame::Ping([7; 8])]).await;
    assert_eq!(third.next_frame().await, Frame::Pong([7; 8]));
    for spent in [&first, &second] {
        let (_other, refused) = say(&deployment, going_on(&deployment, spent, 0, &[])).await;
        assert!(!is_resumed(&refused) && refused.session_id != first.session_id, "spent");
    }
    let (_last, ok) = say(&deployment, going_on(&deployment, &ok, 0, &[])).await;
    assert!(is_resumed(&ok) && ok.session_id == first.session_id);
    assert_eq!(deployment.metric("httvps_resumed_total{result=\"resumed\"}").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_bound_to_its_device_and_void_after_revocation() {
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let (raw, first) = say(&deployment, asking(&deployment)).await;
    let other = crate::support::subscriber::Subscriber::create(&deployment.control, json!({})).await;
    let token = httvps::frame::Token::from(other.token.clone());
    let stolen =
        Hello { device_id: other.device.clone(), access_token: token, ..going_on(&deployment, &first, 0, &[]) };
    let (_thief, ok) = say(&deployment, stolen).await;
    assert!(!is_resumed(&ok) && ok.session_id != first.session_id);
    drop(raw);
    deployment.metric_is("httvps_sessions_held", 1).await;
    deployment.control.update("devices", &deployment.subscriber.device, json!({ "status": "revoked" })).await;
    deployment.metric_is("httvps_sessions_held", 0).await;
    let mut raw = RawClient::open(&deployment, "httvps.v2").await;
    raw.frames(&[Frame::Hello(Box::new(going_on(&deployment, &first, 0, &[])))]).await;
    assert!(matches!(raw.next_frame().await, Frame::Error { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_data_is_resent_and_unknown_streams_end() {
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[]).await;
    let greeter = Destination::start(Behavior::Greeter);
    let (mut raw, ok) = say(&deployment, asking(&deployment)).await;
    let open = |id| Frame::Open {
        id: StreamId(id),
        target: Some(Target::Ip(greeter.address)),
        payload: bytes::Bytes::new(),
        fin: false,
        udp: false,
    };
    raw.frames(&[open(1), open(3)]).await;
    let mut got = HashMap::new();
    while got.len() < 2 {
        if let Frame::Data { id, payload, .. } = raw.next_frame().await {
            got.insert(id, payload);
        }
    }
    drop(raw);
    let has = StreamState { id: 1, received: 4, fin: false };
    let (mut raw, ok) = say(&deployment, going_on(&deployment, &ok, 5, &[has])).await;
    let told = ok.resume.unwrap();
    assert_eq!((told.opened, told.streams.iter().map(|state| state.id).collect::<Vec<_>>()), (3, vec![1]));
    raw.frames(&[open(5)]).await;
    let mut again = HashMap::new();
    while again.len() < 2 {
        if let Frame::Data { id, payload, .. } = raw.next_frame().await {
            again.insert(id, payload);
        }
    }
    assert_eq!(again[&StreamId(1)], got[&StreamId(1)].slice(4..));
    assert_eq!(again[&StreamId(5)], got[&StreamId(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_sessions_are_limited_in_time_and_number() {
    let more = [("RESUME__HOLD", "2s"), ("RESUME__MAX_HELD", "1")];
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &more).await;
    let (first, ok) = say(&deployment, asking(&deployment)).await;
    let (second, _) = say(&deployment, asking(&deployment)).await;
    drop(first);
    deployment.metric_is("httvps_sessions_held", 1).await;
    drop(second);
    deployment.metric_is("httvps_sessions", 1).await;
    let (_raw, ok) = say(&deployment, going_on(&deployment, &ok, 0, &[])).await;
    assert!(!is_resumed(&ok));
    deployment.metric_is("httvps_sessions", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_behind_one_address_do_not_confuse_their_tickets() {
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let second_gateway = SecondGateway::start(&deployment, "other", &[]).await;
    let (first, second) = (deployment.address(), gateway_address(second_gateway.process.as_ref().unwrap()));
    let balancer = Balancer::to(first).await;
    let address = balancer.address.to_string();
    let by = async |gateway: &str, hello: Hello| {
        balancer.chosen.send_replace(gateway.to_owned());
        say_at(&deployment, &address, hello).await
    };
    let (raw, here) = by(first, asking(&deployment)).await;
    drop(raw);
    let (_there, there) = by(second, going_on(&deployment, &here, 0, &[])).await;
    assert!(!is_resumed(&there) && there.session_id != here.session_id, "a ticket of another gateway");
    let (raw, again) = by(first, going_on(&deployment, &here, 0, &[])).await;
    assert!(is_resumed(&again) && again.session_id == here.session_id, "it was not spent elsewhere");
    live(&deployment, &[&here.session_id, &there.session_id]).await;
    drop(raw);
    let replacing = Hello { replaces: Some(here.session_id.clone()), ..going_on(&deployment, &again, 0, &[]) };
    let (_raw, new) = by(second, replacing).await;
    assert!(!is_resumed(&new));
    live(&deployment, &[&there.session_id, &new.session_id]).await;
    let (_raw, other) = by(first, going_on(&deployment, &again, 0, &[])).await;
    assert!(!is_resumed(&other) && other.session_id != here.session_id, "it was replaced");
    assert_eq!(deployment.metric("httvps_sessions_held").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumption_counts_as_a_hello() {
    let deployment =
        Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[("TUNNEL__HELLOS_PER_MINUTE", "3")]).await;
    let (mut raw, mut ok) = say(&deployment, asking(&deployment)).await;
    for _ in 0..2 {
        (raw, ok) = say(&deployment, going_on(&deployment, &ok, 0, &[])).await;
        assert!(is_resumed(&ok));
    }
    let (_, refused) = answered(&deployment, deployment.address(), going_on(&deployment, &ok, 0, &[])).await;
    assert!(matches!(refused, Frame::Error { code: SessionCode::Overloaded, .. }), "{refused:?}");
    raw.frames(&[Frame::Ping([7; 8])]).await;
    assert_eq!(raw.next_frame().await, Frame::Pong([7; 8]), "the session is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resumes_during_a_drain_is_told_again() {
    let more = [("GATEWAY__DRAIN_TIMEOUT", "60s")];
    let deployment = Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &more).await;
    let greeter = Destination::start(Behavior::Greeter);
    let (mut raw, ok) = say(&deployment, asking(&deployment)).await;
    let target = Some(Target::Ip(greeter.address));
    let open = Frame::Open { id: StreamId(1), target, payload: bytes::Bytes::new(), fin: false, udp: false };
    raw.frames(&[open]).await;
    while !matches!(raw.next_frame().await, Frame::Data { .. }) {}
    deployment.gateway().signal("-TERM");
    while !matches!(raw.next_frame().await, Frame::GoAway { .. }) {}
    drop(raw);
    let has = StreamState { id: 1, received: 0, fin: false };
    let (mut raw, ok) = say(&deployment, going_on(&deployment, &ok, 1, &[has])).await;
    assert!(is_resumed(&ok));
    let mut told = (false, false);
    while told != (true, true) {
        match raw.next_frame().await {
            Frame::GoAway { .. } => told.0 = true,
            Frame::Notice(Notice::Maintenance { .. }) => told.1 = true,
            _ => {}
        }
    }
}
