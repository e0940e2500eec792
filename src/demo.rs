//! `httvps demo`: control plane, gateway, node and client in one process, talking TLS and REST on loopback.

mod setup;
mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::client::{Client, Refused};
use crate::clock::Clock;
use crate::config::{ConfigError, Source};
use crate::control::{Control, StartError, db};
use crate::digest::{NoRandomness, fresh_key, fresh_path, fresh_token};
use crate::gateway::{Gateway, TakeoverError, egress};
use crate::lifecycle::Shutdown;
use crate::net::listener::Inherited;
use crate::shadowsocks::{NodeKey, Server, ServerError};
use crate::telemetry;

pub use setup::SetupError;

const METHOD: &str = "chacha20-ietf-poly1305";
const LOOPBACK: &str = "127.0.0.1:0";
const REGION: &str = "demo-1";

/// What the demo may be told.
pub struct Options {
    /// Address of the SOCKS5 listener.
    pub socks: String,
    /// Address of the HTTP CONNECT listener.
    pub http: String,
    /// Where to keep everything; a temporary folder without it.
    pub data_dir: Option<PathBuf>,
    /// Whether private destinations are allowed.
    pub allow_private: bool,
}

/// Why the demo ended.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("{0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Node(#[from] ServerError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("the gateway refused the demo's device: {0}")]
    Refused(#[from] Refused),
}

/// A folder that is removed with what is in it, unless it was the user's wish.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(wish: Option<PathBuf>) -> std::io::Result<Self> {
        let temporary = wish.is_none();
        let path = wish.unwrap_or_else(|| std::env::temp_dir().join(format!("httvps-demo-{}", uuid::Uuid::now_v7())));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path, temporary })
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, "the demo's folder stays");
        }
    }
}

/// Runs until drained; `say` gets the lines of docs/01, "Demo".
pub async fn run(options: Options, shutdown: &Shutdown, say: impl Fn(String)) -> Result<(), DemoError> {
    let folder = Folder::new(options.data_dir.clone())?;
    let base = base(&folder, &options)?;
    let _flush = telemetry::init(&base)?;
    db::migrate(&base.section()?).await.map_err(DemoError::Database)?;
    let node_key = node_key()?;
    let allow = if options.allow_private { |_| true } else { |address: SocketAddr| egress::is_public(address.ip()) };
    let node = Server::bind(&node_key, allow).await?;
    let node_key = NodeKey { port: node.address()?.port(), ..node_key };
    let control = Control::bind(&base, Clock::system()).await?;
    let control_url = format!("http://{}", control.address()?);
    let ops_control = control.ops_address();
    let behind = Shutdown::default();
    tokio::spawn(node.serve(behind.clone()));
    let controlling = tokio::spawn(control.serve(behind.clone()));
    let served = serve(&options, shutdown, &folder, base, (&control_url, ops_control), &node_key, &say).await;
    behind.abort();
    if let Err(error) = controlling.await {
        tracing::error!(%error, "the control plane failed");
    }
    served
}

/// Everything in front of the control plane.
async fn serve(
    options: &Options,
    shutdown: &Shutdown,
    folder: &Folder,
    base: Source,
    (control_url, ops_control): (&str, Option<SocketAddr>),
    node_key: &NodeKey,
    say: &impl Fn(String),
) -> Result<(), DemoError> {
    let admin_key = base.section::<crate::config::Control>()?.bootstrap_key.expose().to_owned();
    let made = setup::Setup::new(control_url, &admin_key)?.run(REGION, node_key).await?;
    let path = base.section::<crate::config::Tunnel>()?.path;
    let base = base
        .overridden([("HTTVPS_GATEWAY__CONTROL_URL", control_url), ("HTTVPS_GATEWAY__TOKEN", &made.gateway_token)])?;
    let mut gateway = Gateway::bind(&base, Clock::system(), Inherited::default()).await?;
    gateway.succeed().await?;
    let (_, gateway_url) = gateway.urls()?.into_iter().next().unwrap_or_default();
    let gateway_url = format!("{gateway_url}{path}");
    let ops_gateway = gateway.ops_address();
    let ca = folder.file("ca.pem");
    std::fs::write(&ca, gateway.certificate().unwrap_or_default())?;
    let base = base.overridden([
        ("HTTVPS_CLIENT__GATEWAY", gateway_url.as_str()),
        ("HTTVPS_CLIENT__CA", &ca),
        ("HTTVPS_CLIENT__DEVICE_ID", &made.device_id),
        ("HTTVPS_CLIENT__TOKEN", &made.device_token),
        ("HTTVPS_CLIENT__REGION", REGION),
        ("HTTVPS_CLIENT__SOCKS", &options.socks),
        ("HTTVPS_CLIENT__HTTP", &options.http),
    ])?;
    let client = Client::bind(&base).await?;
    let (socks, http) = client.addresses();
    let address = |address: Option<SocketAddr>| address.map_or_else(|| "none".into(), |address| address.to_string());
    say(format!("control {control_url}"));
    say(format!("gateway {gateway_url}"));
    say(format!("ca {ca}"));
    say(format!("ops-control http://{}", address(ops_control)));
    say(format!("ops-gateway http://{}", address(ops_gateway)));
    say(format!("admin-key {admin_key}"));
    say(format!("device-id {}", made.device_id));
    say(format!("token {}", made.device_token));
    say(format!("region {REGION}"));
    say(format!("socks {}", address(socks)));
    say(format!("http {}", address(http)));
    let gatewaying = tokio::spawn(gateway.serve(shutdown.clone()));
    let ready = || {
        say("ready".into());
        say(format!("try curl -x socks5h://{} https://example.com", address(socks)));
    };
    let served = tokio::select! {
        served = client.serve(shutdown, ready) => served,
        () = status::show(ops_gateway) => Ok(()),
    };
    shutdown.drain();
    if let Err(error) = gatewaying.await {
        tracing::error!(%error, "the gateway failed");
    }
    Ok(served?)
}

fn node_key() -> Result<NodeKey, NoRandomness> {
    Ok(NodeKey { host: "127.0.0.1".into(), port: 0, method: METHOD.into(), password: fresh_token()? })
}

/// The demo's configuration: loopback, free ports, short intervals, its own keys.
fn base(folder: &Folder, options: &Options) -> Result<Source, DemoError> {
    let keys = keys(&folder.path)?;
    let database = std::path::absolute(folder.path.join("control.db"))?;
    let level = std::env::var("HTTVPS_LOG__LEVEL").unwrap_or_else(|_| "warn".into());
    let mut vars: Vec<(String, String)> = [
        ("LOG__LEVEL", level.as_str()),
        ("DATABASE__URL", &format!("sqlite://{}", database.display())),
        ("CONTROL__LISTEN", LOOPBACK),
        ("OPS__CONTROL_LISTEN", LOOPBACK),
        ("OPS__GATEWAY_LISTEN", LOOPBACK),
        ("GATEWAY__LISTEN", LOOPBACK),
        ("GATEWAY__STATE_DIR", &folder.file("gateway")),
        ("GATEWAY__REPORT_INTERVAL", "1s"),
        ("GATEWAY__HEARTBEAT_INTERVAL", "2s"),
        ("GATEWAY__DRAIN_TIMEOUT", "1s"),
        ("GATEWAY__DRAIN_JITTER", "0s"),
        ("TUNNEL__CLOSE_TIMEOUT", "1s"),
        ("TLS__SELF_SIGNED", "true"),
        ("PROBE__TARGET", ""),
        ("EGRESS__ALLOW_PRIVATE", if options.allow_private { "true" } else { "false" }),
    ]
    .into_iter()
    .map(|(key, value)| (format!("HTTVPS_{key}"), value.to_owned()))
    .collect();
    vars.extend(keys);
    Ok(Source::with(vars)?)
}

/// Keys made once for a folder.
fn keys(folder: &Path) -> Result<Vec<(String, String)>, DemoError> {
    let path = folder.join("keys.env");
    if !path.exists() {
        let lines = [
            ("CONTROL__SIGNING_KEY", fresh_key()?),
            ("CONTROL__ENCRYPTION_KEY", fresh_key()?),
            ("CONTROL__BOOTSTRAP_KEY", fresh_token()?),
            ("TUNNEL__PATH", fresh_path()?),
        ];
        let text = lines.iter().fold(String::new(), |text, (key, value)| text + "HTTVPS_" + key + "=" + value + "\n");
        write_private(&path, &text)?;
    }
    let text = std::fs::read_to_string(&path)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
