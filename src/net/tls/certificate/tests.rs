use rcgen::{CertificateParams, KeyPair};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use time::macros::datetime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::config::Source;
use crate::metrics::Metrics;
use crate::net::tls::{self, Certificates, Tickets};

const BEGINS: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const ENDS: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);

fn made(begins: OffsetDateTime, ends: OffsetDateTime) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (begins, ends);
    let cert = params.self_signed(&key).unwrap();
    Identity { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
}

fn net() -> config::Net {
    Source::with::<&str, &str>([]).unwrap().section().unwrap()
}

fn of(identity: &Identity) -> Arc<Certificate> {
    Certificate::of(identity, &net()).unwrap()
}

#[test]
fn files_are_served_as_they_are_and_what_cannot_be_used_leaves_the_former() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let write = |cert_of: &Identity, key_of: &Identity| {
        std::fs::write(&cert, &cert_of.cert).unwrap();
        std::fs::write(&key, &key_of.key).unwrap();
    };
    let (first, second) = (made(BEGINS, ENDS), made(BEGINS, ENDS + time::Duration::DAY));
    write(&first, &first);
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let certificate = Certificate::read(cert, key, &net()).unwrap();
    let complaints = || {
        let complaints = certificate.complaints(BEGINS);
        assert_eq!(certificate.is_unusable(), !complaints.is_empty());
        complaints
    };
    assert_eq!((certificate.look(false), certificate.validity().unwrap().1), (Look::Same, ENDS));
    write(&second, &first);
    assert_eq!(certificate.look(false), Look::Rejected);
    assert!(complaints().is_empty(), "the files may be half written");
    assert_eq!((certificate.look(false), certificate.validity().unwrap().1), (Look::Rejected, ENDS));
    assert_eq!(complaints().len(), 1, "they stay so");
    write(&second, &second);
    assert_eq!((certificate.look(false), complaints().len()), (Look::Replaced, 0));
    assert_eq!(certificate.validity().unwrap().1, ENDS + time::Duration::DAY);
    std::fs::remove_file(key).unwrap();
    assert_eq!((certificate.look(true), complaints().len()), (Look::Rejected, 1));
    assert!(complaints()[0].contains("key.pem"), "{:?}", complaints());
    write(&second, &second);
    assert_eq!((certificate.look(false), complaints().len()), (Look::Same, 0));
}

#[test]
fn one_that_is_awaited_is_taken_once_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.pem");
    let made = made(BEGINS, ENDS);
    let certificate = Certificate::awaited(&path, None, &net());
    assert_eq!((certificate.look(true), certificate.validity()), (Look::Same, None));
    assert!(certificate.complaints(BEGINS).is_empty() && !certificate.is_for(&["localhost".into()]));
    std::fs::write(&path, &made.cert).unwrap();
    assert_eq!(certificate.look(true), Look::Rejected);
    assert!(certificate.complaints(BEGINS)[0].contains("no private key"), "{:?}", certificate.complaints(BEGINS));
    std::fs::write(&path, [made.key, made.cert].concat()).unwrap();
    assert_eq!((certificate.look(true), certificate.validity()), (Look::Replaced, Some((BEGINS, ENDS))));
    assert!(certificate.is_for(&["localhost".into()]) && !certificate.is_for(&["elsewhere".into()]));
}

#[test]
fn an_expiry_is_told_in_time() {
    let certificate = of(&made(BEGINS, ENDS));
    let said = |now: OffsetDateTime| certificate.complaints(now).pop().unwrap_or_default();
    assert!(said(BEGINS - time::Duration::SECOND).contains("only from"));
    assert_eq!(said(BEGINS), "");
    assert_eq!(said(ENDS - time::Duration::days(8)), "");
    assert!(said(ENDS - time::Duration::days(6)).contains("in 6 days"));
    assert!(said(ENDS + time::Duration::SECOND).contains("has expired"));
}

/// A connection of a client: how the handshake went, and the certificate that was shown.
async fn met(acceptor: &TlsAcceptor, connector: &TlsConnector) -> (Option<HandshakeKind>, Vec<u8>) {
    let (near, far) = tokio::io::duplex(65_536);
    let acceptor = acceptor.clone();
    let serving = tokio::spawn(async move {
        let mut socket = acceptor.accept(far).await.unwrap();
        socket.write_all(b"x").await.unwrap();
        socket.flush().await.unwrap();
        socket.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let mut socket = connector.connect(ServerName::try_from("localhost").unwrap(), near).await.unwrap();
    socket.read_exact(&mut [0]).await.unwrap();
    let kind = socket.get_ref().1.handshake_kind();
    let leaf = socket.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    socket.shutdown().await.unwrap();
    drop(socket);
    serving.await.unwrap();
    (kind, leaf)
}

/// One that is valid now.
fn current() -> Identity {
    let now = Clock::system().now();
    made(now - time::Duration::DAY, now + time::Duration::DAY)
}

fn acceptor(certificate: &Arc<Certificate>, clock: Clock) -> TlsAcceptor {
    let certificates = Certificates::new(Arc::clone(certificate), Vec::new(), &net(), &Metrics::new("test"));
    let tickets = Tickets::own(Duration::from_mins(5), clock);
    TlsAcceptor::from(tls::server(certificates, tickets, &[tls::HTTP_1_1]).unwrap())
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_also_once_the_certificate_was_replaced() {
    let (first, second) = (current(), current());
    let certificate = of(&first);
    let acceptor = acceptor(&certificate, Clock::system());
    let connector = TlsConnector::from(tls::client(Some(&[first.cert.as_slice(), &second.cert].concat())).unwrap());
    let (kind, leaf) = met(&acceptor, &connector).await;
    assert_eq!(kind, Some(HandshakeKind::Full));
    assert_eq!(met(&acceptor, &connector).await, (Some(HandshakeKind::Resumed), leaf.clone()));
    *certificate.served.write().unwrap() = Some(Arc::new(Served::new(&second, &certificate.provider).unwrap()));
    assert_eq!(met(&acceptor, &connector).await.0, Some(HandshakeKind::Resumed));
    let fresh = TlsConnector::from(tls::client(Some(&second.cert)).unwrap());
    assert_ne!(met(&acceptor, &fresh).await.1, leaf);
}

#[tokio::test]
async fn a_client_that_comes_back_after_the_tickets_lifetime_starts_anew() {
    let identity = current();
    let manual = ManualClock::at(BEGINS);
    let acceptor = acceptor(&of(&identity), manual.clock());
    let connector = TlsConnector::from(tls::client(Some(&identity.cert)).unwrap());
    assert_eq!(met(&acceptor, &connector).await.0, Some(HandshakeKind::Full));
    manual.advance(Duration::from_mins(5));
    assert_eq!(met(&acceptor, &connector).await.0, Some(HandshakeKind::Resumed));
    manual.advance(Duration::from_secs(301));
    assert_eq!(met(&acceptor, &connector).await.0, Some(HandshakeKind::Full));
}
