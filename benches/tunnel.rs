//! What the gateway costs, one JSON line a figure: `cargo bench --bench tunnel` (docs/04, "Benchmarks").
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::decimal_bitwise_operands,
    clippy::expect_used,
    clippy::items_after_statements,
    clippy::large_futures,
    clippy::large_stack_arrays,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unused_io_amount,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking and says things shortly"
)]

#[path = "../tests/integration/database.rs"]
mod database;
#[path = "../tests/integration/destination.rs"]
mod destination;
#[path = "../tests/integration/node.rs"]
mod node;
#[path = "../tests/integration/process.rs"]
mod process;
#[path = "../tests/integration/socks.rs"]
mod socks;
#[path = "../tests/integration/world.rs"]
mod world;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, BytesMut};
use futures_util::future::join_all;
use httvps::frame::{Frame, Hello, Token, binary};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use database::Kind;
use destination::{Destination, Manner};
use node::CHACHA;
use process::{Process, eventually};
use world::{PATH, REGION, World};

const GIB: u64 = 1 << 30;
const STREAMS_OPENED: u32 = 4_000;
const IDLE_TUNNELS: u32 = 500;

fn figure(name: &str, value: f64, unit: &str, target: f64) {
    let line = json!({ "figure": name, "value": (value * 1000.0).round() / 1000.0, "unit": unit, "at_most": target });
    println!("{line}");
}

/// CPU seconds of a process so far, from 100 Hz ticks.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    f64::from(ticks) / 100.0
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn download(proxy: &str, source: &Destination, len: u64) {
    let mut socket = socks::connect(proxy, source.address).await.unwrap();
    socket.write_all(&len.to_be_bytes()).await.unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let mut left = len;
    while left > 0 {
        left -= socket.read(&mut buffer).await.unwrap() as u64;
    }
}

async fn upload(proxy: &str, sink: &Destination, len: u64) {
    let mut socket = socks::connect(proxy, sink.address).await.unwrap();
    let buffer = vec![0; 256 * 1024];
    let mut left = len;
    while left > 0 {
        let piece = left.min(buffer.len() as u64);
        socket.write_all(&buffer[..piece as usize]).await.unwrap();
        left -= piece;
    }
    socket.read(&mut [0; 1]).await.ok();
}

async fn bulk(world: &World, client: &Process) {
    let pid = world.gateway().pid();
    let proxy = client.line("socks");
    let zeros = Destination::start(Manner::Zeros).await;
    let discard = Destination::start(Manner::Discard).await;
    for streams in [1u64, 16] {
        let (before, started) = (cpu_seconds(pid), Instant::now());
        join_all((0..streams).map(|_| download(proxy, &zeros, GIB / streams))).await;
        let (cpu, wall) = (cpu_seconds(pid) - before, started.elapsed().as_secs_f64());
        figure(&format!("gateway_cpu_down_{streams}"), cpu, "s/GiB", 3.0);
        figure(&format!("wall_down_{streams}"), wall, "s/GiB", f64::INFINITY);
        let (before, started, base) = (cpu_seconds(pid), Instant::now(), discard.got());
        let uploads = join_all((0..streams).map(|_| upload(proxy, &discard, GIB / streams)));
        let arrived = async {
            while discard.got() < base + GIB {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = uploads => panic!("an upload ended early"),
            () = arrived => {}
        }
        let (cpu, wall) = (cpu_seconds(pid) - before, started.elapsed().as_secs_f64());
        figure(&format!("gateway_cpu_up_{streams}"), cpu, "s/GiB", 3.0);
        figure(&format!("wall_up_{streams}"), wall, "s/GiB", f64::INFINITY);
    }
}

async fn streams(world: &World, client: &Process) {
    let pid = world.gateway().pid();
    let greeter = Destination::start(Manner::Echo).await;
    let before = cpu_seconds(pid);
    let lanes = (0..16).map(|_| async {
        for _ in 0..STREAMS_OPENED / 16 {
            let mut socket = socks::connect(client.line("socks"), greeter.address).await.unwrap();
            socket.write_all(b"x").await.unwrap();
            socket.read_exact(&mut [0; 1]).await.unwrap();
        }
    });
    join_all(lanes).await;
    let cpu = cpu_seconds(pid) - before;
    figure("gateway_cpu_stream", cpu * 1000.0 / f64::from(STREAMS_OPENED), "ms/stream", 0.25);
}

/// A v2 tunnel that said hello and then nothing.
async fn idle_tunnel(world: &World, tls: &TlsConnector) -> TlsStream<TcpStream> {
    let address = world.gateway().line("gateway").strip_prefix("wss://").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let mut socket = tls.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    let key = BASE64_STANDARD.encode([1; 16]);
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: httvps.v2\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let hello = Hello {
        device_id: world.subscriber.device.clone(),
        access_token: Token::from(world.subscriber.token.clone()),
        region: REGION.into(),
        client_version: String::new(),
        platform: String::new(),
    };
    let mut body = BytesMut::new();
    binary::encode(&Frame::Hello(Box::new(hello)), &mut body);
    let mut message = BytesMut::new();
    message.put_slice(&[0x82, 0xfe]);
    message.put_u16(u16::try_from(body.len()).unwrap());
    message.put_slice(&[0; 4]);
    message.put_slice(&body);
    socket.write_all(&message).await.unwrap();
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[2], 0x02, "hello_ok");
    socket
}

async fn idle(world: &World) {
    let pid = world.gateway().pid();
    let ca = std::fs::read(world.ca()).unwrap();
    let tls = TlsConnector::from(httvps::net::tls::client(Some(&ca)).unwrap());
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(idle_tunnel(world, &tls).await);
    }
    let before = resident_kib(pid);
    for _ in 0..IDLE_TUNNELS {
        held.push(idle_tunnel(world, &tls).await);
    }
    eventually(|| async {
        let open = world.metric("httvps_sessions").await;
        if open >= u64::from(IDLE_TUNNELS) { Ok(()) } else { Err(format!("{open} sessions")) }
    })
    .await;
    figure("gateway_idle_tunnel", (resident_kib(pid) - before) / f64::from(IDLE_TUNNELS), "KiB", 40.0);
    drop(held);
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let more = [("MUX__OPENS_PER_SECOND", "100000"), ("MUX__RESETS_PER_SECOND", "100000")];
        let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
        idle(&world).await;
        let client = world.connect("v2").await;
        streams(&world, &client).await;
        bulk(&world, &client).await;
    });
}
