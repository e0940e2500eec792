//! Certificates that are replaced, unusable, or out of date.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::database::Kind;
use crate::support::deployment::{World, metric};
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::settling::readiness;
use crate::support::transfer::{echoes, opened};
use crate::support::wait::eventually;

struct Pair {
    cert: String,
    key: String,
}

fn made(begins: OffsetDateTime, ends: OffsetDateTime) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (begins, ends);
    Pair { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn write(world: &World, cert: &str, key: &str) {
    for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
        let path = world.state.path().join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }
}

/// Whether a client that trusts nothing else is shown this certificate.
async fn shows(world: &World, cert: &str) -> bool {
    let address = world.gateway().line("gateway").strip_prefix("wss://").unwrap().to_owned();
    let connector = TlsConnector::from(httvps::net::tls::client(Some(cert.as_bytes())).unwrap());
    let socket = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.is_ok()
}

async fn becomes(world: &World, what: &str, done: impl AsyncFn() -> bool) {
    eventually(|| async { if done().await { Ok(()) } else { Err(format!("{what}: {:?}", readiness(world).await)) } })
        .await;
}

async fn unusable(world: &World) -> bool {
    let ops = world.gateway().line("ops-gateway");
    metric(&world.control.http, ops, "httvps_certificate_unusable{name=\"localhost\"}").await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_dropping_anybody() {
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "100ms")]).await;
    let echo = Destination::start(Manner::Echo);
    let client = world.connect("v2").await;
    let mut stream = opened(&client, &echo).await.unwrap();
    let (now, day) = (OffsetDateTime::now_utc(), Duration::DAY);
    let (first, second) = (made(now - day, now + day * 30), made(now - day, now + day * 5));
    write(&world, &first.cert, &first.key);
    becomes(&world, "the new one is shown", async || shows(&world, &first.cert).await).await;
    assert_eq!(readiness(&world).await, (200, "ready\n".into()));
    write(&world, &second.cert, &first.key);
    becomes(&world, "a pair that does not match is told", async || unusable(&world).await).await;
    let (status, text) = readiness(&world).await;
    assert!(status == 200 && text.contains("files cannot be used"), "{text}");
    assert!(shows(&world, &first.cert).await, "the former one is served on");
    write(&world, &second.cert, &second.key);
    becomes(&world, "one that matches is taken", async || shows(&world, &second.cert).await).await;
    assert!(!unusable(&world).await && readiness(&world).await.1.contains("expires at"));
    let ops = world.gateway().line("ops-gateway");
    let left = metric(&world.control.http, ops, "httvps_certificate_expiry_seconds{name=\"localhost\"}").await;
    assert!(left.abs_diff(5 * 86_400) < 120, "{left}");
    echoes(&mut stream).await.expect("what was open goes on");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_certificate_again() {
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "0s")]).await;
    let (now, day) = (OffsetDateTime::now_utc(), Duration::DAY);
    let other = made(now - day, now + day * 30);
    write(&world, &other.cert, &other.key);
    assert!(!shows(&world, &other.cert).await);
    world.gateway().signal("-HUP");
    becomes(&world, "it is read", async || shows(&world, &other.cert).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_date_is_named_where_somebody_looks() {
    let world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "100ms")]).await;
    world.connect("v2").await.stop().await;
    let (now, day) = (OffsetDateTime::now_utc(), Duration::DAY);
    let cases = [
        (made(now - day * 9, now - day), "has expired at", "CERTIFICATE_EXPIRED"),
        (made(now + day, now + day * 9), "valid only from", "CERTIFICATE_NOT_YET_VALID"),
    ];
    for (pair, text, code) in cases {
        write(&world, &pair.cert, &pair.key);
        becomes(&world, text, async || readiness(&world).await.1.contains(text)).await;
        eventually(|| async {
            let why = world.control.get("devices", &format!("{}/why", world.subscriber.device)).await;
            let found = why["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == code);
            if found { Ok(()) } else { Err(why["findings"].to_string()) }
        })
        .await;
    }
}
