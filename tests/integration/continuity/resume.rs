//! A session goes on over another connection, by whatever transport, and nothing is lost or done twice.

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
use crate::support::deployment::{PATH, World};
use crate::support::destination::{Destination, Manner};
use crate::support::environment::env;
use crate::support::faulty_link::{Loss, Road};
use crate::support::node::AEAD_2022;
use crate::support::process::Process;
use crate::support::raw::{Raw, dial_to, hello, request, upgrade_request};
use crate::support::raw_session::address_of;
use crate::support::second_gateway::Branch;
use crate::support::socks;
use crate::support::transfer::{download, upload_then_half_close};
use crate::support::wait::eventually;

const LEN: usize = 100_000_000;
const CUTS: u64 = 10;
const QUESTIONS: u64 = 300;

/// Counts how often each number was asked for.
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

/// Asks one number after the other, each on a stream of its own.
async fn ask(proxy: String, server: SocketAddr) {
    for number in 0..QUESTIONS {
        let mut socket = socks::connect(&proxy, server).await.unwrap();
        socket.write_u64(number).await.unwrap();
        assert_eq!(socket.read_u64().await.unwrap(), number);
    }
}

/// Waits until a session was taken up so often.
async fn resumes(world: &World, times: u64) {
    eventually(|| async {
        match world.metric("httvps_resumed_total{result=\"resumed\"}").await {
            resumed if resumed == times => Ok(()),
            resumed => Err(format!("{resumed} of {times} times")),
        }
    })
    .await;
}

/// Cuts the line again and again while something is downloaded, and refuses the first connection after each cut, so that the
/// client comes back by the next transport.
async fn cut(world: &World, road: &Road, source: &Destination, refused: usize) {
    for cut in 1..=CUTS {
        let at = cut * LEN as u64 / (CUTS + 1);
        eventually(|| async {
            match source.gave() {
                gave if gave >= at => Ok(()),
                gave => Err(format!("cut {cut}: {gave} of {at} bytes were given")),
            }
        })
        .await;
        road.refuse(refused);
        road.switch(Loss::Reset);
        resumes(world, cut).await;
    }
}

async fn exact(encoding: &str, transports: &str, refused: usize) {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[]).await;
    let road = Road::to(world.gateway().line("gateway").strip_prefix("wss://").unwrap()).await;
    let mut settings = world.client_env_of(&format!("wss://{}{PATH}", road.address), encoding);
    settings.extend(env(&[("CLIENT__TRANSPORT", "auto"), ("CLIENT__TRANSPORTS", transports)]));
    let client = Process::start(&["connect"], &settings).await;
    let proxy = client.line("socks").to_owned();
    let [source, sink] = [Destination::start(Manner::Source), Destination::start(Manner::Sink)];
    let server = Counting::start().await;
    tokio::join!(
        download(&proxy, source.address, LEN),
        upload_then_half_close(&proxy, sink.address, LEN),
        ask(proxy.clone(), server.address),
        cut(&world, &road, &source, refused),
    );
    assert!((0..QUESTIONS).all(|number| server.counts.lock().unwrap().get(&number) == Some(&1)), "nothing runs twice");
    assert_eq!(world.metric("httvps_resumed_total{result=\"resumed\"}").await, CUTS);
    assert_eq!(world.metric("httvps_resumed_total{result=\"unknown\"}").await, 0);
    assert_eq!(world.control.list("sessions").await.len(), 1, "one session everywhere");
    let asked = 8 * QUESTIONS;
    world.settles_at(source.got() + sink.got() + asked, source.gave() + sink.gave() + asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_exact_over_a_line_that_is_cut_and_every_transport_in_turn() {
    exact("v2", r#"["h2", "h2ws", "ws"]"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_exact_in_v1_with_windows() {
    exact("v1", r#"["ws", "h2ws"]"#, 1).await;
}

/// A `hello` that wants to go on with a session.
fn going_on(world: &World, ok: &HelloOk, opened: u32, streams: &[StreamState]) -> Hello {
    let ticket = ok.resume.as_ref().unwrap().ticket.clone();
    Hello { resume: Some(Resume { ticket, opened, streams: streams.to_vec() }), ..asking(world) }
}

fn asking(world: &World) -> Hello {
    Hello { features: Features::NONE.with(Feature::Resume), ..hello(world) }
}

async fn say(world: &World, hello: Hello) -> (Raw, HelloOk) {
    say_at(world, address_of(world.gateway()), hello).await
}

async fn say_at(world: &World, address: &str, hello: Hello) -> (Raw, HelloOk) {
    match answered(world, address, hello).await {
        (raw, Frame::HelloOk(ok)) => (raw, ok),
        (_, other) => panic!("no consent: {other:?}"),
    }
}

async fn answered(world: &World, address: &str, hello: Hello) -> (Raw, Frame) {
    let mut socket = dial_to(address, &world.ca()).await;
    let head = request(&mut socket, &upgrade_request("httvps.v2")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = Raw::new(socket);
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

/// Waits until sessions are live as the control plane knows them, and no others.
async fn live(world: &World, expected: &[&str]) {
    eventually(|| async {
        let rows = world.control.list("sessions").await;
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
async fn a_ticket_serves_once_also_for_a_connection_that_looks_alive() {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let (_alive, first) = say(&world, asking(&world)).await;
    assert!(!is_resumed(&first));
    let (_lost, second) = say(&world, going_on(&world, &first, 0, &[])).await;
    assert!(is_resumed(&second) && second.session_id == first.session_id);
    let (mut third, ok) = say(&world, going_on(&world, &first, 0, &[])).await;
    assert!(is_resumed(&ok), "nobody has shown the next ticket");
    third.frames(&[Frame::Window { id: StreamId(1), consumed: 0, limit: 0 }, Frame::Ping([7; 8])]).await;
    assert_eq!(third.next_frame().await, Frame::Pong([7; 8]));
    for spent in [&first, &second] {
        let (_other, refused) = say(&world, going_on(&world, spent, 0, &[])).await;
        assert!(!is_resumed(&refused) && refused.session_id != first.session_id, "spent");
    }
    let (_last, ok) = say(&world, going_on(&world, &ok, 0, &[])).await;
    assert!(is_resumed(&ok) && ok.session_id == first.session_id);
    assert_eq!(world.metric("httvps_resumed_total{result=\"resumed\"}").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_its_devices_and_void_once_the_device_is_revoked() {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let (raw, first) = say(&world, asking(&world)).await;
    let other = crate::support::subscriber::Subscriber::create(&world.control, json!({})).await;
    let token = httvps::frame::Token::from(other.token.clone());
    let stolen = Hello { device_id: other.device.clone(), access_token: token, ..going_on(&world, &first, 0, &[]) };
    let (_thief, ok) = say(&world, stolen).await;
    assert!(!is_resumed(&ok) && ok.session_id != first.session_id);
    drop(raw);
    eventually(|| async {
        match world.metric("httvps_sessions_held").await {
            1 => Ok(()),
            held => Err(format!("{held} are held")),
        }
    })
    .await;
    world.control.update("devices", &world.subscriber.device, json!({ "status": "revoked" })).await;
    eventually(|| async {
        match world.metric("httvps_sessions_held").await {
            0 => Ok(()),
            held => Err(format!("{held} are held")),
        }
    })
    .await;
    let mut raw = Raw::open(&world, "httvps.v2").await;
    raw.frames(&[Frame::Hello(Box::new(going_on(&world, &first, 0, &[])))]).await;
    assert!(matches!(raw.next_frame().await, Frame::Error { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_side_lacks_is_sent_again_and_what_it_never_had_is_over() {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[]).await;
    let greeter = Destination::start(Manner::Greeter);
    let (mut raw, ok) = say(&world, asking(&world)).await;
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
    let (mut raw, ok) = say(&world, going_on(&world, &ok, 5, &[has])).await;
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
async fn sessions_are_held_for_a_time_and_few_of_them() {
    let more = [("RESUME__HOLD", "2s"), ("RESUME__MAX_HELD", "1")];
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &more).await;
    let (first, ok) = say(&world, asking(&world)).await;
    let (second, _) = say(&world, asking(&world)).await;
    drop(first);
    eventually(|| async {
        match world.metric("httvps_sessions_held").await {
            1 => Ok(()),
            held => Err(format!("{held} are held")),
        }
    })
    .await;
    drop(second);
    eventually(|| async {
        match world.metric("httvps_sessions").await {
            1 => Ok(()),
            open => Err(format!("{open} sessions: the oldest has to make room")),
        }
    })
    .await;
    let (_raw, ok) = say(&world, going_on(&world, &ok, 0, &[])).await;
    assert!(!is_resumed(&ok));
    eventually(|| async {
        match world.metric("httvps_sessions").await {
            1 => Ok(()),
            open => Err(format!("{open} sessions: nobody came back to the second")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_behind_one_address_do_not_confuse_their_tickets() {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({ "max_sessions": 9 }), &[]).await;
    let branch = Branch::start(&world, "other", &[]).await;
    let (first, second) = (address_of(world.gateway()), address_of(branch.process.as_ref().unwrap()));
    let balancer = Balancer::to(first).await;
    let address = balancer.address.to_string();
    let by = async |gateway: &str, hello: Hello| {
        balancer.chosen.send_replace(gateway.to_owned());
        say_at(&world, &address, hello).await
    };
    let (raw, here) = by(first, asking(&world)).await;
    drop(raw);
    let (_there, there) = by(second, going_on(&world, &here, 0, &[])).await;
    assert!(!is_resumed(&there) && there.session_id != here.session_id, "a ticket of another gateway");
    let (raw, again) = by(first, going_on(&world, &here, 0, &[])).await;
    assert!(is_resumed(&again) && again.session_id == here.session_id, "it was not spent elsewhere");
    live(&world, &[&here.session_id, &there.session_id]).await;
    drop(raw);
    let replacing = Hello { replaces: Some(here.session_id.clone()), ..going_on(&world, &again, 0, &[]) };
    let (_raw, new) = by(second, replacing).await;
    assert!(!is_resumed(&new));
    live(&world, &[&there.session_id, &new.session_id]).await;
    let (_raw, other) = by(first, going_on(&world, &again, 0, &[])).await;
    assert!(!is_resumed(&other) && other.session_id != here.session_id, "it was replaced");
    assert_eq!(world.metric("httvps_sessions_held").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_go_on_is_a_hello_that_counts() {
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({}), &[("TUNNEL__HELLOS_PER_MINUTE", "3")]).await;
    let (mut raw, mut ok) = say(&world, asking(&world)).await;
    for _ in 0..2 {
        (raw, ok) = say(&world, going_on(&world, &ok, 0, &[])).await;
        assert!(is_resumed(&ok));
    }
    let (_, refused) = answered(&world, address_of(world.gateway()), going_on(&world, &ok, 0, &[])).await;
    assert!(matches!(refused, Frame::Error { code: SessionCode::Overloaded, .. }), "{refused:?}");
    raw.frames(&[Frame::Ping([7; 8])]).await;
    assert_eq!(raw.next_frame().await, Frame::Pong([7; 8]), "the session is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_during_a_drain_is_told_again() {
    let more = [("GATEWAY__DRAIN_TIMEOUT", "60s")];
    let world = World::build(Kind::Sqlite, &[AEAD_2022], json!({}), &more).await;
    let greeter = Destination::start(Manner::Greeter);
    let (mut raw, ok) = say(&world, asking(&world)).await;
    let target = Some(Target::Ip(greeter.address));
    let open = Frame::Open { id: StreamId(1), target, payload: bytes::Bytes::new(), fin: false, udp: false };
    raw.frames(&[open]).await;
    while !matches!(raw.next_frame().await, Frame::Data { .. }) {}
    world.gateway().signal("-TERM");
    while !matches!(raw.next_frame().await, Frame::GoAway { .. }) {}
    drop(raw);
    let has = StreamState { id: 1, received: 0, fin: false };
    let (mut raw, ok) = say(&world, going_on(&world, &ok, 1, &[has])).await;
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
