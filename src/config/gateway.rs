use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Addresses, Invalid, RETRY, Secret, Section, key, lasts, within};
use crate::frame::{Features, Version};

/// `[gateway]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Addresses of the clients' listeners, with TLS.
    pub listen: Addresses,
    /// Base URL of the control plane.
    pub control_url: String,
    /// Whether `http://` may leave the machine.
    pub allow_insecure_control: bool,
    /// PEM file of the authority of the control plane's certificate.
    pub control_ca: String,
    /// The gateway's token.
    pub token: Secret,
    /// A one-time token that is traded for one.
    pub enroll_token: Secret,
    /// Folder of the usage journal.
    pub state_dir: String,
    /// Time between heartbeats.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// The same until the control plane has answered for the first time.
    #[serde(with = "humantime_serde")]
    pub heartbeat_retry: Duration,
    /// Time between usage reports.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Time between flushes of the journal.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Most sessions in one usage report.
    pub report_batch: usize,
    /// Pause between urgent reports while the control plane takes none.
    #[serde(with = "humantime_serde")]
    pub report_retry: Duration,
    /// A stream of events without a sign of life for so long is opened anew.
    #[serde(with = "humantime_serde")]
    pub events_timeout: Duration,
    /// Pause before a stream of events that failed is opened anew.
    #[serde(with = "humantime_serde")]
    pub events_retry: Duration,
    /// Longest wait for the control plane.
    #[serde(with = "humantime_serde")]
    pub control_timeout: Duration,
    /// Silence of the control plane, while somebody waits, after which what can be answered from memory is.
    #[serde(with = "humantime_serde")]
    pub control_patience: Duration,
    /// First pause between trials of a control plane that is away.
    #[serde(with = "humantime_serde")]
    pub control_retry_min: Duration,
    /// Longest pause between trials.
    #[serde(with = "humantime_serde")]
    pub control_retry_max: Duration,
    /// Idle connections to the control plane are kept so long.
    #[serde(with = "humantime_serde")]
    pub control_idle_timeout: Duration,
    /// How long open streams may finish after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Clients reconnect within this time after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain_jitter: Duration,
    /// How long a client may take to reconnect before its new streams are refused.
    #[serde(with = "humantime_serde")]
    pub drain_move: Duration,
    /// Longest wait for the other process in a takeover.
    #[serde(with = "humantime_serde")]
    pub takeover_timeout: Duration,
    /// Time between fetches of the signing keys.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// The same after a failure, and for an unknown key.
    #[serde(with = "humantime_serde")]
    pub jwks_retry: Duration,
    /// Refusals that wait to be told.
    pub refusals_kept: usize,
}

impl Section for Gateway {
    const NAME: &'static str = "gateway";

    fn validate(&self) -> Result<(), Invalid> {
        let periods = [
            (key!(Self, heartbeat_interval), self.heartbeat_interval),
            (key!(Self, report_interval), self.report_interval),
            (key!(Self, flush_interval), self.flush_interval),
            (key!(Self, jwks_refresh), self.jwks_refresh),
            (key!(Self, control_timeout), self.control_timeout),
            (key!(Self, control_patience), self.control_patience),
            (key!(Self, control_retry_min), self.control_retry_min),
            (key!(Self, takeover_timeout), self.takeover_timeout),
        ];
        if let Some((key, _)) = periods.into_iter().find(|(_, period)| period.is_zero()) {
            return Err(Invalid::new(key, "must be longer than zero"));
        }
        let retries = [
            (key!(Self, heartbeat_retry), self.heartbeat_retry),
            (key!(Self, report_retry), self.report_retry),
            (key!(Self, events_retry), self.events_retry),
            (key!(Self, jwks_retry), self.jwks_retry),
        ];
        for (key, pause) in retries {
            lasts(key, pause, &RETRY)?;
        }
        if self.jwks_refresh < self.jwks_retry {
            return Err(Invalid::new(key!(Self, jwks_refresh), "must be at least jwks_retry"));
        }
        within(key!(Self, refusals_kept), self.refusals_kept, &(1..=10_000))?;
        if self.control_retry_max < self.control_retry_min {
            return Err(Invalid::new(key!(Self, control_retry_max), "must be at least control_retry_min"));
        }
        if !(1..=1000).contains(&self.report_batch) {
            return Err(Invalid::new(key!(Self, report_batch), "must be 1 to 1000"));
        }
        if self.control_url.is_empty() {
            return Ok(());
        }
        let clear = "http:// would send tokens in clear text; use https:// or set gateway.allow_insecure_control";
        keeps_secrets(&self.control_url, self.allow_insecure_control, clear)
            .map_err(|reason| Invalid::new(key!(Self, control_url), reason))
    }
}

/// Why a text is no URL.
pub type UrlError = <reqwest::Url as FromStr>::Err;

/// Why a URL of the control plane keeps no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ControlUrlError {
    #[error("not a URL: {0}")]
    Url(#[source] UrlError),
    /// With what would be right.
    #[error("{0}")]
    Clear(&'static str),
    #[error("must begin with https:// or http://")]
    Scheme,
}

/// Whether a URL of the control plane is https, or http that stays on this machine or is allowed to leave it; else the reason,
/// `clear` where secrets would be readable.
pub(super) fn keeps_secrets(url: &str, may_be_clear: bool, clear: &'static str) -> Result<(), ControlUrlError> {
    let url = reqwest::Url::parse(url).map_err(ControlUrlError::Url)?;
    match url.scheme() {
        "https" => Ok(()),
        "http" if may_be_clear || is_loopback(&url) => Ok(()),
        "http" => Err(ControlUrlError::Clear(clear)),
        _ => Err(ControlUrlError::Scheme),
    }
}

/// `[clock]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// A gateway's clock that is so far from the control plane's is named.
    #[serde(with = "humantime_serde")]
    pub warn_after: Duration,
    /// An answer that took longer says too little of the time it was given at.
    #[serde(with = "humantime_serde")]
    pub round_trip_max: Duration,
}

impl Section for Clock {
    const NAME: &'static str = "clock";

    fn validate(&self) -> Result<(), Invalid> {
        if self.warn_after < Duration::from_secs(1) {
            return Err(Invalid::new(key!(Self, warn_after), "must be at least 1s: answers take time"));
        }
        lasts(key!(Self, round_trip_max), self.round_trip_max, &(Duration::from_millis(100)..=Duration::from_mins(1)))
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What [`is_tunnel_path`] asks for.
pub const TUNNEL_PATH: &str = "must be / and characters that a URL's path has (letters, digits, -._~!$&'()*+,;=:@/ and \
    %XX), such as /k3bR9; not / alone, without . and .. as parts, and not below /api/ or /.well-known/";

/// Whether requests can have this path (RFC 3986, 3.3) and clients, proxies and the portal leave it alone.
pub fn is_tunnel_path(path: &str) -> bool {
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'%' => [rest.next(), rest.next()].iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    let taken = ["/api/", "/.well-known/"].iter().any(|prefix| path.starts_with(prefix));
    let dots = path.split('/').any(|part| matches!(part, "." | ".."));
    path.len() > 1 && path.starts_with('/') && !path.starts_with("//") && !taken && !dots
}

/// `[tunnel]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The one path that upgrades.
    pub path: String,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections that have not said hello.
    pub max_pre_hello: usize,
    /// Connections of one address (IPv6: /64) that have not said hello.
    pub max_pre_hello_per_address: usize,
    /// Those of one IPv6 /48 that have not said hello.
    pub max_pre_hello_per_network: usize,
    /// From accept to the upgrade's answer.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// From the upgrade's answer to a whole hello.
    #[serde(with = "humantime_serde")]
    pub hello_timeout: Duration,
    /// Largest request head.
    pub request_max: ByteSize,
    /// Largest message before hello was answered.
    pub hello_max: ByteSize,
    /// Unsent bytes the kernel may hold for one client.
    pub notsent_lowat: ByteSize,
    /// How long the last messages may take to leave.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// Frames of one message.
    pub fragments_max: usize,
    /// Whether the upgrade request has to carry the device's token.
    pub require_bearer: bool,
    /// Hellos of one device a minute.
    pub hellos_per_minute: u32,
    /// Devices whose hellos are counted at once.
    pub hello_devices_max: usize,
    /// The oldest client that is served, such as "1.2"; empty for any.
    pub min_client_version: String,
    /// What refused clients are told to wait.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

impl Section for Tunnel {
    const NAME: &'static str = "tunnel";

    fn validate(&self) -> Result<(), Invalid> {
        if !self.path.is_empty() && !is_tunnel_path(&self.path) {
            return Err(Invalid::new(key!(Self, path), TUNNEL_PATH));
        }
        if self.max_connections == 0 || self.max_pre_hello == 0 {
            return Err(Invalid::new(key!(Self, max_connections), "limits must be at least 1"));
        }
        if self.max_pre_hello_per_address == 0 || self.max_pre_hello_per_network < self.max_pre_hello_per_address {
            let reason = "must be at least 1, and max_pre_hello_per_network no less";
            return Err(Invalid::new(key!(Self, max_pre_hello_per_address), reason));
        }
        if self.request_max.as_u64() < 8192 || self.hello_max.as_u64() < 1024 {
            return Err(Invalid::new(key!(Self, request_max), "must be at least 8 KiB, and hello_max 1 KiB"));
        }
        if self.fragments_max == 0 || self.hellos_per_minute == 0 {
            return Err(Invalid::new(
                key!(Self, fragments_max),
                "fragments_max and hellos_per_minute must be at least 1",
            ));
        }
        within(key!(Self, hello_devices_max), self.hello_devices_max, &(1024..=16_777_216))?;
        if !self.min_client_version.is_empty() && Version::parse(&self.min_client_version).is_none() {
            return Err(Invalid::new(key!(Self, min_client_version), "must be numbers with dots, such as 1.2.0"));
        }
        Ok(())
    }
}

/// How a tunnel travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The first of the endpoint's that gets through.
    Auto,
    /// WebSocket over HTTP/1.1.
    Ws,
    /// WebSocket over HTTP/2 (RFC 8441).
    H2ws,
    /// Plain HTTP/2.
    H2,
}

/// `[client]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// `wss://host:port/path`
    pub gateway: String,
    /// The device's id.
    pub device_id: String,
    /// The device's access token.
    pub token: Secret,
    /// Code of the exit region.
    pub region: String,
    /// PEM file of the authority of the gateway's certificate.
    pub ca: String,
    /// `v1` or `v2`.
    pub encoding: String,
    /// How the tunnel travels.
    pub transport: Transport,
    /// What the endpoint speaks, the best first.
    pub transports: Vec<Transport>,
    /// How long after a transport did not get through the best one is tried again.
    #[serde(with = "humantime_serde")]
    pub retry_best_after: Duration,
    /// Whether a connection is left when the host is in another network.
    pub watch_network: bool,
    /// How long several changes of the network are one.
    #[serde(with = "humantime_serde")]
    pub network_settle: Duration,
    /// What a v1 client asks for beyond the owner's messages.
    pub features: Features,
    /// Idle time before the gateway pings; zero leaves it to the gateway.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Whether the upgrade request carries the token.
    pub bearer: bool,
    /// How long a new stream waits for the program's first bytes, to open with them.
    #[serde(with = "humantime_serde")]
    pub coalesce: Duration,
    /// Address of the SOCKS5 listener; empty for none.
    pub socks: String,
    /// Address of the HTTP CONNECT listener; empty for none.
    pub http: String,
    /// New streams that may wait for their turn or for room.
    pub open_queue: usize,
    /// How long each of them waits.
    #[serde(with = "humantime_serde")]
    pub open_timeout: Duration,
    /// Longest time to connect and to be answered.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// First wait before connecting again.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait before connecting again.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// With v1, how long a stream waits for an answer after the program closed its side.
    #[serde(with = "humantime_serde")]
    pub v1_linger: Duration,
}

impl Section for Client {
    const NAME: &'static str = "client";

    fn validate(&self) -> Result<(), Invalid> {
        if !matches!(self.encoding.as_str(), "v1" | "v2") {
            return Err(Invalid::new(key!(Self, encoding), "must be v1 or v2"));
        }
        if self.transport == Transport::H2 && self.encoding == "v1" {
            return Err(Invalid::new(key!(Self, transport), "h2 carries v2 only; h2ws and ws carry v1, too"));
        }
        if self.transports.is_empty() || self.transports.contains(&Transport::Auto) {
            return Err(Invalid::new(key!(Self, transports), "must be some of h2, h2ws and ws"));
        }
        if self.open_queue == 0 {
            return Err(Invalid::new(key!(Self, open_queue), "must be at least 1"));
        }
        if self.backoff_min.is_zero() || self.backoff_max < self.backoff_min {
            return Err(Invalid::new(
                key!(Self, backoff_max),
                "must be at least backoff_min, and that longer than zero",
            ));
        }
        if self.retry_best_after <= self.backoff_max * 2 {
            return Err(Invalid::new(key!(Self, retry_best_after), "must be more than twice backoff_max"));
        }
        if self.network_settle.is_zero() || self.network_settle > Duration::from_secs(10) {
            return Err(Invalid::new(key!(Self, network_settle), "must be more than zero and at most 10s"));
        }
        Ok(())
    }
}
