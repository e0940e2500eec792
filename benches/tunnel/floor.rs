use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::measure::{GIB, gib, thread_cpu_seconds};
use crate::report::{FLOOR, Goal, Report};
use crate::{cipher, handshake, tunnels};

/// The argument that makes this program measure in a fresh process.
pub(crate) const ALONE: &str = "floor-alone";
const BUFFER: usize = 64 * 1024;
type Part = (&'static str, fn(u64) -> f64);

const PER_GIB: [Part; 6] = [
    ("floor_shadowsocks_encrypt", cipher::shadowsocks_encrypt),
    ("floor_shadowsocks_decrypt", cipher::shadowsocks_decrypt),
    ("floor_tls_encrypt", cipher::tls_encrypt),
    ("floor_tls_decrypt", cipher::tls_decrypt),
    ("floor_tcp_relay", |bytes| relay(bytes, |_| {})),
    ("floor_bare_gateway", bare_gateway),
];

/// Runs this program again in a fresh process.
pub(crate) fn run(report: &mut Report) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--bench", ALONE])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(child.status.success(), "{:?}", child.status);
    let text = String::from_utf8(child.stdout).unwrap();
    let costs: HashMap<&str, f64> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, cost)| (name, cost.parse().unwrap()))
        .collect();
    for (name, _) in PER_GIB {
        report.add(name, FLOOR, costs[name], "s/GiB", Goal::NONE);
    }
    let relay = costs["floor_tcp_relay"];
    let down = costs["floor_shadowsocks_decrypt"] + costs["floor_tls_encrypt"] + relay;
    let up = costs["floor_tls_decrypt"] + costs["floor_shadowsocks_encrypt"] + relay;
    report.add("floor_down", FLOOR, down, "s/GiB", Goal::NONE);
    report.add("floor_up", FLOOR, up, "s/GiB", Goal::NONE);
    for (figure, _) in handshake::FIGURES {
        report.add(figure, FLOOR, costs[figure], "ms", Goal::NONE);
    }
    let tunnel = handshake::OF_A_TUNNEL.iter().map(|figure| costs[figure]).sum();
    report.add(tunnels::OPENED, FLOOR, tunnel, "ms", Goal::NONE);
}

/// Measures each part in its own thread and prints a line for it.
pub(crate) fn alone() {
    let bytes = (gib() * GIB) as u64;
    for (name, work) in PER_GIB {
        let cost = thread::spawn(move || work(bytes)).join().unwrap() / (bytes as f64 / GIB);
        println!("{name} {cost}");
    }
    for (figure, cost) in handshake::FIGURES {
        println!("{figure} {}", thread::spawn(cost).join().unwrap());
    }
}

/// The minimum work of any gateway per byte: read, decrypt and encrypt in place, write.
pub(crate) fn bare_gateway(bytes: u64) -> f64 {
    let mut passage = cipher::Passage::default();
    relay(bytes, |piece| passage.carry(piece))
}

fn relay(bytes: u64, mut work: impl FnMut(&mut [u8])) -> f64 {
    let near = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let (entry, exit) = (near.local_addr().unwrap(), far.local_addr().unwrap());
    let sink = thread::spawn(move || {
        let (mut socket, _) = far.accept().unwrap();
        let mut buffer = vec![0; BUFFER];
        while socket.read(&mut buffer).unwrap() > 0 {}
    });
    let source = thread::spawn(move || {
        let mut socket = TcpStream::connect(entry).unwrap();
        let buffer = vec![0; BUFFER];
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(BUFFER as u64);
            socket.write_all(&buffer[..piece as usize]).unwrap();
            left -= piece;
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cpu = runtime.block_on(async {
        near.set_nonblocking(true).unwrap();
        let near = tokio::net::TcpListener::from_std(near).unwrap();
        let (mut from, _) = near.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(exit).await.unwrap();
        let mut buffer = vec![0; BUFFER];
        let before = thread_cpu_seconds();
        let copying = async {
            loop {
                match from.read(&mut buffer).await.unwrap() {
                    0 => return,
                    read => {
                        work(&mut buffer[..read]);
                        to.write_all(&buffer[..read]).await.unwrap();
                    }
                }
            }
        };
        copying.await;
        thread_cpu_seconds() - before
    });
    source.join().unwrap();
    sink.join().unwrap();
    cpu
}
