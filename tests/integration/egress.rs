//! Private destinations are refused without a connection, in every spelling.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::database::Kind;
use crate::node::{AEAD_2022, CHACHA};
use crate::process::eventually;
use crate::socks;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn loopback_in_every_spelling() {
    let everywhere = TcpListener::bind("[::]:0").await.unwrap();
    let port = everywhere.local_addr().unwrap().port();
    for (software, encoding, resolve) in
        [(CHACHA, "v1", "gateway"), (AEAD_2022, "v2", "gateway"), (AEAD_2022, "v2", "node")]
    {
        let deny = [("EGRESS__ALLOW_PRIVATE", "false"), ("EGRESS__RESOLVE", resolve)];
        let world = World::build(Kind::Sqlite, &[software], json!({}), &deny).await;
        let client = world.connect(encoding).await;
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
            let blocked = world.metric("httvps_streams_refused_total{reason=\"BLOCKED\"}").await;
            let unreachable = world.metric("httvps_streams_refused_total{reason=\"UNREACHABLE\"}").await;
            if blocked + unreachable == tried { Ok(blocked) } else { Err(format!("{blocked} + {unreachable}")) }
        })
        .await;
        assert!(refused >= tried - 2, "names that no resolver knows are unreachable, the rest is blocked: {refused}");
        assert_eq!(world.totals().await, (0, 0));
    }
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(100), everywhere.accept()).await;
    assert!(accepted.is_err(), "nobody connected");
}
