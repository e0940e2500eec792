//! TLS as clients see it, on gateways without a control plane.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{CertificateFiles, write_certificate};
use crate::support::deployment::gateway_address;
use crate::support::environment::standalone_gateway_env;
use crate::support::process::{Process, run};

async fn serving(folder: &TempDir, name: &str, pair: &CertificateFiles, more: &[(&str, &str)]) -> Process {
    let state = folder.path().join(name);
    let mut env =
        standalone_gateway_env(state.to_str().unwrap(), &[("TLS__CERT", &pair.cert), ("TLS__KEY", &pair.key)]);
    env.extend(crate::support::environment::env(more));
    Process::start(&["serve-gateway"], &env).await
}

fn trusting(pems: &[&str]) -> ClientConfig {
    (*httvps::net::tls::client(Some(pems.concat().as_bytes())).unwrap()).clone()
}

pub(crate) async fn met(gateway: &Process, config: &Arc<ClientConfig>, name: &str) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(gateway_address(gateway)).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, socket).await.unwrap()
}

/// Sends a request, so that tickets arrive with the response.
async fn asked(mut stream: TlsStream<TcpStream>) -> HandshakeKind {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_share_a_secret_resume_each_others_clients() {
    let folder = tempfile::tempdir().unwrap();
    let pair = write_certificate(&folder, "all", &["localhost"]);
    let secret = "TLS__TICKET_SECRET";
    let one = [(secret, "of all the gateways behind one name")];
    let first = serving(&folder, "first", &pair, &one).await;
    let second = serving(&folder, "second", &pair, &one).await;
    let strange = serving(&folder, "strange", &pair, &[(secret, "of the gateways behind another name")]).await;
    let own = serving(&folder, "own", &pair, &[]).await;
    let client = Arc::new(trusting(&[&pair.pem]));
    let visits = [
        (&first, HandshakeKind::Full, "the first time"),
        (&second, HandshakeKind::Resumed, "elsewhere with the same secret"),
        (&first, HandshakeKind::Resumed, "again"),
        (&strange, HandshakeKind::Full, "with another secret"),
        (&own, HandshakeKind::Full, "with keys of its own"),
        (&own, HandshakeKind::Resumed, "again with keys of its own"),
    ];
    for (gateway, kind, what) in visits {
        assert_eq!(asked(met(gateway, &client, "localhost").await).await, kind, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let default = write_certificate(&folder, "default", &["localhost"]);
    let wild = write_certificate(&folder, "wild", &["*.example.com", "example.com"]);
    let named = write_certificate(&folder, "named", &["deep.example.com"]);
    let table = |pair: &CertificateFiles| format!("{{cert=\"{}\",key=\"{}\"}}", pair.cert, pair.key);
    let more = format!("[{},{}]", table(&wild), table(&named));
    let gateway = serving(&folder, "state", &default, &[("TLS__CERTIFICATES", &more)]).await;
    let shown = async |name: &str| {
        let client = Arc::new(trusting(&[&default.pem, &wild.pem, &named.pem]));
        let socket = TcpStream::connect(gateway_address(&gateway)).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TlsConnector::from(client).connect(name, socket).await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    let is = |pair: &CertificateFiles| Some(CertificateDer::from_pem_slice(pair.pem.as_bytes()).unwrap().to_vec());
    assert_eq!(shown("localhost").await, is(&default));
    assert_eq!(shown("example.com").await, is(&wild));
    assert_eq!(shown("www.example.com").await, is(&wild));
    assert_eq!(shown("deep.example.com").await, is(&named));
    assert_eq!(shown("unknown.test").await, None, "the default one is of another name");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/metrics", gateway.line("ops-gateway"));
    let text = http.get(url).send().await.unwrap().text().await.unwrap();
    for name in ["localhost", "*.example.com", "deep.example.com"] {
        assert!(text.contains(&format!("httvps_certificate_expiry_seconds{{name=\"{name}\"}} ")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_further_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (default, other) =
        (write_certificate(&folder, "default", &["localhost"]), write_certificate(&folder, "other", &["example.com"]));
    let file = folder.path().join("gateway.toml");
    let path = file.to_str().unwrap();
    let state = folder.path().join("state");
    let env =
        standalone_gateway_env(state.to_str().unwrap(), &[("TLS__CERT", &default.cert), ("TLS__KEY", &default.key)]);
    let cases = [
        (
            format!("cert = \"{}\"\nkey = \"{}\"\n", other.cert, default.key),
            format!("{}, {}: ", other.cert, default.key),
        ),
        (format!("cert = \"/nonexistent.pem\"\nkey = \"{}\"\n", other.key), "/nonexistent.pem: No such file".into()),
        (format!("cert = \"{}\"\n", other.cert), "missing field `key`".into()),
    ];
    for (text, reason) in cases {
        std::fs::write(&file, format!("[log]\nlevel = \"info\"\n[[tls.certificates]]\n{text}")).unwrap();
        let (code, _, stderr) = run(&["serve-gateway", "--config", path], &env).await;
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("tls.") && stderr.contains(&reason), "{reason}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x25519_with_ml_kem_is_used_where_the_client_supports_it() {
    let folder = tempfile::tempdir().unwrap();
    let pair = write_certificate(&folder, "one", &["localhost"]);
    let gateway = serving(&folder, "state", &pair, &[]).await;
    let group = async |config: ClientConfig| {
        let stream = met(&gateway, &Arc::new(config), "localhost").await;
        let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        (group, stream.get_ref().1.handshake_kind().unwrap())
    };
    assert_eq!(group(trusting(&[&pair.pem])).await, (NamedGroup::X25519MLKEM768, HandshakeKind::Full));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pair.pem.as_bytes()).unwrap()).unwrap();
    for known in [kx_group::X25519, kx_group::SECP256R1] {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![known];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots.clone()).with_no_client_auth();
        config.resumption = Resumption::disabled();
        assert_eq!(group(config).await, (known.name(), HandshakeKind::Full));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_on_a_public_address_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    for (listen, loud) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let state = folder.path().join(listen);
        let mut env = standalone_gateway_env(state.to_str().unwrap(), &[("TLS__SELF_SIGNED", "true")]);
        env.extend(crate::support::environment::env(&[("GATEWAY__LISTEN", listen)]));
        let ended = Process::start(&["serve-gateway"], &env).await.stop().await;
        assert_eq!(ended.stderr.contains("open to other machines"), loud, "{}", ended.stderr);
    }
}
