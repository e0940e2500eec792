//! Certificates that are replaced, unusable, or out of date.

use httvps::clock::Clock;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::database::Kind;
use crate::support::deployment::{Deployment, metric};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::transfer::{open_echo, ping};
use crate::support::wait::eventually;

struct CertificatePem {
    cert: String,
    key: String,
}

fn self_signed(begins: OffsetDateTime, ends: OffsetDateTime) -> CertificatePem {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (begins, ends);
    CertificatePem { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn write(deployment: &Deployment, cert: &str, key: &str) {
    for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
        let path = deployment.state.path().join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }
}

/// Whether the gateway presents this certificate.
async fn shows(deployment: &Deployment, cert: &str) -> bool {
    let address = deployment.address().to_owned();
    let connector = TlsConnector::from(httvps::net::tls::client(Some(cert.as_bytes())).unwrap());
    let socket = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.is_ok()
}

async fn becomes(deployment: &Deployment, what: &str, done: impl AsyncFn() -> bool) {
    eventually(|| async {
        if done().await { Ok(()) } else { Err(format!("{what}: {:?}", deployment.readiness().await)) }
    })
    .await;
}

async fn unusable(deployment: &Deployment) -> bool {
    let ops = deployment.gateway().line("ops-gateway");
    metric(&deployment.control.http, ops, "httvps_certificate_unusable{name=\"localhost\"}").await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_dropping_anybody() {
    let deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "100ms")]).await;
    let echo = Destination::start(Behavior::Echo);
    let client = deployment.connect("v2").await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    let (now, day) = (Clock::system().now(), Duration::DAY);
    let (first, second) = (self_signed(now - day, now + day * 30), self_signed(now - day, now + day * 5));
    write(&deployment, &first.cert, &first.key);
    becomes(&deployment, "the new one is shown", async || shows(&deployment, &first.cert).await).await;
    assert_eq!(deployment.readiness().await, (200, "ready\n".into()));
    write(&deployment, &second.cert, &first.key);
    becomes(&deployment, "a pair that does not match is told", async || unusable(&deployment).await).await;
    let (status, text) = deployment.readiness().await;
    assert!(status == 200 && text.contains("files cannot be used"), "{text}");
    assert!(shows(&deployment, &first.cert).await, "the former one is served on");
    write(&deployment, &second.cert, &second.key);
    becomes(&deployment, "one that matches is taken", async || shows(&deployment, &second.cert).await).await;
    assert!(!unusable(&deployment).await && deployment.readiness().await.1.contains("expires at"));
    let ops = deployment.gateway().line("ops-gateway");
    let left = metric(&deployment.control.http, ops, "httvps_certificate_expiry_seconds{name=\"localhost\"}").await;
    assert!(left.abs_diff(5 * 86_400) < 120, "{left}");
    ping(&mut stream).await.expect("what was open goes on");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_certificate_again() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "0s")]).await;
    let (now, day) = (Clock::system().now(), Duration::DAY);
    let other = self_signed(now - day, now + day * 30);
    write(&deployment, &other.cert, &other.key);
    assert!(!shows(&deployment, &other.cert).await);
    deployment.gateway().signal("-HUP");
    becomes(&deployment, "it is read", async || shows(&deployment, &other.cert).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_date_is_named_in_readiness_and_diagnosis() {
    let deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("NET__CERTIFICATE_CHECK", "100ms")]).await;
    deployment.connect("v2").await.stop().await;
    let (now, day) = (Clock::system().now(), Duration::DAY);
    let cases = [
        (self_signed(now - day * 9, now - day), "has expired at", "CERTIFICATE_EXPIRED"),
        (self_signed(now + day, now + day * 9), "valid only from", "CERTIFICATE_NOT_YET_VALID"),
    ];
    for (pair, text, code) in cases {
        write(&deployment, &pair.cert, &pair.key);
        becomes(&deployment, text, async || deployment.readiness().await.1.contains(text)).await;
        eventually(|| async {
            let why = deployment.control.get("devices", &format!("{}/why", deployment.subscriber.device)).await;
            let found = why["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == code);
            if found { Ok(()) } else { Err(why["findings"].to_string()) }
        })
        .await;
    }
}
