use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Section, key};

/// `[decoy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Decoy {
    /// `host:port` of the web server that everybody reaches who is no client; empty for none.
    pub upstream: String,
    /// `host:port` of the same server for HTTP/2 in clear text; empty asks it in HTTP/1.1 for each request.
    pub upstream_h2: String,
    /// `host:port` where what is not TLS at all goes; empty answers like a common server.
    pub plain: String,
    /// Whether the upstream is told of clients' addresses.
    pub proxy_protocol: ProxyProtocol,
    /// Folder of the site if there is no such server; empty for none.
    pub files: String,
    /// What the site's own pages call the server.
    pub server: String,
    /// How long the first bytes are waited for before the upstream hears of a connection.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// Longest time to reach the upstream.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Requests that are asked of the upstream at once; others wait.
    pub max_requests: usize,
    /// Longest time for a request's head, and between requests, where the site is served from here.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

/// The PROXY protocol towards an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    Off,
    V1,
    V2,
}

impl Section for Decoy {
    const NAME: &'static str = "decoy";

    fn validate(&self) -> Result<(), Invalid> {
        for (key, address) in [
            (key!(Self, upstream), &self.upstream),
            (key!(Self, upstream_h2), &self.upstream_h2),
            (key!(Self, plain), &self.plain),
        ] {
            if !address.is_empty() && host_and_port(address).is_none() {
                return Err(Invalid::new(key, "must be host:port, such as 127.0.0.1:8080 or [::1]:8080"));
            }
        }
        if self.max_requests == 0 {
            return Err(Invalid::new(key!(Self, max_requests), "must be at least 1"));
        }
        if !self.files.is_empty() && !self.upstream.is_empty() {
            return Err(Invalid::new(key!(Self, files), "excludes upstream"));
        }
        if !self.server.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(Invalid::new(key!(Self, server), "must be printable ASCII, such as nginx"));
        }
        Ok(())
    }
}

/// The two parts of `host:port` or `[v6]:port`.
pub fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port: u16 = port.parse().ok()?;
    (!host.is_empty() && port > 0).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(host_and_port("web:80"), Some(("web", 80)));
        assert_eq!(host_and_port("[::1]:8080"), Some(("::1", 8080)));
        for wrong in ["web", "web:", ":80", "web:0", "::1:80", "[::1:80", "web:65536", "http://web:80"] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }
}
