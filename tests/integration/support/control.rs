//! The control plane as a process, and its administrator.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httvps::clock::Clock;
use httvps::config::Source;
use httvps::lifecycle::Shutdown;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::database::{self, Kind};
use crate::support::environment::{Env, env, free_port};
use crate::support::node::Node;
use crate::support::process::{Process, run};

pub(crate) const ADMIN_KEY: &str = "an administrator's key of some length";

pub(crate) const SEED: [u8; 32] = [3; 32];

pub(crate) const REGION: &str = "eu-1";

/// The control plane, running or not, and its administrator.
pub(crate) struct Control {
    pub(crate) env: Env,
    pub(crate) url: String,
    pub(crate) process: Option<Process>,
    pub(crate) http: Client,
    pub(crate) folder: tempfile::TempDir,
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

    /// Starts on an empty database.
    pub(crate) async fn start_on(url: &str, folder: tempfile::TempDir, more: &[(&str, &str)]) -> Self {
        let mut control = Self::prepared(url, folder, more).await;
        control.resume().await;
        control
    }

    /// Serves on SQLite within the test's own process, by a clock of the test's.
    pub(crate) async fn start_by(clock: Clock, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = database::fresh(Kind::Sqlite, folder.path()).await;
        let control = Self::prepared(&url, folder, more).await;
        let source = Source::with(control.env.clone()).unwrap();
        let serving = httvps::control::Control::bind(&source, clock).await.unwrap();
        tokio::spawn(serving.serve(Shutdown::default()));
        control
    }

    /// One with a database, that does not run.
    async fn prepared(url: &str, folder: tempfile::TempDir, more: &[(&str, &str)]) -> Self {
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
        Self { env, url: format!("http://{listen}"), process: None, http, folder }
    }

    /// Starts the process, always at the same address.
    pub(crate) async fn resume(&mut self) {
        self.process = Some(Process::start(&["serve-control"], &self.env).await);
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub(crate) fn database(&self) -> &str {
        &self.env.iter().find(|(key, _)| key == "HTTVPS_DATABASE__URL").unwrap().1
    }

    /// Changes rows in PostgreSQL behind the control plane's back.
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

    /// Lists all pages of a resource.
    pub(crate) async fn list(&self, resource: &str) -> Vec<Value> {
        let (mut all, mut page) = (Vec::new(), resource.to_owned());
        loop {
            let answer = self.admin(Method::GET, &page, Value::Null).await;
            all.extend(answer["items"].as_array().unwrap().iter().cloned());
            let Some(next) = answer["next"].as_str() else { return all };
            page = format!("{resource}{}cursor={next}", if resource.contains('?') { '&' } else { '?' });
        }
    }
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// Registers a gateway; returns its id and token.
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

pub(crate) async fn post_as_gateway(control: &Control, path: &str, token: &str, body: Value) -> (u16, Value) {
    let (status, answer) = control.ask(Method::POST, &format!("/api/v1/{path}"), token, Some(&body)).await;
    (status.as_u16(), answer)
}

pub(crate) async fn start_with_region(kind: Kind, more: &[(&str, &str)]) -> Control {
    let more = [&[("EVENTS__ACK_TIMEOUT", "50ms")][..], more].concat();
    let control = Control::start_with(kind, &more).await;
    control.create("regions", json!({ "code": REGION })).await;
    control
}

pub(crate) fn admin_env(control: &Control) -> Env {
    env(&[("ADMIN__URL", &control.url), ("ADMIN__KEY", ADMIN_KEY)])
}
