use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Invalid, Key, RETRY, Section, key, lasts, within};
use crate::frame::Version;

fn version(key: Key, text: &str) -> Result<(), Invalid> {
    if text.is_empty() || Version::parse(text).is_some() {
        return Ok(());
    }
    Err(Invalid::new(key, "must be numbers with dots, such as 1.2.0"))
}

/// `[billing]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// IANA time zone in which calendar months begin.
    pub timezone: String,
}

impl Section for Billing {
    const NAME: &'static str = "billing";

    fn validate(&self) -> Result<(), Invalid> {
        match jiff::tz::TimeZone::get(&self.timezone) {
            Ok(_) => Ok(()),
            Err(error) => Err(Invalid::new(key!(Self, timezone), format!("no time zone: {error}"))),
        }
    }
}

/// `[leases]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// Least bytes lent to a session at once.
    pub min: ByteSize,
    /// Most bytes lent to a session at once.
    pub max: ByteSize,
}

impl Section for Leases {
    const NAME: &'static str = "leases";

    fn validate(&self) -> Result<(), Invalid> {
        if self.min.as_u64() == 0 || self.max < self.min || self.max.as_u64() > ByteSize::tib(1).as_u64() {
            return Err(Invalid::new(key!(Self, max), "must be min to 1 TiB, and min more than zero"));
        }
        Ok(())
    }
}

/// `[enrollment]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// Base of activation links; empty for none.
    pub link: String,
    /// Life of an activation code.
    #[serde(with = "humantime_serde")]
    pub code_ttl: Duration,
    /// Life of an enrolled device's access token.
    #[serde(with = "humantime_serde")]
    pub access_ttl: Duration,
    /// Life of a refresh token.
    #[serde(with = "humantime_serde")]
    pub refresh_ttl: Duration,
    /// For so long the same request is answered the same again.
    #[serde(with = "humantime_serde")]
    pub repeat_within: Duration,
}

impl Section for Enrollment {
    const NAME: &'static str = "enrollment";

    fn validate(&self) -> Result<(), Invalid> {
        if self.link.is_empty() || self.link.starts_with("https://") {
            return Ok(());
        }
        Err(Invalid::new(key!(Self, link), "must begin with https://"))
    }
}

/// `[events]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Events are kept so long.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Time between signs of life on a quiet stream.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Events kept in memory; a gateway that is further behind takes a snapshot.
    pub backlog: usize,
    /// Longest wait for the gateways' acknowledgement.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// How often the table is looked at, should a notification be lost.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Pause before LISTEN is tried again.
    #[serde(with = "humantime_serde")]
    pub listen_retry: Duration,
    /// Pause between looks for acknowledgements.
    #[serde(with = "humantime_serde")]
    pub ack_poll: Duration,
}

impl Section for Events {
    const NAME: &'static str = "events";

    fn validate(&self) -> Result<(), Invalid> {
        if self.backlog == 0 {
            return Err(Invalid::new(key!(Self, backlog), "must be at least 1"));
        }
        lasts(key!(Self, listen_retry), self.listen_retry, &RETRY)?;
        lasts(key!(Self, ack_poll), self.ack_poll, &(Duration::from_millis(1)..=Duration::from_secs(1)))?;
        if self.keepalive.is_zero() || self.poll_interval.is_zero() {
            return Err(Invalid::new(key!(Self, keepalive), "keepalive and poll_interval must be longer than zero"));
        }
        Ok(())
    }
}

/// `[client_config]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Life of a signed configuration.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// The oldest client that is told to go on; empty for any.
    pub min_client_version: String,
    /// Gateways of each region that one user is shown.
    pub gateways_per_region: usize,
}

impl Section for ClientConfig {
    const NAME: &'static str = "client_config";

    fn validate(&self) -> Result<(), Invalid> {
        if self.ttl < Duration::from_mins(1) {
            return Err(Invalid::new(key!(Self, ttl), "must be at least 1m"));
        }
        if self.gateways_per_region == 0 {
            return Err(Invalid::new(key!(Self, gateways_per_region), "must be at least 1"));
        }
        version(key!(Self, min_client_version), &self.min_client_version)
    }
}

/// `[pool]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Bad probes in a row that turn a gateway against a node.
    pub fail_after: i32,
    /// Good probes in a row that win it back.
    pub recover_after: i32,
    /// The oldest gateway that is served; empty for any.
    pub min_gateway_version: String,
    /// Life of a gateway's enrollment token.
    #[serde(with = "humantime_serde")]
    pub gateway_code_ttl: Duration,
}

impl Section for Pool {
    const NAME: &'static str = "pool";

    fn validate(&self) -> Result<(), Invalid> {
        if self.fail_after < 1 || self.recover_after < 1 {
            return Err(Invalid::new(key!(Self, fail_after), "fail_after and recover_after must be at least 1"));
        }
        version(key!(Self, min_gateway_version), &self.min_gateway_version)
    }
}

/// `[offline]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Offline {
    /// Devices validated so lately are served while the control plane is away.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Most devices remembered for it.
    pub devices: usize,
    /// Regions remembered of each.
    pub regions: usize,
    /// What is kept for it reaches the disk so often.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
}

impl Section for Offline {
    const NAME: &'static str = "offline";

    fn validate(&self) -> Result<(), Invalid> {
        within(key!(Self, regions), self.regions, &(1..=1000))
    }
}

/// `[portal]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Whether the gateway relays enrollment, refresh, configuration and account.
    pub enabled: bool,
    /// Requests a minute of one address (IPv6: /64).
    pub requests_per_minute: u32,
    /// Requests a minute of one device with a genuine token.
    pub device_requests_per_minute: u32,
    /// Largest request body.
    pub body_max: ByteSize,
    /// Callers whose requests are counted at once.
    pub callers_max: usize,
}

impl Section for Portal {
    const NAME: &'static str = "portal";

    fn validate(&self) -> Result<(), Invalid> {
        if self.requests_per_minute == 0 {
            return Err(Invalid::new(key!(Self, requests_per_minute), "must be at least 1"));
        }
        if self.device_requests_per_minute == 0 {
            return Err(Invalid::new(key!(Self, device_requests_per_minute), "must be at least 1"));
        }
        within(key!(Self, callers_max), self.callers_max, &(1024..=16_777_216))
    }
}
