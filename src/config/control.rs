use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Invalid, Secret, Section};

/// `[database]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://…`, `sqlite://relative.db` or `sqlite:///absolute.db`.
    pub url: Secret,
    /// PEM file of the authority of PostgreSQL's certificate; empty trusts the system's.
    pub ca: String,
    /// PostgreSQL connections of one process.
    pub pool_size: usize,
    /// Longest wait for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// Longest PostgreSQL statement.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Longest wait for a SQLite lock.
    #[serde(with = "humantime_serde")]
    pub busy_timeout: Duration,
}

impl Section for Database {
    const NAME: &'static str = "database";

    fn validate(&self) -> Result<(), Invalid> {
        let url = self.url.expose();
        if !url.is_empty()
            && !["postgres://", "postgresql://", "sqlite://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(Invalid::new("url", "must begin with postgres:// or sqlite://"));
        }
        if self.pool_size == 0 {
            return Err(Invalid::new("pool_size", "must be at least 1"));
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
    /// Most sessions in one usage report.
    pub report_batch_max: usize,
    /// Largest page of an admin list.
    pub page_max: u32,
}

impl Section for Control {
    const NAME: &'static str = "control";

    fn validate(&self) -> Result<(), Invalid> {
        let bootstrap = self.bootstrap_key.expose();
        if !bootstrap.is_empty() && bootstrap.len() < 32 {
            return Err(Invalid::new("bootstrap_key", "must have at least 32 characters"));
        }
        if self.cert.is_empty() != self.key.is_empty() {
            return Err(Invalid::new("cert", "cert and key must be set together"));
        }
        if !(1..=1000).contains(&self.report_batch_max) {
            return Err(Invalid::new("report_batch_max", "must be 1 to 1000"));
        }
        if !(1..=10_000).contains(&self.page_max) {
            return Err(Invalid::new("page_max", "must be 1 to 10000"));
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
    /// Ended sessions are kept so long.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Tombstones of deleted sessions are kept so long.
    #[serde(with = "humantime_serde")]
    pub tombstone_retention: Duration,
}

impl Section for Sessions {
    const NAME: &'static str = "sessions";

    fn validate(&self) -> Result<(), Invalid> {
        if self.sweep_interval.is_zero() {
            return Err(Invalid::new("sweep_interval", "must be longer than zero"));
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
}

impl Section for Admin {
    const NAME: &'static str = "admin";
}
