use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cipher;
use crate::measure::{GIB, gib, thread_cpu_seconds};
use crate::report::{FLOOR, Goal, Report};

const BUFFER: usize = 64 * 1024;

pub(crate) fn run(report: &mut Report) {
    let bytes = (gib() * GIB) as u64;
    let mut measured = |name: &str, work: fn(u64) -> f64| {
        let cost = thread::spawn(move || work(bytes)).join().unwrap() / (bytes as f64 / GIB);
        report.add(name, FLOOR, cost, "s/GiB", Goal::NONE);
        cost
    };
    let encrypt = measured("floor_shadowsocks_encrypt", cipher::shadowsocks_encrypt);
    let decrypt = measured("floor_shadowsocks_decrypt", cipher::shadowsocks_decrypt);
    let seal = measured("floor_tls_encrypt", cipher::tls_encrypt);
    let unseal = measured("floor_tls_decrypt", cipher::tls_decrypt);
    let relay = measured("floor_tcp_relay", relay);
    report.add("floor_down", FLOOR, decrypt + seal + relay, "s/GiB", Goal::NONE);
    report.add("floor_up", FLOOR, unseal + encrypt + relay, "s/GiB", Goal::NONE);
}

fn relay(bytes: u64) -> f64 {
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
                    read => to.write_all(&buffer[..read]).await.unwrap(),
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
