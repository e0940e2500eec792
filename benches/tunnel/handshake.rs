use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use httvps::clock::Clock;
use httvps::config::{Net, Source};
use httvps::metrics::Metrics;
use httvps::net::tls::{self, Certificate, Certificates, Identity, Tickets};
use httvps::token::{Issuer, Verifier};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;

use crate::measure::thread_cpu_seconds;

type Figure = (&'static str, fn() -> f64);

pub(crate) const FIGURES: [Figure; 4] = [
    ("floor_tls_handshake", cost),
    ("floor_tls_handshake_x25519", cost_without_ml_kem),
    ("floor_tls_resumption", cost_of_resumption),
    ("floor_token", token_cost),
];
/// The share of a new tunnel's cost.
pub(crate) const OF_A_TUNNEL: [&str; 2] = ["floor_tls_handshake", "floor_token"];
const HANDSHAKES: usize = 1_000;
const TOKENS: usize = 10_000;
const TOKEN_SECONDS: i64 = 3_600;

/// A server with a certificate and the default settings.
pub(crate) fn server(identity: &Identity) -> Arc<ServerConfig> {
    let net: Net = Source::with::<&str, &str>([]).unwrap().section().unwrap();
    let certificate = Certificate::of(identity, &net).unwrap();
    let certificates = Certificates::new(certificate, Vec::new(), &net, &Metrics::new("bench"));
    tls::server(certificates, Tickets::own(net.ticket_lifetime, Clock::system()), &[tls::HTTP_1_1]).unwrap()
}

/// Milliseconds of CPU for accepting a connection with a full handshake.
fn cost() -> f64 {
    cost_with(|config, _| config.resumption = Resumption::disabled())
}

/// The same for a client without hybrid key exchange.
fn cost_without_ml_kem() -> f64 {
    cost_with(|config, roots| {
        let mut provider = (**config.crypto_provider()).clone();
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        *config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
    })
}

/// The same for a client that resumes with a ticket.
fn cost_of_resumption() -> f64 {
    cost_with(|_, _| {})
}

fn cost_with(change: impl FnOnce(&mut ClientConfig, RootCertStore)) -> f64 {
    let identity = Identity::self_signed(Clock::system().now()).unwrap();
    let acceptor = TlsAcceptor::from(server(&identity));
    let mut config = (*tls::client(Some(&identity.cert)).unwrap()).clone();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&identity.cert).unwrap()).unwrap();
    change(&mut config, roots);
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients = thread::spawn(move || connect(address, Arc::new(config)));
        let before = thread_cpu_seconds();
        for _ in 0..HANDSHAKES {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut session = acceptor.accept(socket).await.unwrap();
            session.write_all(b"x").await.unwrap();
            session.flush().await.unwrap();
            assert_eq!(session.read(&mut [0]).await.unwrap_or(0), 0);
        }
        let cost = thread_cpu_seconds() - before;
        clients.join().unwrap();
        cost * 1_000.0 / HANDSHAKES as f64
    })
}

/// Milliseconds of CPU for checking a device's token.
fn token_cost() -> f64 {
    let issuer = Issuer::new(&[3; 32]).unwrap();
    let now = Clock::system().now();
    let token = issuer.issue(Uuid::now_v7(), Uuid::now_v7(), now.unix_timestamp(), TOKEN_SECONDS).unwrap();
    let verifier = Verifier::new(issuer.key_set());
    let before = thread_cpu_seconds();
    for _ in 0..TOKENS {
        verifier.verify(&token, now).unwrap();
    }
    (thread_cpu_seconds() - before) * 1_000.0 / TOKENS as f64
}

fn connect(address: SocketAddr, config: Arc<ClientConfig>) {
    let connector = TlsConnector::from(config);
    let name = ServerName::try_from("localhost").unwrap();
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        for _ in 0..HANDSHAKES {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut session = connector.connect(name.clone(), socket).await.unwrap();
            session.read_exact(&mut [0]).await.unwrap();
        }
    });
}
