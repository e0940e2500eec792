use std::time::Duration;

use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};

use super::{Addresses, Invalid, Networks, Section, key};

/// `[behind]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Behind {
    /// Balancers and proxies whose word on a client's address is taken.
    pub trusted: Networks,
    /// Listeners whose connections begin with a PROXY header; TLS follows.
    pub proxy_listen: Addresses,
    /// Listeners in clear text.
    pub clear_listen: Addresses,
    /// Listeners whose connections begin with a PROXY header; clear text follows.
    pub proxy_clear_listen: Addresses,
    /// The request header in which trusted proxies name the client.
    pub header: String,
    /// Longest wait for a PROXY header.
    #[serde(with = "humantime_serde")]
    pub proxy_timeout: Duration,
    /// Connections of one proxy whose client is not known yet.
    pub max_unnamed: usize,
}

impl Section for Behind {
    const NAME: &'static str = "behind";

    fn validate(&self) -> Result<(), Invalid> {
        let listeners = [
            (key!(Self, proxy_listen), &self.proxy_listen),
            (key!(Self, clear_listen), &self.clear_listen),
            (key!(Self, proxy_clear_listen), &self.proxy_clear_listen),
        ];
        let used = listeners.iter().find(|(_, addresses)| !addresses.is_empty());
        if let (true, Some((key, _))) = (self.trusted.is_empty(), used) {
            return Err(Invalid::new(key!(Self, trusted), format!("must name the proxies that {} is for", key.name())));
        }
        if HeaderName::from_bytes(self.header.as_bytes()).is_err() {
            return Err(Invalid::new(
                key!(Self, header),
                "must be a header's name, such as x-forwarded-for or forwarded",
            ));
        }
        if self.proxy_timeout.is_zero() {
            return Err(Invalid::new(key!(Self, proxy_timeout), "must be longer than zero"));
        }
        if self.max_unnamed == 0 {
            return Err(Invalid::new(key!(Self, max_unnamed), "must be at least 1"));
        }
        Ok(())
    }
}
