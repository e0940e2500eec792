use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::gateway::keeps_secrets;
use super::{Invalid, Secret, Section, key, lasts, within};

const SECOND: Duration = Duration::from_secs(1);

/// `[database]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://…`, `sqlite://relative.db` or `sqlite:///absolute.db`.
    pub url: Secret,
    /// PostgreSQL itself, where `url` leads to a connection pooler; empty for `url`.
    pub listen_url: Secret,
    /// PEM file of the authority of PostgreSQL's certificate; empty trusts the system's.
    pub ca: String,
    /// PostgreSQL connections of one process.
    pub pool_size: usize,
    /// SQLite connections that only read.
    pub sqlite_readers: usize,
    /// Longest wait for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// Longest wait for one host to let a connection in, and for an idle connection to answer.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest PostgreSQL statement.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Longest wait for the answers of one transaction.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// A connection that was not used for so long is asked whether it is still there.
    #[serde(with = "humantime_serde")]
    pub check_after: Duration,
    /// TCP keepalive: idle time, time between probes, probes without an answer.
    #[serde(with = "humantime_serde")]
    pub keepalive_idle: Duration,
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    pub keepalive_retries: u32,
    /// What was sent and is not acknowledged for so long ends a connection.
    #[serde(with = "humantime_serde")]
    pub tcp_user_timeout: Duration,
    /// Longest wait for a SQLite lock.
    #[serde(with = "humantime_serde")]
    pub busy_timeout: Duration,
    /// Silence after which the connection that listens for events is asked whether it is alive.
    #[serde(with = "humantime_serde")]
    pub listen_check: Duration,
}

impl Section for Database {
    const NAME: &'static str = "database";

    fn validate(&self) -> Result<(), Invalid> {
        let url = self.url.expose();
        let is_postgres = |url: &str| ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        if !url.is_empty() && !is_postgres(url) && !url.starts_with("sqlite://") {
            return Err(Invalid::new(key!(Self, url), "must begin with postgres:// or sqlite://"));
        }
        let direct = self.listen_url.expose();
        if !(direct.is_empty() || is_postgres(direct) && is_postgres(url)) {
            return Err(Invalid::new(key!(Self, listen_url), "must begin with postgres://, and so must url"));
        }
        if self.pool_size == 0 {
            return Err(Invalid::new(key!(Self, pool_size), "must be at least 1"));
        }
        within(key!(Self, sqlite_readers), self.sqlite_readers, &(1..=64))?;
        lasts(key!(Self, listen_check), self.listen_check, &(SECOND..=Duration::from_mins(10)))?;
        if self.acquire_timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(Invalid::new(
                key!(Self, connect_timeout),
                "connect_timeout and acquire_timeout must be longer than zero",
            ));
        }
        if self.answer_timeout <= self.statement_timeout {
            return Err(Invalid::new(key!(Self, answer_timeout), "must be longer than statement_timeout"));
        }
        if self.keepalive_idle < SECOND || self.keepalive_interval < SECOND || self.tcp_user_timeout < SECOND {
            let reason = "keepalive_idle, keepalive_interval and tcp_user_timeout must be at least 1s";
            return Err(Invalid::new(key!(Self, keepalive_idle), reason));
        }
        Ok(())
    }
}

/// `[control]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Address of the REST API.
    pub listen: String,
    /// PEM file of the certificate chain; empty for plain HTTP.
    pub cert: String,
    /// PEM file of the certificate's key.
    pub key: String,
    /// Ed25519 seed, 32 bytes in base64.
    pub signing_key: Secret,
    /// Another seed whose tokens are accepted.
    pub second_signing_key: Secret,
    /// AES-256 key, 32 bytes in base64.
    pub encryption_key: Secret,
    /// The first administrator's key.
    pub bootstrap_key: Secret,
    /// Life of an access token that an administrator makes.
    #[serde(with = "humantime_serde")]
    pub token_ttl: Duration,
    /// Largest request body in bytes.
    pub body_limit: ByteSize,
    /// Longest time a request may take.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// For how long a request with an `Idempotency-Key` can be repeated.
    #[serde(with = "humantime_serde")]
    pub idempotency_ttl: Duration,
    /// Most connections; those that are idle make room for new ones.
    pub max_connections: usize,
    /// Longest wait for a TLS handshake, and for the head of a connection's first request.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Longest wait for a further request.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Most sessions in one usage report.
    pub report_batch_max: usize,
    /// How long a gateway is remembered.
    #[serde(with = "humantime_serde")]
    pub gateway_cache: Duration,
    /// How long the nodes of a region are remembered.
    #[serde(with = "humantime_serde")]
    pub node_cache: Duration,
    /// How often it is written when devices were there.
    #[serde(with = "humantime_serde")]
    pub last_seen_interval: Duration,
    /// Whether `/api/docs` shows the contract to a browser.
    pub api_docs: bool,
}

impl Section for Control {
    const NAME: &'static str = "control";

    fn validate(&self) -> Result<(), Invalid> {
        let bootstrap = self.bootstrap_key.expose();
        if !bootstrap.is_empty() && bootstrap.len() < 32 {
            return Err(Invalid::new(key!(Self, bootstrap_key), "must have at least 32 characters"));
        }
        if self.cert.is_empty() != self.key.is_empty() {
            return Err(Invalid::new(key!(Self, cert), "cert and key must be set together"));
        }
        if !(1..=1000).contains(&self.report_batch_max) {
            return Err(Invalid::new(key!(Self, report_batch_max), "must be 1 to 1000"));
        }
        if self.idempotency_ttl <= self.request_timeout {
            return Err(Invalid::new(key!(Self, idempotency_ttl), "must be longer than request_timeout"));
        }
        lasts(key!(Self, gateway_cache), self.gateway_cache, &(Duration::ZERO..=Duration::from_mins(1)))?;
        lasts(key!(Self, node_cache), self.node_cache, &(Duration::ZERO..=Duration::from_secs(10)))?;
        lasts(
            key!(Self, last_seen_interval),
            self.last_seen_interval,
            &(Duration::from_millis(10)..=Duration::from_mins(10)),
        )?;
        if self.max_connections < 16 {
            return Err(Invalid::new(key!(Self, max_connections), "must be at least 16"));
        }
        if self.header_timeout < SECOND || self.idle_timeout < self.header_timeout {
            return Err(Invalid::new(key!(Self, idle_timeout), "must be header_timeout or more, and that at least 1s"));
        }
        Ok(())
    }
}

/// `[sessions]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Life of a reservation that was never used.
    #[serde(with = "humantime_serde")]
    pub reservation_ttl: Duration,
    /// Life of a session without a report.
    #[serde(with = "humantime_serde")]
    pub session_ttl: Duration,
    /// A gateway without a heartbeat for so long is offline.
    #[serde(with = "humantime_serde")]
    pub gateway_timeout: Duration,
    /// A node without a heartbeat for so long is offline.
    #[serde(with = "humantime_serde")]
    pub node_timeout: Duration,
    /// After a start nothing is stale for so long: others need time to report.
    #[serde(with = "humantime_serde")]
    pub startup_grace: Duration,
    /// A client that left a ping unanswered for so long gives its place to a new session of its device.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
    /// How often the above is looked for.
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    /// Most ended sessions deleted in one transaction.
    pub sweep_batch: u32,
    /// Ended sessions are kept so long.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Those of them that moved nothing are kept so long.
    #[serde(with = "humantime_serde")]
    pub empty_retention: Duration,
    /// Refusals are kept so long.
    #[serde(with = "humantime_serde")]
    pub refusal_retention: Duration,
    /// Tombstones of deleted sessions are kept so long.
    #[serde(with = "humantime_serde")]
    pub tombstone_retention: Duration,
    /// A token vouches for a session that nobody knows until it has been expired for so long.
    #[serde(with = "humantime_serde")]
    pub vouch_max_age: Duration,
    /// The most that one session can move: gigabits (10^9) a second.
    pub max_gbps: u32,
}

impl Section for Sessions {
    const NAME: &'static str = "sessions";

    fn validate(&self) -> Result<(), Invalid> {
        if self.sweep_interval.is_zero() {
            return Err(Invalid::new(key!(Self, sweep_interval), "must be longer than zero"));
        }
        within(key!(Self, sweep_batch), self.sweep_batch, &(1..=100_000))?;
        if self.vouch_max_age > self.tombstone_retention {
            return Err(Invalid::new(key!(Self, vouch_max_age), "must be at most tombstone_retention"));
        }
        if self.max_gbps == 0 {
            return Err(Invalid::new(key!(Self, max_gbps), "must be at least 1"));
        }
        Ok(())
    }
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Base URL of the control plane.
    pub url: String,
    /// An administrator's key.
    pub key: Secret,
    /// PEM file of the authority that signed the control plane's certificate.
    pub ca: String,
    /// Whether `http://` may leave the machine.
    pub allow_insecure: bool,
}

impl Section for Admin {
    const NAME: &'static str = "admin";
}

impl Admin {
    /// Refuses a URL that would carry the key in clear text off this machine. Only who sends the key asks: other roles may
    /// share a configuration with it.
    pub fn keeps_its_key(&self) -> Result<(), Invalid> {
        let clear =
            "http:// would send the administrator's key in clear text; use https:// or set admin.allow_insecure";
        keeps_secrets(&self.url, self.allow_insecure, clear).map_err(|reason| Invalid::new(key!(Self, url), reason))
    }
}
