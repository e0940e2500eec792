//! Quotas hold to the byte over many gateways, and without the control plane.

use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Frame, Hello, SessionCode, StreamId, Target, Token};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::database::Kind;
use crate::destination::{Destination, Manner};
use crate::node::CHACHA;
use crate::process::{Process, eventually};
use crate::raw::{Raw, hello};
use crate::socks;
use crate::world::{Env, Subscriber, World, env, free_port, register_gateway};

/// What each gateway may overshoot by: what is in flight while it decides.
pub(crate) const IN_FLIGHT: u64 = 4 * 65_536;
const STREAMS: usize = 20;
const TOGETHER: Duration = Duration::from_secs(10);

/// One more gateway of a world.
pub(crate) struct Branch {
    pub(crate) id: String,
    pub(crate) env: Env,
    pub(crate) process: Option<Process>,
    state: tempfile::TempDir,
}

impl Branch {
    pub(crate) async fn start(world: &World, name: &str, more: &[(&str, &str)]) -> Self {
        let (id, token) = register_gateway(&world.control, name).await;
        let state = tempfile::tempdir().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let mut env = world.gateway_env.clone();
        env.extend(self::env(&[
            ("GATEWAY__LISTEN", &listen),
            ("GATEWAY__TOKEN", &token),
            ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
        ]));
        env.extend(self::env(more));
        let mut branch = Self { id, env, process: None, state };
        branch.resume(world).await;
        branch
    }

    /// Starts the process, again at the same address.
    pub(crate) async fn resume(&mut self, world: &World) {
        let process = Process::start(&["serve-gateway"], &self.env).await;
        let ready = format!("{}/readyz", process.line("ops-gateway"));
        eventually(|| async {
            let response = world.control.http.get(&ready).send().await.map_err(|error| error.to_string())?;
            if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap()) }
        })
        .await;
        self.process = Some(process);
    }

    /// What a client of this gateway is started with.
    pub(crate) fn client_env(&self, world: &World) -> Env {
        let url = self.process.as_ref().unwrap().line("gateway");
        let mut env = world.client_env("v2");
        env.extend(self::env(&[("CLIENT__GATEWAY", &format!("{url}{}", crate::world::PATH))]));
        env
    }
}

/// Opens a stream and reads until it ends; gives how much came.
async fn drained(proxy: String, endless: std::net::SocketAddr) -> u64 {
    let Ok(mut socket) = socks::connect(&proxy, endless).await else { return 0 };
    if socket.write_all(b"x").await.is_err() {
        return 0;
    }
    drain(socket).await
}

pub(crate) async fn drain(mut socket: TcpStream) -> u64 {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        total += read as u64;
    }
    total
}

/// Lets clients stream flat out until each is refused with `LIMIT_REACHED`; gives what came and when each ended.
pub(crate) async fn spend(clients: Vec<Process>, endless: &Destination) -> (u64, Vec<Instant>) {
    let mut reading = tokio::task::JoinSet::new();
    for client in &clients {
        for _ in 0..STREAMS {
            reading.spawn(drained(client.line("socks").to_owned(), endless.address));
        }
    }
    let ends = clients.into_iter().map(|client| async move {
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        Instant::now()
    });
    let ends = futures_util::future::join_all(ends).await;
    (reading.join_all().await.into_iter().sum(), ends)
}

/// Waits until no session is open; gives what the control plane has counted.
pub(crate) async fn counted(world: &World) -> u64 {
    eventually(|| async {
        let sessions = world.control.list("sessions").await;
        let open = sessions.iter().filter(|session| session["state"] != "ended").count();
        let (up, down) = world.totals().await;
        if open == 0 { Ok(up + down) } else { Err(format!("{open} open sessions, {} bytes", up + down)) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_flat_out_do_not_exceed_a_limit_and_a_top_up_lets_the_user_back() {
    let limit = 100_000_000;
    let plan = json!({ "traffic_limit_gb": 0.1 });
    let world = World::build(Kind::Postgres, &[CHACHA], plan, &[]).await;
    let branches = [Branch::start(&world, "second", &[]).await, Branch::start(&world, "third", &[]).await];
    let mut envs = vec![world.client_env("v2")];
    envs.extend(branches.iter().map(|branch| branch.client_env(&world)));
    let endless = Destination::start(Manner::Endless);
    let mut clients = Vec::new();
    for env in &envs {
        clients.push(Process::start(&["connect"], env).await);
    }
    let (delivered, ends) = spend(clients, &endless).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last - *first <= TOGETHER, "{:?} between the first and the last", *last - *first);
    let total = counted(&world).await;
    assert!(delivered <= total, "{delivered} of {total}");
    assert!(total <= limit + 3 * IN_FLIGHT, "{total}");
    assert!(total >= limit - limit / 10, "what was lent and not used was not lost: {total}");
    for env in &envs {
        let refused = Process::try_start(&["connect"], env).await.err().expect("the next hello is refused");
        assert!(refused.stderr.contains("error: LIMIT_REACHED"), "{}", refused.stderr);
    }
    let top_up = json!({ "gb": 0.05, "payment_id": "payment-1" });
    let path = format!("subscriptions/{}/top-up", world.subscriber.subscription);
    for _ in 0..2 {
        world.control.create(&path, top_up.clone()).await;
    }
    let mut back = Vec::new();
    for env in &envs {
        back.push(Process::start(&["connect"], env).await);
    }
    spend(back, &endless).await;
    let total = counted(&world).await;
    assert!(total <= limit + 50_000_000 + 3 * IN_FLIGHT, "the payment acts once: {total}");
    assert!(total >= limit + 40_000_000, "{total}");
}

/// Sends until the stream ends.
async fn poured(proxy: String, sink: std::net::SocketAddr) {
    let Ok(mut socket) = socks::connect(&proxy, sink).await else { return };
    let chunk = vec![7; 65_536];
    while socket.write_all(&chunk).await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_use_a_quota_up_and_do_not_exceed_it() {
    let (limit, streams) = (2_000_000, 8);
    for encoding in ["v1", "v2"] {
        let world = World::build(Kind::Sqlite, &[CHACHA], json!({ "traffic_limit_gb": 0.002 }), &[]).await;
        let sink = Destination::start(Manner::Discard);
        let client = world.connect(encoding).await;
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..streams {
            sending.spawn(poured(client.line("socks").to_owned(), sink.address));
        }
        let ended = client.ended().await;
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        sending.join_all().await;
        let total = counted(&world).await;
        assert!((limit..=limit + streams * 65_536).contains(&total), "{encoding}: {total}");
        assert!(sink.got() <= total, "{encoding}: {} of {total}", sink.got());
    }
}

/// A session on which nothing was asked for yet.
pub(crate) async fn enter(world: &World, subscriber: &Subscriber) -> (Raw, Frame) {
    let mut raw = Raw::open(world, "httvps.v2").await;
    let token = Token::from(subscriber.token.clone());
    let hello = Hello { device_id: subscriber.device.clone(), access_token: token, ..hello(world) };
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

pub(crate) async fn open(raw: &mut Raw, id: u32, destination: &Destination, payload: Vec<u8>) {
    let (id, target) = (StreamId(id), Some(Target::Ip(destination.address)));
    let open = Frame::Open { id, target, payload: Bytes::from(payload), fin: false, udp: false };
    raw.frames(&[open, Frame::Window { id, consumed: 0, limit: u64::MAX }]).await;
}

/// Reads a stream's bytes until it or the session ends; gives how many came and the session's code.
pub(crate) async fn read(raw: &mut Raw) -> (u64, Option<SessionCode>) {
    let mut got = 0;
    loop {
        match raw.next_frame().await {
            Frame::Data { payload, fin, .. } => {
                got += payload.len() as u64;
                if fin {
                    return (got, None);
                }
            }
            Frame::Error { code, .. } => return (got, Some(code)),
            _ => {}
        }
    }
}

/// Waits until the control plane has what the gateway has moved.
pub(crate) async fn settles(world: &World) {
    let moved = async |direction: &str| world.metric(&format!("httvps_bytes_total{{direction=\"{direction}\"}}")).await;
    eventually(|| async {
        let (ours, theirs) = ((moved("up").await, moved("down").await), world.totals().await);
        if ours == theirs { Ok(()) } else { Err(format!("{theirs:?} instead of {ours:?}")) }
    })
    .await;
}

const LEASE: u64 = 8 << 20;
const FAIL_OPEN: u64 = 5_000_000;

/// A world whose leases are short and small; its control plane can be killed.
async fn world_of_leases(kind: Kind) -> World {
    let plan = json!({ "traffic_limit_gb": 10, "fail_open_mb": 5 });
    let mut world = World::build(kind, &[CHACHA], plan, &[]).await;
    world.control.kill().await;
    let short = [("SESSIONS__SESSION_TTL", "3s"), ("SESSIONS__RESERVATION_TTL", "3s"), ("LEASES__MAX", "8 MiB")];
    world.control.env.extend(env(&short));
    world.control.resume().await;
    world.gateway.take().unwrap().stop().await;
    world.start_gateway().await;
    world
}

async fn control_plane_away(kind: Kind) {
    let mut world = world_of_leases(kind).await;
    let (endless, source) = (Destination::start(Manner::Endless), Destination::start(Manner::Source));
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1000, None));
    settles(&world).await;
    world.control.kill().await;
    open(&mut raw, 3, &endless, b"x".to_vec()).await;
    let (got, code) = read(&mut raw).await;
    assert_eq!(code, Some(SessionCode::ControlUnavailable));
    assert!(got >= FAIL_OPEN - 4 * IN_FLIGHT, "{got}");
    assert!(got <= LEASE + FAIL_OPEN + IN_FLIGHT, "{got}");
    world.control.resume().await;
    settles(&world).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 20_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (20_000_000, None), "a lease is renewed while it is used");
    settles(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_a_session_ends_with_its_lease_and_the_budget_postgres() {
    control_plane_away(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_a_session_ends_with_its_lease_and_the_budget_sqlite() {
    control_plane_away(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_keeps_the_budget_when_its_lease_is_over() {
    let mut world = world_of_leases(Kind::Sqlite).await;
    let source = Destination::start(Manner::Source);
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    world.control.kill().await;
    assert!(raw.is_quiet(Duration::from_secs(5)).await, "nothing ends an idle session");
    open(&mut raw, 1, &source, 1_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1_000_000, None));
    world.control.resume().await;
    settles(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_may_begin_a_session_while_the_control_plane_is_away() {
    let mut world = world_of_leases(Kind::Sqlite).await;
    let source = Destination::start(Manner::Source);
    let stranger = Subscriber::create(&world.control, json!({ "traffic_limit_gb": 10 })).await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 1000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (1000, None));
    drop(raw);
    settles(&world).await;
    world.control.kill().await;
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    open(&mut raw, 1, &source, 2_000_000u64.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (2_000_000, None));
    let (_, refused) = enter(&world, &stranger).await;
    let code = SessionCode::ControlUnavailable;
    assert!(matches!(refused, Frame::Error { code: got, .. } if got == code), "{refused:?}");
    world.control.resume().await;
    settles(&world).await;
    assert_eq!(world.totals().await, (16, 2_001_000));
}
