//! A whole deployment on loopback: database, control plane, gateway, nodes, a subscriber.

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::control::{Control, REGION, register_gateway, register_node};
use crate::support::database::Kind;
use crate::support::environment::{Env, env, free_port};
use crate::support::node::{Node, Software};
use crate::support::process::Process;
use crate::support::settling::is_ready;
use crate::support::subscriber::Subscriber;
use crate::support::times::now;

pub(crate) const PATH: &str = "/tunnel-of-the-tests";

pub(crate) struct Deployment {
    pub(crate) control: Control,
    pub(crate) nodes: Vec<Node>,
    pub(crate) gateway: Option<Process>,
    pub(crate) gateway_env: Env,
    pub(crate) subscriber: Subscriber,
    pub(crate) state: tempfile::TempDir,
}

impl Deployment {
    pub(crate) async fn start(kind: Kind, software: Software) -> Self {
        Self::build(kind, &[software], json!({}), &[]).await
    }

    pub(crate) async fn build(kind: Kind, software: &[Software], plan: Value, more: &[(&str, &str)]) -> Self {
        Self::around(Control::start(kind).await, software, plan, more).await
    }

    /// Builds a deployment around a running control plane.
    pub(crate) async fn around(control: Control, software: &[Software], plan: Value, more: &[(&str, &str)]) -> Self {
        control.create("regions", json!({ "code": REGION })).await;
        let mut nodes = Vec::new();
        for software in software {
            let node = Node::start(*software).await;
            register_node(&control, &node).await;
            nodes.push(node);
        }
        let (_, token) = register_gateway(&control, "gateway").await;
        let subscriber = Subscriber::create(&control, plan).await;
        let state = tempfile::tempdir().unwrap();
        let identity = httvps::net::tls::Identity::self_signed(now()).unwrap();
        let file = |name: &str| state.path().join(name).to_string_lossy().into_owned();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        std::fs::write(&cert, &identity.cert).unwrap();
        std::fs::write(&key, &identity.key).unwrap();
        let mut gateway_env = env(&[
            ("GATEWAY__LISTEN", &format!("127.0.0.1:{}", free_port())),
            ("GATEWAY__CONTROL_URL", &control.url),
            ("GATEWAY__TOKEN", &token),
            ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
            ("GATEWAY__REPORT_INTERVAL", "300ms"),
            ("GATEWAY__FLUSH_INTERVAL", "100ms"),
            ("GATEWAY__HEARTBEAT_INTERVAL", "500ms"),
            ("GATEWAY__CONTROL_PATIENCE", "2s"),
            ("OFFLINE__FLUSH_INTERVAL", "50ms"),
            ("GATEWAY__DRAIN_TIMEOUT", "5s"),
            ("GATEWAY__DRAIN_JITTER", "0s"),
            ("GATEWAY__DRAIN_MOVE", "500ms"),
            ("TUNNEL__PATH", PATH),
            ("TUNNEL__HELLOS_PER_MINUTE", "1000000"),
            ("TLS__CERT", &cert),
            ("TLS__KEY", &key),
            ("PROBE__TARGET", ""),
            ("PROBE__INTERVAL", "1s"),
            ("PROBE__RETRY_AFTER", "500ms"),
            ("EGRESS__ALLOW_PRIVATE", "true"),
            ("OPS__GATEWAY_LISTEN", "127.0.0.1:0"),
        ]);
        gateway_env.extend(env(more));
        let mut deployment = Self { control, nodes, gateway: None, gateway_env, subscriber, state };
        deployment.start_gateway().await;
        deployment
    }

    pub(crate) async fn start_gateway(&mut self) {
        let gateway = Process::start(&["serve-gateway"], &self.gateway_env).await;
        is_ready(&self.control.http, &gateway).await;
        self.gateway = Some(gateway);
    }

    pub(crate) fn gateway(&self) -> &Process {
        self.gateway.as_ref().unwrap()
    }

    /// The certificate that clients trust.
    pub(crate) fn ca(&self) -> String {
        self.state.path().join("cert.pem").to_string_lossy().into_owned()
    }

    /// The address that the gateway listens on.
    pub(crate) fn address(&self) -> &str {
        gateway_address(self.gateway())
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{PATH}", self.gateway().line("gateway"))
    }

    /// The encoding `v1-plain` is v1 without extensions.
    pub(crate) fn client_env(&self, encoding: &str) -> Env {
        self.client_env_of(&self.url(), encoding)
    }

    pub(crate) fn client_env_of(&self, url: &str, encoding: &str) -> Env {
        let (encoding, plain) = encoding.split_once('-').map_or((encoding, false), |(encoding, _)| (encoding, true));
        let mut env = env(&[
            ("CLIENT__GATEWAY", url),
            ("CLIENT__DEVICE_ID", &self.subscriber.device),
            ("CLIENT__TOKEN", &self.subscriber.token),
            ("CLIENT__REGION", REGION),
            ("CLIENT__CA", &self.ca()),
            ("CLIENT__ENCODING", encoding),
            ("CLIENT__TRANSPORT", "ws"),
            ("CLIENT__SOCKS", "127.0.0.1:0"),
            ("CLIENT__HTTP", "127.0.0.1:0"),
            ("CLIENT__V1_LINGER", "1s"),
            ("CLIENT__BACKOFF_MIN", "50ms"),
            ("CLIENT__BACKOFF_MAX", "200ms"),
        ]);
        if plain {
            env.extend(self::env(&[("CLIENT__FEATURES", "[]")]));
        }
        env.sort();
        env
    }

    pub(crate) async fn connect(&self, encoding: &str) -> Process {
        Process::start(&["connect"], &self.client_env(encoding)).await
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        metric(&self.control.http, self.gateway().line("ops-gateway"), name).await
    }

    pub(crate) async fn connect_by(&self, transport: &str, encoding: &str) -> Process {
        let mut env = self.client_env(encoding);
        env.extend(self::env(&[("CLIENT__TRANSPORT", transport)]));
        Process::start(&["connect"], &env).await
    }

    /// The number of tunnels opened by a transport.
    pub(crate) async fn tunnels_by(&self, transport: &str) -> u64 {
        self.metric(&format!("httvps_tunnels_total{{transport=\"{transport}\"}}")).await
    }

    /// Bytes up and down of all sessions as counted by the control plane.
    pub(crate) async fn totals(&self) -> (u64, u64) {
        let sessions = self.control.list("sessions").await;
        let sum = |field: &str| sessions.iter().map(|session| session[field].as_u64().unwrap()).sum();
        (sum("bytes_up"), sum("bytes_down"))
    }
}

pub(crate) async fn metric(http: &Client, ops: &str, name: &str) -> u64 {
    let text = http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

pub(crate) async fn add_endpoint(control: &Control, gateway: &str, host: &str) -> Value {
    control.create("endpoints", json!({ "gateway_id": gateway, "host": host, "path": PATH })).await
}

pub(crate) fn gateway_address(gateway: &Process) -> &str {
    gateway.line("gateway").strip_prefix("wss://").unwrap()
}
