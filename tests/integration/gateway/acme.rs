//! Certificates by ACME, of Debian's `pebble`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use crate::support::certificates::{Pair, pair};
use crate::support::database::Kind;
use crate::support::deployment::{World, metric};
use crate::support::destination::{Destination, Manner};
use crate::support::environment::{Env, alone, env, free_port};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::settling::readiness;
use crate::support::transfer::{echoes, opened};
use crate::support::wait::eventually;

const NAME: &str = "vpn.example.test";
const OTHER: &str = "other.example.test";
const EAB_ID: &str = "kid-1";
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Where a directory is and looks, whether it runs or not. Every name is 127.0.0.1 to it.
struct Site {
    folder: TempDir,
    own: Pair,
    port: u16,
    management: u16,
    dns: u16,
    http: u16,
    tls: u16,
}

/// A directory and the name server that it asks.
struct Pebble {
    directory: Child,
    _names: Child,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = pair(&folder, "directory", &["127.0.0.1"]);
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
            eventually(|| async move {
                TcpStream::connect(("127.0.0.1", port)).await.map(|_| ()).map_err(|error| error.to_string())
            })
            .await;
        }
        Pebble { directory, _names: names }
    }

    /// The authority of what it issues, which is another one after each start.
    async fn root(&self) -> String {
        let ca = reqwest::Certificate::from_pem(self.own.pem.as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        http.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Of a gateway that asks here.
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

    /// Whether the gateway shows a certificate for a name, by an authority.
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
    let site = Site::new();
    let mut pebble = site.start(true).await;
    let state = site.folder.path().join("state");
    let with = |names: &[&str]| {
        let mut env = alone(state.to_str().unwrap(), &[("ACME__EAB_KEY_ID", EAB_ID), ("ACME__EAB_KEY", EAB_KEY)]);
        env.extend(site.env(names, "tls-alpn-01"));
        env
    };
    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, OTHER])).await;
    let root = site.root().await;
    eventually(|| site.shows(NAME, &root)).await;
    site.shows(OTHER, &root).await.unwrap();
    for kind in ["json", "pem"] {
        let mode = std::fs::metadata(site.file(&state, kind)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{kind}");
    }
    let mut config: ClientConfig = (*httvps::net::tls::client(Some(root.as_bytes())).unwrap()).clone();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let socket = TcpStream::connect(("127.0.0.1", site.tls)).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let refused = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "without an order nobody knows the protocol: {refused}");
    let account = site.account(&state);
    let log = gateway.stop().await.stderr;
    assert!(log.contains("ACME account made") && !log.contains("PRIVATE"), "{log}");

    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, OTHER])).await;
    site.shows(NAME, &root).await.unwrap();
    assert_eq!(orders(&gateway, "issued").await, 0, "what was kept is used");
    gateway.stop().await;

    let gateway = Process::start(&["serve-gateway"], &with(&[NAME, "third.example.test"])).await;
    eventually(|| site.shows("third.example.test", &root)).await;
    assert_eq!(site.account(&state), account, "the account is the same");
    gateway.stop().await;

    pebble.directory.kill().await.unwrap();
    drop(pebble);
    let _pebble = site.start(true).await;
    let root = site.root().await;
    let gateway = Process::start(&["serve-gateway"], &with(&["fourth.example.test"])).await;
    eventually(|| site.shows("fourth.example.test", &root)).await;
    assert_ne!(site.account(&state), account, "a directory that forgot the account is given another one");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_certificate_says_why_and_gets_one_by_http_01() {
    let site = Site::new();
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    world.gateway.take().unwrap().stop().await;
    let elsewhere = free_port();
    let mut env = world.gateway_env.clone();
    env.extend(site.env(&[NAME], "http-01"));
    env.extend(crate::support::environment::env(&[("ACME__HTTP_LISTEN", &format!("127.0.0.1:{elsewhere}"))]));
    world.gateway = Some(Process::start(&["serve-gateway"], &env).await);
    let says = |what: &'static str| {
        let world = &world;
        move || async move {
            let (status, text) = readiness(world).await;
            if status == 503 && text.contains(what) { Ok(()) } else { Err(format!("{status} {text}")) }
        }
    };
    eventually(says("there is no certificate yet: error sending request")).await;
    let _pebble = site.start(false).await;
    eventually(says("not proven: vpn.example.test: ")).await;
    assert!(orders(world.gateway(), "failed").await > 1);
    world.gateway.take().unwrap().stop().await;

    world.gateway_env.extend(site.env(&[NAME], "http-01"));
    world.start_gateway().await;
    let root = site.root().await;
    site.shows(NAME, &root).await.unwrap();
    assert_eq!(readiness(&world).await, (200, "ready\n".into()));
    eventually(|| async {
        match TcpStream::connect(("127.0.0.1", site.http)).await {
            Ok(_) => Err("the listener for challenges is open without an order".into()),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_under_open_connections_once_the_directory_is_there() {
    let site = Site::new();
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    world.gateway.take().unwrap().stop().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::days(80), now + Duration::days(9));
    let old = params.self_signed(&key).unwrap().pem();
    std::fs::write(site.file(world.state.path(), "pem"), key.serialize_pem() + &old).unwrap();
    std::fs::write(world.ca(), &old).unwrap();
    world.gateway_env.extend(site.env(&[NAME], "tls-alpn-01"));
    world.start_gateway().await;
    let echo = Destination::start(Manner::Echo);
    let client = world.connect("v2").await;
    let mut stream = opened(&client, &echo).await.unwrap();
    eventually(|| async {
        let (status, text) = readiness(&world).await;
        let told = status == 200 && text.contains("warning: the certificate cannot be renewed: error sending request");
        if told { Ok(()) } else { Err(text) }
    })
    .await;
    site.shows(NAME, &old).await.expect("the old one is served on");
    let _pebble = site.start(false).await;
    let root = site.root().await;
    eventually(|| site.shows(NAME, &root)).await;
    echoes(&mut stream).await.expect("what was open goes on");
    eventually(|| async {
        let (status, text) = readiness(&world).await;
        if (status, text.as_str()) == (200, "ready\n") { Ok(()) } else { Err(text) }
    })
    .await;
    assert!(orders(world.gateway(), "failed").await > 0 && orders(world.gateway(), "issued").await == 1);
    assert_eq!(client.stop().await.code, Some(0));
}
