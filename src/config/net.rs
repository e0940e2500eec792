use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Section, key, within};

const DNS_PORT: u16 = 53;
/// RFC 8446, 4.6.1.
const TICKET_LIFETIME_MAX: Duration = Duration::from_hours(168);

/// `[net]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Connections that the kernel keeps until they are accepted.
    pub backlog: i32,
    /// From one attempt to connect to the next address.
    #[serde(with = "humantime_serde")]
    pub connect_stagger: Duration,
    /// Idle time before the first keepalive probe; zero for none.
    #[serde(with = "humantime_serde")]
    pub keepalive_idle: Duration,
    /// Time between keepalive probes.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// Unanswered probes that end a connection.
    pub keepalive_count: u32,
    /// How long name servers have for an answer.
    #[serde(with = "humantime_serde")]
    pub dns_timeout: Duration,
    /// How many times more they are asked.
    pub dns_attempts: usize,
    /// How long the second of A and AAAA is waited for.
    #[serde(with = "humantime_serde")]
    pub dns_delay: Duration,
    /// Questions under way to one name server.
    pub dns_questions: usize,
    /// How often the system's files are looked at.
    #[serde(with = "humantime_serde")]
    pub dns_config_check: Duration,
    /// Answers that are kept.
    pub dns_cache: u64,
    /// The longest time that addresses are kept.
    #[serde(with = "humantime_serde")]
    pub dns_ttl_max: Duration,
    /// The longest time that it is kept that there are none.
    #[serde(with = "humantime_serde")]
    pub dns_negative_ttl_max: Duration,
    /// How often the files of a certificate are looked at; zero for never.
    #[serde(with = "humantime_serde")]
    pub certificate_check: Duration,
    /// How long before it expires a certificate is warned of.
    #[serde(with = "humantime_serde")]
    pub certificate_warn_before: Duration,
    /// How long a TLS client may resume with a ticket.
    #[serde(with = "humantime_serde")]
    pub ticket_lifetime: Duration,
}

impl Section for Net {
    const NAME: &'static str = "net";

    fn validate(&self) -> Result<(), Invalid> {
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&self.connect_stagger) {
            return Err(Invalid::new(key!(Self, connect_stagger), "must be 10ms to 10s"));
        }
        let seconds = Duration::from_secs(1)..=Duration::from_secs(32_767);
        if !self.keepalive_idle.is_zero() && !seconds.contains(&self.keepalive_idle) {
            return Err(Invalid::new(key!(Self, keepalive_idle), "must be 0s, or 1s to 32767s"));
        }
        if !seconds.contains(&self.keepalive_interval) {
            return Err(Invalid::new(key!(Self, keepalive_interval), "must be 1s to 32767s"));
        }
        if !(1..=127).contains(&self.keepalive_count) {
            return Err(Invalid::new(key!(Self, keepalive_count), "must be 1 to 127"));
        }
        within(key!(Self, backlog), self.backlog, &(1..=65_535))?;
        within(key!(Self, dns_questions), self.dns_questions, &(1..=65_536))?;
        if self.dns_timeout.is_zero() {
            return Err(Invalid::new(key!(Self, dns_timeout), "must be longer than zero"));
        }
        if !(Duration::from_secs(10)..=TICKET_LIFETIME_MAX).contains(&self.ticket_lifetime) {
            return Err(Invalid::new(key!(Self, ticket_lifetime), "must be 10s to 7d"));
        }
        Ok(())
    }
}

/// A name server's address; the port is 53 where none is given.
pub(super) fn name_server(text: &str) -> Option<SocketAddr> {
    let with_default = |ip: IpAddr| SocketAddr::new(ip, DNS_PORT);
    text.parse().ok().or_else(|| text.parse().ok().map(with_default))
}
