//! A client that one transport fails for uses the next.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use httvps::net::tls::Identity;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::env;
use crate::support::node::CHACHA;
use crate::support::process::{Process, run};
use crate::support::transfer::echo;

/// A middlebox that terminates TLS with the gateway's key, drops HTTP/2 silently and passes on the rest.
struct Blackhole {
    url: String,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Blackhole {
    async fn before(deployment: &Deployment) -> Self {
        let folder = Path::new(&deployment.ca()).parent().unwrap().to_path_buf();
        let identity = Identity::read(&deployment.ca(), &folder.join("key.pem").to_string_lossy()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(&identity.cert).unwrap()],
                PrivateKeyDer::from_pem_slice(&identity.key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let connector =
            TlsConnector::from(httvps::net::tls::client(Some(&std::fs::read(deployment.ca()).unwrap())).unwrap());
        let gateway = deployment.address().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}{PATH}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, connector, gateway) = (acceptor.clone(), connector.clone(), gateway.clone());
                tokio::spawn(async move {
                    let mut near = acceptor.accept(near).await?;
                    if near.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let mut connection = h2::server::handshake(near).await.map_err(std::io::Error::other)?;
                        let mut held = Vec::new();
                        while let Some(Ok(request)) = connection.accept().await {
                            held.push(request);
                        }
                        return Ok(());
                    }
                    let far = TcpStream::connect(gateway).await?;
                    let mut far = connector.connect(ServerName::try_from("localhost").unwrap(), far).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
                });
            }
        });
        Self { url, connections, task: task.abort_handle() }
    }
}

impl Drop for Blackhole {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn client(deployment: &Deployment, url: &str, more: &[(&str, &str)]) -> Process {
    let mut env = deployment.client_env_of(url, "v2");
    env.extend(self::env(&[("CLIENT__TRANSPORT", "auto"), ("CLIENT__CONNECT_TIMEOUT", "2s")]));
    env.extend(self::env(more));
    Process::start(&["connect"], &env).await
}

async fn is_exact(client: &Process) {
    let echoing = Destination::start(Behavior::Echo);
    echo(client.line("socks"), echoing.address, 300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_uses_the_endpoints_best_transport() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    for (transports, expected) in
        [("[\"h2\",\"h2ws\",\"ws\"]", "h2"), ("[\"h2ws\",\"ws\"]", "h2ws"), ("[\"ws\"]", "ws")]
    {
        let client = client(&deployment, &deployment.url(), &[("CLIENT__TRANSPORTS", transports)]).await;
        is_exact(&client).await;
        assert_eq!(deployment.tunnels_by(expected).await, 1, "{transports}");
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_http2_is_upgraded_on_the_same_connection() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("HTTP2__ENABLED", "false")]).await;
    let client = client(&deployment, &deployment.url(), &[]).await;
    is_exact(&client).await;
    assert_eq!(deployment.tunnels_by("ws").await, 1);
    let ended = client.stop().await;
    assert!(!ended.stderr.contains("retrying"), "the first connection will do: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_that_the_network_drops_is_abandoned() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let blackhole = Blackhole::before(&deployment).await;
    let client = client(&deployment, &blackhole.url, &[]).await;
    is_exact(&client).await;
    assert_eq!((deployment.tunnels_by("h2").await, deployment.tunnels_by("ws").await), (0, 1));
    assert_eq!(blackhole.connections.load(Ordering::SeqCst), 3, "one a transport");
    assert_eq!(client.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_gets_its_code_over_a_websocket() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.subscriber.token = "a.b.c".into();
    let mut env = deployment.client_env("v2");
    env.extend(self::env(&[("CLIENT__TRANSPORT", "auto")]));
    let (code, _, stderr) = run(&["connect"], &env).await;
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("404") && stderr.contains("INVALID_TOKEN"), "{stderr}");
}
