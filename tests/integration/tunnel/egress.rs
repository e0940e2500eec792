//! Private destinations are refused without a connection, however they are written.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket};

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::{AEAD_2022, CHACHA};
use crate::support::socks;
use crate::support::transfer::ping;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_refused_in_every_spelling() {
    let everywhere = TcpListener::bind("[::]:0").await.unwrap();
    let port = everywhere.local_addr().unwrap().port();
    for (software, encoding, resolve) in
        [(CHACHA, "v1", "gateway"), (AEAD_2022, "v2", "gateway"), (AEAD_2022, "v2", "node")]
    {
        let deny = [("EGRESS__ALLOW_PRIVATE", "false"), ("EGRESS__RESOLVE", resolve)];
        let deployment = Deployment::build(Kind::Sqlite, &[software], json!({}), &deny).await;
        let client = deployment.connect(encoding).await;
        let proxy = client.line("socks");
        let names = [
            "localhost",
            "LocalHost",
            "localhost.",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
            "::1",
            "::ffff:127.0.0.1",
            "[::1]",
            "[127.0.0.1]",
            "::1%lo",
            "127.0.0.1\0.example.com",
        ];
        let mut tried = 0;
        for name in names {
            let mut socket = socks::connect_name(proxy, name, port).await.unwrap();
            assert!(matches!(socket.read(&mut [0; 1]).await, Ok(0) | Err(_)), "{name}");
            tried += 1;
        }
        for address in ["127.0.0.1", "127.8.8.8", "0.0.0.0"] {
            let target = format!("{address}:{port}").parse().unwrap();
            let mut socket = socks::connect(proxy, target).await.unwrap();
            assert!(matches!(socket.read(&mut [0; 1]).await, Ok(0) | Err(_)), "{address}");
            tried += 1;
        }
        for address in ["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::7f00:1", "::"] {
            let mut socket = socks::connect_v6(proxy, address.parse().unwrap(), port).await.unwrap();
            assert!(matches!(socket.read(&mut [0; 1]).await, Ok(0) | Err(_)), "{address}");
            tried += 1;
        }
        let refused = eventually(|| async {
            let blocked = deployment.metric("httvps_streams_refused_total{reason=\"BLOCKED\"}").await;
            let unreachable = deployment.metric("httvps_streams_refused_total{reason=\"UNREACHABLE\"}").await;
            if blocked + unreachable == tried { Ok(blocked) } else { Err(format!("{blocked} + {unreachable}")) }
        })
        .await;
        assert!(refused >= tried - 2, "names that no resolver knows are unreachable, the rest is blocked: {refused}");
        assert_eq!(deployment.totals().await, (0, 0));
    }
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(100), everywhere.accept()).await;
    assert!(accepted.is_err(), "nobody connected");
}

/// A name server on loopback that resolves every name to these IPv4 addresses, in this order.
async fn name_server(addresses: &'static [[u8; 4]]) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        loop {
            let (_, from) = socket.recv_from(&mut packet).await.unwrap();
            let end = 12 + packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let found = if packet[end - 3] == 1 { addresses } else { &[] };
            let mut answer = packet[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
            for ip in found {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(ip);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_of_a_name_is_tried_after_a_refusal() {
    let echo = Destination::start(Behavior::Echo);
    let servers = format!("[\"{}\"]", name_server(&[[127, 0, 0, 9], [127, 0, 0, 1]]).await);
    for software in [CHACHA, AEAD_2022] {
        let deployment =
            Deployment::build(Kind::Sqlite, &[software], json!({}), &[("EGRESS__RESOLVERS", &servers)]).await;
        let client = deployment.connect("v2").await;
        let visit = async || {
            let mut socket = socks::connect_name(client.line("socks"), "two.test", echo.address.port()).await.unwrap();
            ping(&mut socket).await
        };
        visit().await.unwrap_err();
        visit().await.unwrap();
        assert_eq!(client.stop().await.code, Some(0));
    }
}
