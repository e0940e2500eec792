//! UDP through the tunnel: SOCKS5 UDP ASSOCIATE in front, real Shadowsocks servers behind.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use httvps::frame::{Datagram, Frame, SessionCode, StreamCode, StreamId, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::pattern_bytes;
use crate::support::node::{AEAD_2022, AES, CHACHA, Software};
use crate::support::raw::RawClient;
use crate::support::raw_session::say_hello;
use crate::support::udp_echo::Echo;
use crate::support::wait::{TIMEOUT, eventually};

/// Debian's ss-server drops larger ones.
const LIBEV_MAX: usize = 2_700;
/// Datagrams in flight at once in a flood, and when one counts as lost.
const AT_ONCE: usize = 16;
const LOST: Duration = Duration::from_millis(50);

/// A program's association with the proxy.
struct Association {
    connection: TcpStream,
    socket: UdpSocket,
}

impl Association {
    async fn open(proxy: &str) -> Self {
        let mut connection = TcpStream::connect(proxy).await.unwrap();
        connection.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut answer = [0; 12];
        timeout(TIMEOUT, connection.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1]);
        let relay = SocketAddr::from((
            <[u8; 4]>::try_from(&answer[6..10]).unwrap(),
            u16::from_be_bytes([answer[10], answer[11]]),
        ));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(relay).await.unwrap();
        Self { connection, socket }
    }

    async fn send(&self, target: &Target, payload: &[u8]) {
        let mut packet = vec![0, 0, 0];
        target.encode(&mut packet);
        packet.extend_from_slice(payload);
        self.socket.send(&packet).await.unwrap();
    }

    async fn receive(&self, within: Duration) -> Option<(Target, Vec<u8>)> {
        let mut packet = vec![0; 65_536];
        let len = timeout(within, self.socket.recv(&mut packet)).await.ok()?.unwrap();
        let (from, at) = Target::decode(&packet[3..len]).unwrap().unwrap();
        Some((from, packet[3 + at..len].to_vec()))
    }

    /// Repeats a question until it is answered: datagrams may be lost.
    async fn ask(&self, target: &Target, payload: &[u8]) -> Target {
        for _ in 0..30 {
            self.send(target, payload).await;
            while let Some((from, answer)) = self.receive(Duration::from_secs(2)).await {
                if answer == payload {
                    return from;
                }
            }
        }
        panic!("never answered");
    }

    /// Sends and receives as much as possible until the proxy is gone; returns the number of bytes that came back.
    async fn flood(self, target: Target) -> u64 {
        let mut head = vec![0, 0, 0];
        target.encode(&mut head);
        let packet = [head.as_slice(), &pattern_bytes(1200)].concat();
        let (mut answer, mut came) = (vec![0; packet.len()], 0);
        while self.socket.send(&packet).await.is_ok() {
            for _ in 1..AT_ONCE {
                if self.socket.send(&packet).await.is_err() {
                    return came;
                }
            }
            for _ in 0..AT_ONCE {
                match timeout(LOST, self.socket.recv(&mut answer)).await {
                    Ok(Ok(len)) => came += (len - head.len()) as u64,
                    Ok(Err(_)) => return came,
                    Err(_) => break,
                }
            }
        }
        came
    }
}

async fn both_ways(software: Software, encoding: &str) {
    let deployment = Deployment::start(Kind::Sqlite, software).await;
    let client = deployment.connect(encoding).await;
    let [first, second] = [Echo::start().await, Echo::start().await];
    let association = Association::open(client.line("socks")).await;
    let largest = if matches!(software, Software::Libev(_)) { LIBEV_MAX } else { 60_000 };
    for len in [1, 100, 1200, largest] {
        for echo in [&first, &second] {
            let target = Target::Ip(echo.address);
            assert_eq!(association.ask(&target, &pattern_bytes(len)).await, target);
        }
    }
    let named = Target::Name("localhost".into(), first.address.port());
    assert_eq!(association.ask(&named, b"by name").await, Target::Ip(first.address));
    assert_eq!(association.ask(&named, b"by name again").await, Target::Ip(first.address));
    drop(association);
    deployment.metric_is("httvps_streams", 0).await;
    let moved = first.got.load(Ordering::SeqCst) + second.got.load(Ordering::SeqCst);
    deployment.totals_are(moved, moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_through_libev_chacha20() {
    both_ways(CHACHA, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_through_libev_aes() {
    both_ways(AES, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_through_aead_2022() {
    both_ways(AEAD_2022, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datagrams_target_is_checked_and_the_association_survives() {
    let deny = [("EGRESS__ALLOW_PRIVATE", "false")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &deny).await;
    let client = deployment.connect("v2").await;
    let echo = Echo::start().await;
    let association = Association::open(client.line("socks")).await;
    let port = echo.address.port();
    let targets = [
        Target::Ip(echo.address),
        Target::Ip(([127, 8, 8, 8], port).into()),
        Target::Ip(("::1".parse::<std::net::Ipv6Addr>().unwrap(), port).into()),
        Target::Ip(([1, 1, 1, 1], 25).into()),
        Target::Name("localhost".into(), port),
        Target::Name("2130706433".into(), port),
    ];
    for target in &targets {
        association.send(target, b"private").await;
    }
    eventually(|| async {
        let blocked = deployment.metric("httvps_datagrams_dropped_total{reason=\"BLOCKED\"}").await;
        let unreachable = deployment.metric("httvps_datagrams_dropped_total{reason=\"UNREACHABLE\"}").await;
        let dropped = blocked + unreachable;
        if dropped == targets.len() as u64 { Ok(()) } else { Err(format!("{dropped} dropped")) }
    })
    .await;
    assert_eq!(deployment.metric("httvps_streams").await, 1, "the association lives");
    assert_eq!(echo.got.load(Ordering::SeqCst), 0);
    assert_eq!(deployment.totals().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_closed_associations_end() {
    let idle = [("RELAY__UDP_IDLE_TIMEOUT", "1s")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &idle).await;
    let echo = Echo::start().await;
    let mut raw = RawClient::session(&deployment).await;
    let id = StreamId(1);
    let mut record = Vec::new();
    Datagram::encode(&Target::Ip(echo.address), b"early", &mut record);
    let nowhere = Some(Target::Ip(([0, 0, 0, 0], 0).into()));
    raw.frames(&[Frame::Open { id, target: nowhere, payload: record.into(), fin: false, udp: true }]).await;
    let Frame::Data { payload, .. } = raw.next_frame().await else { panic!("no datagram") };
    let answer = Datagram::decode(&mut payload.clone()).unwrap().unwrap();
    assert_eq!((answer.peer, &answer.payload[..]), (Target::Ip(echo.address), &b"early"[..]));
    assert_eq!(raw.next_frame().await, Frame::Reset { id, code: StreamCode::Timeout });
    let client = deployment.connect("v2").await;
    let mut association = Association::open(client.line("socks")).await;
    let ended = timeout(TIMEOUT, association.connection.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "the program is told by the end of its connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_use_up_a_quota_without_exceeding_it() {
    const ASSOCIATIONS: u64 = 4;
    const LIMIT: u64 = 2_000_000;
    const BOUND: u64 = ASSOCIATIONS * 65_536;
    let plan = json!({ "traffic_limit_gb": LIMIT as f64 * 1e-9 });
    let deployment = Deployment::build(Kind::Postgres, &[CHACHA], plan, &[]).await;
    let client = deployment.connect("v2").await;
    let echo = Echo::start().await;
    let mut floods = JoinSet::new();
    for _ in 0..ASSOCIATIONS {
        floods.spawn(Association::open(client.line("socks")).await.flood(Target::Ip(echo.address)));
    }
    let ended = client.ended().await;
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
    let came: u64 = floods.join_all().await.into_iter().sum();
    let total = deployment.ended_total().await;
    let delivered = came + echo.got.load(Ordering::SeqCst);
    assert!(delivered <= total, "{delivered} delivered, {total} counted");
    assert!((LIMIT..=LIMIT + BOUND).contains(&total), "{total}");
    assert!(delivered >= LIMIT / 2, "{delivered}");
    deployment.usage_settles().await;
    let why = deployment.control.get("devices", &format!("{}/why", deployment.subscriber.device)).await;
    assert_eq!(why["quota"]["used_bytes"], json!(total), "{why}");
    let (_, refused) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(refused, Frame::Error { code: SessionCode::LimitReached, .. }), "{refused:?}");
}

/// Answers every question about `example.test` with 192.0.2.7.
async fn name_server() -> (SocketAddr, AbortHandle) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut packet = vec![0; 4096];
        loop {
            let (len, from) = socket.recv_from(&mut packet).await.unwrap();
            let end = 12 + packet[12..len].iter().position(|byte| *byte == 0).unwrap() + 5;
            let mut answer = packet[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (address, task.abort_handle())
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_works_through_the_tunnel() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    let (server, serving) = name_server().await;
    let association = Association::open(client.line("socks")).await;
    let door = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = door.local_addr().unwrap().port();
    let forwarding = tokio::spawn(async move {
        let mut packet = vec![0; 4096];
        loop {
            let (len, asker) = door.recv_from(&mut packet).await.unwrap();
            association.send(&Target::Ip(server), &packet[..len]).await;
            if let Some((_, answer)) = association.receive(Duration::from_secs(5)).await {
                door.send_to(&answer, asker).await.unwrap();
            }
        }
    });
    let port = port.to_string();
    let args = ["@127.0.0.1", "-p", &port, "+short", "+tries=5", "+time=5", "+noedns", "example.test", "A"];
    let output = tokio::process::Command::new("dig").args(args).output();
    let output = timeout(TIMEOUT, output).await.unwrap().expect("dig of Debian's bind9-dnsutils");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "192.0.2.7");
    forwarding.abort();
    serving.abort();
}
