//! Resets and ends of file stay what they are between programs and destinations (docs/03, "Ends").

use std::io::ErrorKind;
use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::{AEAD_2022, CHACHA};
use crate::support::process::Process;
use crate::support::socks;
use crate::support::wait::TIMEOUT;

const SOME: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
}

/// Reads to the end and returns its kind.
async fn end_of(socket: &mut TcpStream) -> End {
    let mut buffer = vec![0; 64 * 1024];
    let reading = async {
        loop {
            match socket.read(&mut buffer).await {
                Ok(0) => return End::Eof,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(TIMEOUT, reading).await.expect("it ends")
}

/// A program's connection through one of the client's proxies.
async fn enter(client: &Process, proxy: &str, target: SocketAddr) -> TcpStream {
    if proxy == "socks" {
        return socks::connect(client.line(proxy), target).await.unwrap();
    }
    let mut socket = TcpStream::connect(client.line(proxy)).await.unwrap();
    socket.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    socket
}

/// A program's connection and the destination's end of it.
async fn pair(client: &Process, proxy: &str, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut program = enter(client, proxy, listener.local_addr().unwrap()).await;
    program.write_all(b"first").await.unwrap();
    let (mut destination, _) = timeout(TIMEOUT, listener.accept()).await.expect("somebody comes").unwrap();
    destination.read_exact(&mut [0; 5]).await.unwrap();
    (program, destination)
}

fn reset(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_and_ends_of_file_are_preserved() {
    let deployment = Deployment::start(Kind::Sqlite, AEAD_2022).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for encoding in ["v1", "v2"] {
        let client = deployment.connect(encoding).await;
        for proxy in ["socks", "http"] {
            let (mut program, mut destination) = pair(&client, proxy, &listener).await;
            destination.write_all(&[1; SOME]).await.unwrap();
            program.read_exact(&mut [0; 1000]).await.unwrap();
            reset(destination);
            assert_eq!(end_of(&mut program).await, End::Reset, "{encoding} {proxy}: the destination resets");

            let (mut program, mut destination) = pair(&client, proxy, &listener).await;
            program.write_all(&[1; SOME]).await.unwrap();
            destination.read_exact(&mut [0; 1000]).await.unwrap();
            reset(program);
            assert_eq!(end_of(&mut destination).await, End::Reset, "{encoding} {proxy}: the program resets");

            let (mut program, mut destination) = pair(&client, proxy, &listener).await;
            program.write_all(&[1; SOME]).await.unwrap();
            program.shutdown().await.unwrap();
            assert_eq!(end_of(&mut destination).await, End::Eof, "{encoding} {proxy}: the program finishes");
            destination.write_all(&[1; SOME]).await.unwrap();
            drop(destination);
            assert_eq!(end_of(&mut program).await, End::Eof, "{encoding} {proxy}: the destination finishes");
        }
        client.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gateway_resets_programs_and_destinations() {
    for (encoding, proxy) in [("v1", "socks"), ("v2", "http"), ("v1-plain", "socks"), ("v2", "socks")] {
        let mut deployment = Deployment::start(Kind::Sqlite, AEAD_2022).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = deployment.connect(encoding).await;
        let (mut program, mut destination) = pair(&client, proxy, &listener).await;
        destination.write_all(&[1; SOME]).await.unwrap();
        program.read_exact(&mut [0; SOME]).await.unwrap();
        deployment.gateway.take().unwrap().kill().await;
        assert_eq!(end_of(&mut program).await, End::Reset, "{encoding} {proxy}: the program");
        assert_eq!(end_of(&mut destination).await, End::Reset, "{encoding} {proxy}: the destination");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_client_resets_programs_and_destinations() {
    let deployment = Deployment::start(Kind::Sqlite, AEAD_2022).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for encoding in ["v1", "v2", "v1-plain"] {
        let client = deployment.connect(encoding).await;
        let (mut program, mut destination) = pair(&client, "socks", &listener).await;
        program.write_all(&[1; SOME]).await.unwrap();
        destination.read_exact(&mut [0; SOME]).await.unwrap();
        client.kill().await;
        assert_eq!(end_of(&mut destination).await, End::Reset, "{encoding}: the destination");
        assert_eq!(end_of(&mut program).await, End::Reset, "{encoding}: the program");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_destination_resets_the_program() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    for (encoding, features, expected) in [
        ("v2", None, End::Reset),
        ("v1", None, End::Reset),
        ("v1", Some("[\"error\"]"), End::Reset),
        ("v1", Some("[\"code\"]"), End::Reset),
        ("v1-plain", None, End::Eof),
    ] {
        let mut env = deployment.client_env(encoding);
        if let Some(features) = features {
            env.retain(|(key, _)| key != "HTTVPS_CLIENT__FEATURES");
            env.push(("HTTVPS_CLIENT__FEATURES".into(), features.into()));
        }
        let client = Process::start(&["connect"], &env).await;
        for proxy in ["socks", "http"] {
            let mut program = enter(&client, proxy, ([127, 0, 0, 1], 25).into()).await;
            assert_eq!(end_of(&mut program).await, expected, "{encoding} {features:?} {proxy}");
        }
        client.stop().await;
    }
}

/// How a node's connection breaks after a number of bytes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Fin,
    Rst,
}

/// A proxy in front of a node that passes on only the first bytes of what the node sends.
async fn cutting(node: SocketAddr, after: usize, cut: Cut) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(node).await.unwrap();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (far_read, mut far_write) = far.split();
                let mut first = far_read.take(after as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                    _ = tokio::io::copy(&mut first, &mut near_write) => {}
                }
                match cut {
                    Cut::Rst => near.set_zero_linger().unwrap(),
                    Cut::Fin => {
                        near.shutdown().await.unwrap();
                        while near.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_node_connection_resets_the_program() {
    for (cut, software) in [(Cut::Fin, CHACHA), (Cut::Rst, CHACHA), (Cut::Fin, AEAD_2022)] {
        let deployment = Deployment::build(Kind::Sqlite, &[software], json!({}), &[]).await;
        let node = SocketAddr::from(([127, 0, 0, 1], deployment.nodes[0].key.port));
        let between = cutting(node, 50_001, cut).await;
        let row = id(&deployment.control.list("nodes").await[0]);
        deployment.control.update("nodes", &row, json!({ "port": between.port() })).await;
        let source = Destination::start(Behavior::Source);
        for encoding in ["v1", "v2"] {
            let client = deployment.connect(encoding).await;
            let mut program = enter(&client, "socks", source.address).await;
            program.write_all(&1_000_000u64.to_be_bytes()).await.unwrap();
            assert_eq!(end_of(&mut program).await, End::Reset, "{encoding} {cut:?} {software:?}");
            client.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_client_resets_its_programs() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = deployment.connect("v2").await;
    let (mut program, _destination) = pair(&client, "socks", &listener).await;
    client.stop().await;
    assert_eq!(end_of(&mut program).await, End::Reset);
}
