//! A whole deployment on loopback: database, control plane, gateway, nodes, a subscriber.

use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::database::{self, Kind};
use crate::node::{Node, Software};
use crate::process::{Process, eventually, run};

pub(crate) const ADMIN_KEY: &str = "an administrator's key of some length";
pub(crate) const SEED: [u8; 32] = [3; 32];
pub(crate) const PATH: &str = "/tunnel-of-the-tests";
pub(crate) const REGION: &str = "eu-1";

pub(crate) type Env = Vec<(String, String)>;

/// The control plane, running or not, and its administrator.
pub(crate) struct Control {
    pub(crate) env: Env,
    pub(crate) url: String,
    pub(crate) process: Option<Process>,
    pub(crate) http: Client,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(key, value)| (format!("HTTVPS_{key}"), (*value).to_owned())).collect()
}

/// A port of no other test, below those that connections are given by themselves: it stays free while its process is dead.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (number % 10_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Control {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[]).await
    }

    pub(crate) async fn start_with(kind: Kind, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = database::fresh(kind, folder.path()).await;
        Self::start_on(&url, folder, more).await
    }

    /// On an empty database of its own.
    pub(crate) async fn start_on(url: &str, folder: tempfile::TempDir, more: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut env = env(&[
            ("DATABASE__URL", url),
            ("CONTROL__LISTEN", &listen),
            ("CONTROL__SIGNING_KEY", &BASE64_STANDARD.encode(SEED)),
            ("CONTROL__ENCRYPTION_KEY", &BASE64_STANDARD.encode([4; 32])),
            ("CONTROL__BOOTSTRAP_KEY", ADMIN_KEY),
            ("SESSIONS__SWEEP_INTERVAL", "200ms"),
            ("SESSIONS__STARTUP_GRACE", "0s"),
            ("OPS__CONTROL_LISTEN", "127.0.0.1:0"),
        ]);
        env.extend(self::env(more));
        let (code, _, stderr) = run(&["migrate"], &env).await;
        assert_eq!(code, Some(0), "{stderr}");
        let http = Client::builder().no_proxy().build().unwrap();
        let mut control = Self { env, url: format!("http://{listen}"), process: None, http, folder };
        control.resume().await;
        control
    }

    /// Starts the process, again at the same address.
    pub(crate) async fn resume(&mut self) {
        self.process = Some(Process::start(&["serve-control"], &self.env).await);
    }

    pub(crate) fn database(&self) -> &str {
        &self.env.iter().find(|(key, _)| key == "HTTVPS_DATABASE__URL").unwrap().1
    }

    /// Changes what PostgreSQL has, at once and unannounced.
    pub(crate) async fn rewrite(&self, statements: &str) {
        database::connect(self.database()).await.batch_execute(statements).await.unwrap();
    }

    pub(crate) async fn kill(&mut self) {
        self.process.take().unwrap().kill().await;
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, key: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    pub(crate) async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(&body);
        let (status, answer) = self.ask(method, &format!("/api/v1/admin/{path}"), ADMIN_KEY, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn create(&self, resource: &str, body: Value) -> Value {
        self.admin(Method::POST, resource, body).await
    }

    pub(crate) async fn update(&self, resource: &str, id: &str, body: Value) -> Value {
        self.admin(Method::PATCH, &format!("{resource}/{id}"), body).await
    }

    pub(crate) async fn get(&self, resource: &str, id: &str) -> Value {
        self.admin(Method::GET, &format!("{resource}/{id}"), Value::Null).await
    }

    /// All of them, page by page.
    pub(crate) async fn list(&self, resource: &str) -> Vec<Value> {
        let (mut all, mut page) = (Vec::new(), resource.to_owned());
        loop {
            let answer = self.admin(Method::GET, &page, Value::Null).await;
            all.extend(answer["items"].as_array().unwrap().iter().cloned());
            let Some(next) = answer["next"].as_str() else { return all };
            page = format!("{resource}{}limit=1000&after={next}", if resource.contains('?') { '&' } else { '?' });
        }
    }
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// A user with a plan, a subscription and a device.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) user: String,
    pub(crate) plan: String,
    pub(crate) subscription: String,
    pub(crate) device: String,
    pub(crate) token: String,
}

impl Subscriber {
    pub(crate) async fn create(control: &Control, plan: Value) -> Self {
        let name = uuid::Uuid::new_v4().to_string();
        let mut fields = json!({ "name": name });
        fields.as_object_mut().unwrap().extend(plan.as_object().unwrap().clone());
        let plan = id(&control.create("plans", fields).await);
        let user = id(&control.create("users", json!({ "identifier": format!("{name}@example.com") })).await);
        let subscription = json!({ "user_id": user, "plan_id": plan, "days": 30 });
        let subscription = id(&control.create("subscriptions", subscription).await);
        let device = control.create("devices", json!({ "user_id": user, "platform": "test" })).await;
        let token = device["access_token"].as_str().unwrap().to_owned();
        Self { user, plan, subscription, device: id(&device), token }
    }
}

/// A gateway's row and its token.
pub(crate) async fn register_gateway(control: &Control, name: &str) -> (String, String) {
    let gateway = control.create("gateways", json!({ "name": name, "region": REGION })).await;
    (id(&gateway), gateway["token"].as_str().unwrap().to_owned())
}

pub(crate) async fn register_node(control: &Control, node: &Node) -> String {
    let body = json!({
        "region": REGION,
        "internal_ip": node.key.host,
        "port": node.key.port,
        "method": node.key.method,
        "password": node.key.password,
    });
    id(&control.create("nodes", body).await)
}

pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) nodes: Vec<Node>,
    pub(crate) gateway: Option<Process>,
    pub(crate) gateway_env: Env,
    pub(crate) subscriber: Subscriber,
    pub(crate) state: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start(kind: Kind, software: Software) -> Self {
        Self::build(kind, &[software], json!({}), &[]).await
    }

    pub(crate) async fn build(kind: Kind, software: &[Software], plan: Value, more: &[(&str, &str)]) -> Self {
        Self::around(Control::start(kind).await, software, plan, more).await
    }

    /// Of a control plane that runs already.
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
        let identity = httvps::net::tls::Identity::self_signed().unwrap();
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
        let mut world = Self { control, nodes, gateway: None, gateway_env, subscriber, state };
        world.start_gateway().await;
        world
    }

    pub(crate) async fn start_gateway(&mut self) {
        let gateway = Process::start(&["serve-gateway"], &self.gateway_env).await;
        let ready = format!("{}/readyz", gateway.line("ops-gateway"));
        let http = self.control.http.clone();
        eventually(|| async {
            let response = http.get(&ready).send().await.map_err(|error| error.to_string())?;
            if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap()) }
        })
        .await;
        self.gateway = Some(gateway);
    }

    pub(crate) fn gateway(&self) -> &Process {
        self.gateway.as_ref().unwrap()
    }

    /// The certificate that clients trust.
    pub(crate) fn ca(&self) -> String {
        self.state.path().join("cert.pem").to_string_lossy().into_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{PATH}", self.gateway().line("gateway"))
    }

    /// `v1-plain` knows the owner's messages only.
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

    /// Tunnels that were agreed on by a transport.
    pub(crate) async fn tunnels_by(&self, transport: &str) -> u64 {
        self.metric(&format!("httvps_tunnels_total{{transport=\"{transport}\"}}")).await
    }

    /// Bytes up and down of all sessions, as the control plane has them.
    pub(crate) async fn totals(&self) -> (u64, u64) {
        let sessions = self.control.list("sessions").await;
        let sum = |field: &str| sessions.iter().map(|session| session[field].as_u64().unwrap()).sum();
        (sum("bytes_up"), sum("bytes_down"))
    }

    /// Waits until the control plane has exactly these totals.
    pub(crate) async fn settles_at(&self, up: u64, down: u64) {
        eventually(|| async {
            let totals = self.totals().await;
            if totals == (up, down) { Ok(()) } else { Err(format!("{totals:?} instead of {:?}", (up, down))) }
        })
        .await;
    }
}

pub(crate) async fn metric(http: &Client, ops: &str, name: &str) -> u64 {
    let text = http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}
