//! Certificates by ACME, from Debian's `pebble`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use httvps::clock::Clock;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use crate::support::certificates::{CertificateFiles, write_certificate};
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, metric};
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::{Env, env, free_port, standalone_gateway_env};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::transfer::{open_echo, ping};
use crate::support::wait::{eventually, is_listening};

const NAME: &str = "vpn.example.test";
const OTHER: &str = "other.example.test";
const EAB_ID: &str = "kid-1";
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// The ports and files of an ACME directory, running or not. It resolves every name to 127.0.0.1.
struct AcmeSetup {
    folder: TempDir,
    own: CertificateFiles,
    port: u16,
    management: u16,
    dns: u16,
    http: u16,
    tls: u16,
}

/// A running directory and its name server.
struct Pebble {
    directory: Child,
    _names: Child,
}

impl AcmeSetup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = write_certificate(&folder, "directory", &["127.0.0.1"]);
        let [port, management, dns, http, tls] = std::array::from_fn(|_| free_port());
        Self { folder, own, port, management, dns, http, tls }
    }

    fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    async fn start(&self, binding: bool) -> Pebble {
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.own.cert,
            "privateKey": self.own.key,
            "httpPort": self.http,
            "tlsPort": self.tls,
            "externalAccountBindingRequired": binding,
            "externalAccountMACKeys": { EAB_ID: EAB_KEY },
        } });
        let path = self.folder.path().join("pebble.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let dns = format!("127.0.0.1:{}", self.dns);
        let started = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
        };
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
        let management = format!("127.0.0.1:{}", free_port());
        let mut names = Command::new("pebble-challtestsrv");
        let names = started(names.args(["-dns01", &dns, "-management", &management]).args(off));
        let mut directory = Command::new("pebble");
        directory.args(["-strict", "-config", path.to_str().unwrap(), "-dnsserver", &dns]);
        let directory = started(directory.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0"));
        for port in [self.port, self.management] {
            is_listening(([127, 0, 0, 1], port)).await;
        }
        Pebble { directory, _names: names }
    }

    /// The root certificate, a new one after each start.
    async fn root(&self) -> String {
        let ca = reqwest::Certificate::from_pem(self.own.pem.as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        http.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// The variables of a gateway that uses this directory.
    fn env(&self, names: &[&str], challenge: &str) -> Env {
        env(&[
            ("TLS__CERT", ""),
            ("TLS__KEY", ""),
            ("GATEWAY__LISTEN", &format!("127.0.0.1:{}", self.tls)),
            ("ACME__NAMES", &json!(names).to_string()),
            ("ACME__DIRECTORY", &self.directory()),
            ("ACME__CONTACT", "[\"mailto:ops@example.test\"]"),
            ("ACME__CA", &self.own.cert),
            ("ACME__CHALLENGE", challenge),
            ("ACME__HTTP_LISTEN", &format!("127.0.0.1:{}", self.http)),
            ("ACME__RETRY_MIN", "200ms"),
            ("ACME__RETRY_MAX", "1s"),
        ])
    }

    fn file(&self, state: &Path, kind: &str) -> std::path::PathBuf {
        let hash = httvps::digest::sha256_hex(self.directory().as_bytes());
        state.join(format!("acme-{}.{kind}", &hash[..8]))
    }

    fn account(&self, state: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(self.file(state, "json")).unwrap()).unwrap()
    }

    /// Fails unless the gateway presents a certificate for the name from this authority.
    async fn shows(&self, name: &str, authority: &str) -> Result<(), String> {
        let client = httvps::net::tls::client(Some(authority.as_bytes())).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", self.tls)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(client).connect(name, socket).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

async fn orders(gateway: &Process, outcome: &str) -> u64 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let name = format!("httvps_acme_orders_total{{outcome=\"{outcome}\"}}");
    metric(&http, gateway.line("ops-gateway"), &name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_obtained_by_tls_alpn_01_for_a_bound_account() {
    let acme = AcmeSetup::new();
    let mut pebble = acme.start(true).await;
    let state = acme.folder.path().join("state");
    let with = |names: &[&str]| {
        let mut env = standalone_gateway_env(
            state.to_str().unwrap(),
            &[("ACME__EAB_KEY_ID", EAB_ID), ("ACME__EAB_KEY", EAB_KEY)],
        );
        env.extend(acme.env(names, "tls-alpn-01"));
        env
    };
    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, OTHER])).await;
    let root = acme.root().await;
    eventually(|| acme.shows(NAME, &root)).await;
    acme.shows(OTHER, &root).await.unwrap();
    for kind in ["json", "pem"] {
        let mode = std::fs::metadata(acme.file(&state, kind)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{kind}");
    }
    let mut config: ClientConfig = (*httvps::net::tls::client(Some(root.as_bytes())).unwrap()).clone();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let socket = TcpStream::connect(("127.0.0.1", acme.tls)).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let refused = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "without an order nobody knows the protocol: {refused}");
    let account = acme.account(&state);
    let log = gateway.stop().await.stderr;
    assert!(log.contains("created an ACME account") && !log.contains("PRIVATE"), "{log}");

    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, OTHER])).await;
    acme.shows(NAME, &root).await.unwrap();
    assert_eq!(orders(&gateway, "issued").await, 0, "what was kept is used");
    gateway.stop().await;

    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, "third.example.test"])).await;
    eventually(|| acme.shows("third.example.test", &root)).await;
    assert_eq!(acme.account(&state), account, "the account is the same");
    gateway.stop().await;

    pebble.directory.kill().await.unwrap();
    drop(pebble);
    let _pebble = acme.start(true).await;
    let root = acme.root().await;
    let gateway = Process::start(&["serve-gateway"], &with(&["fourth.example.test"])).await;
    eventually(|| acme.shows("fourth.example.test", &root)).await;
    assert_ne!(acme.account(&state), account, "a directory that forgot the account is given another one");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_certificate_is_not_ready_and_gets_one_by_http_01() {
    let acme = AcmeSetup::new();
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    deployment.gateway.take().unwrap().stop().await;
    let elsewhere = free_port();
    let mut env = deployment.gateway_env.clone();
    env.extend(acme.env(&[NAME], "http-01"));
    env.extend(crate::support::environment::env(&[("ACME__HTTP_LISTEN", &format!("127.0.0.1:{elsewhere}"))]));
    deployment.gateway = Some(Process::start(&["serve-gateway"], &env).await);
    let says = |what: &'static str| {
        let deployment = &deployment;
        move || async move {
            let (status, text) = deployment.readiness().await;
            if status == 503 && text.contains(what) { Ok(()) } else { Err(format!("{status} {text}")) }
        }
    };
    eventually(says("there is no certificate yet: error sending request")).await;
    let _pebble = acme.start(false).await;
    eventually(says("not proven: vpn.example.test: ")).await;
    assert!(orders(deployment.gateway(), "failed").await > 1);
    deployment.gateway.take().unwrap().stop().await;

    deployment.gateway_env.extend(acme.env(&[NAME], "http-01"));
    deployment.start_gateway().await;
    let root = acme.root().await;
    acme.shows(NAME, &root).await.unwrap();
    assert_eq!(deployment.readiness().await, (200, "ready\n".into()));
    eventually(|| async {
        match TcpStream::connect(("127.0.0.1", acme.http)).await {
            Ok(_) => Err("the listener for challenges is open without an order".into()),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_under_open_connections_once_the_directory_is_back() {
    let acme = AcmeSetup::new();
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    deployment.gateway.take().unwrap().stop().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let now = Clock::system().now();
    (params.not_before, params.not_after) = (now - Duration::days(80), now + Duration::days(9));
    let old = params.self_signed(&key).unwrap().pem();
    std::fs::write(acme.file(deployment.state.path(), "pem"), key.serialize_pem() + &old).unwrap();
    std::fs::write(deployment.ca(), &old).unwrap();
    deployment.gateway_env.extend(acme.env(&[NAME], "tls-alpn-01"));
    deployment.start_gateway().await;
    let echo = Destination::start(Behavior::Echo);
    let client = deployment.connect("v2").await;
    let mut stream = open_echo(&client, &echo).await.unwrap();
    eventually(|| async {
        let (status, text) = deployment.readiness().await;
        let told = status == 200 && text.contains("warning: the certificate cannot be renewed: error sending request");
        if told { Ok(()) } else { Err(text) }
    })
    .await;
    acme.shows(NAME, &old).await.expect("the old one is served on");
    let _pebble = acme.start(false).await;
    let root = acme.root().await;
    eventually(|| acme.shows(NAME, &root)).await;
    ping(&mut stream).await.expect("what was open goes on");
    eventually(|| async {
        let (status, text) = deployment.readiness().await;
        if (status, text.as_str()) == (200, "ready\n") { Ok(()) } else { Err(text) }
    })
    .await;
    assert!(orders(deployment.gateway(), "failed").await > 0 && orders(deployment.gateway(), "issued").await == 1);
    assert_eq!(client.stop().await.code, Some(0));
}
