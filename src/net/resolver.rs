//! Names to addresses: both families asked at once, answers kept for their time (docs/04, "Names and lines").

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use crate::config::Net;

/// What a system resolver reads; looked at again now and then.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Who is asked where no file says so, as the C library does.
const FALLBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 53);

/// Why a name has no address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LookupError {
    #[error("there is no such name")]
    NoName,
    #[error("the name has no address")]
    NoAddress,
    #[error("no name server answered in time")]
    Timeout,
    #[error("{0}")]
    Failed(String),
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ResolverError(#[from] NetError);

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        let kind = match error {
            LookupError::NoName | LookupError::NoAddress => io::ErrorKind::NotFound,
            LookupError::Timeout => io::ErrorKind::TimedOut,
            LookupError::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

type Answer = Result<Vec<IpAddr>, LookupError>;

/// A resolver; clones share what it knows.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    net: Net,
    servers: Vec<SocketAddr>,
    current: Mutex<Current>,
}

struct Current {
    dns: TokioResolver,
    changed: [Option<SystemTime>; FILES.len()],
    looked: Instant,
}

impl Resolver {
    /// A resolver that asks these servers, or those of the system without any. `/etc/hosts` is honoured.
    pub fn new(net: &Net, servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let changed = changed();
        let dns = build(net, servers)?;
        let current = Mutex::new(Current { dns, changed, looked: Instant::now() });
        Ok(Self(Arc::new(Inner { net: net.clone(), servers: servers.to_vec(), current })))
    }

    /// The addresses of a host, IPv6 first. A name that ends in a dot is not completed by the system's search list.
    pub async fn lookup(&self, host: &str) -> Answer {
        self.ask(host, self.0.net.dns_delay).await
    }

    /// As [`Resolver::lookup`], but IPv4 first, and IPv6 alone only where there is no IPv4 or nobody says so in `net.dns_timeout`.
    pub async fn lookup_v4_first(&self, host: &str) -> Answer {
        let mut found = self.ask(host, self.0.net.dns_timeout).await?;
        found.sort_by_key(IpAddr::is_ipv6);
        Ok(found)
    }

    /// Asks for both families; once IPv6 is there, IPv4 has so much time.
    async fn ask(&self, host: &str, v4_has: Duration) -> Answer {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let name = Name::from_ascii(host).map_err(|_| LookupError::NoName)?;
        let dns = self.current();
        let v6 = dns.ipv6_lookup(name.clone()).map(addresses);
        let v4 = dns.ipv4_lookup(name).map(addresses);
        let mut found = Box::pin(both((v6, self.0.net.dns_delay), (v4, v4_has))).await?;
        found.sort_by_key(IpAddr::is_ipv4);
        Ok(found)
    }

    /// The resolver of now: made anew when the system's files have changed.
    fn current(&self) -> TokioResolver {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= self.0.net.dns_config_check {
            current.looked = Instant::now();
            let changed = changed();
            if changed != current.changed {
                match build(&self.0.net, &self.0.servers) {
                    Ok(dns) => (current.dns, current.changed) = (dns, changed),
                    Err(error) => {
                        tracing::warn!(%error, "failed to read the system's name servers; using the previous ones");
                    }
                }
            }
        }
        current.dns.clone()
    }
}

fn changed() -> [Option<SystemTime>; FILES.len()] {
    FILES.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok())
}

fn build(net: &Net, servers: &[SocketAddr]) -> Result<TokioResolver, ResolverError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder: ResolverBuilder<_> = match read_system_conf() {
        Ok((config, options)) if servers.is_empty() => {
            let mut builder = TokioResolver::builder_with_config(config, provider);
            *builder.options_mut() = options;
            builder
        }
        Ok(_) | Err(_) => {
            let servers = if servers.is_empty() { &[FALLBACK] } else { servers };
            let servers = servers.iter().copied().map(name_server).collect();
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        }
    };
    let options = builder.options_mut();
    options.timeout = net.dns_timeout;
    options.attempts = net.dns_attempts;
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = net.dns_cache;
    options.positive_max_ttl = Some(net.dns_ttl_max);
    options.negative_max_ttl = Some(net.dns_negative_ttl_max);
    options.max_active_requests = net.dns_questions;
    Ok(builder.build()?)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn addresses(answer: Result<Lookup, NetError>) -> Answer {
    match answer {
        Ok(lookup) => {
            let found: Vec<_> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if found.is_empty() { Err(LookupError::NoAddress) } else { Ok(found) }
        }
        Err(NetError::Timeout) => Err(LookupError::Timeout),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NXDomain => {
            Err(LookupError::NoName)
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(LookupError::NoAddress),
        Err(error) => Err(LookupError::Failed(error.to_string())),
    }
}

/// What two families answer, each with how long it has once the other has addresses (RFC 8305, section 3).
async fn both(
    (one, one_has): (impl Future<Output = Answer> + Send, Duration),
    (other, other_has): (impl Future<Output = Answer> + Send, Duration),
) -> Answer {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (first, rest, has): (Answer, Pin<&mut (dyn Future<Output = Answer> + Send)>, _) = tokio::select! {
        first = &mut one => (first, other, other_has),
        first = &mut other => (first, one, one_has),
    };
    match first {
        Ok(mut found) => {
            if let Ok(Ok(more)) = tokio::time::timeout(has, rest).await {
                found.extend(more);
            }
            Ok(found)
        }
        Err(LookupError::NoName) => rest.now_or_never().and_then(Result::ok).ok_or(LookupError::NoName),
        Err(first) => rest.await.map_err(|second| graver(first, second)),
    }
}

/// A name without an address is certain only if both families said so.
fn graver(first: LookupError, second: LookupError) -> LookupError {
    match (&first, &second) {
        (_, LookupError::NoName | LookupError::Timeout) | (LookupError::NoAddress, _) => second,
        (_, LookupError::NoAddress | LookupError::Failed(_)) => first,
    }
}

#[cfg(test)]
pub(crate) mod tests;
