//! What a gateway relays for clients besides tunnels (docs/04, "Portal").

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use uuid::Uuid;

use super::Shared;
use super::control::Relayed;
use super::places::counted;
use crate::api::{Enroll, Refresh};
use crate::config;

const MINUTE: Duration = Duration::from_secs(60);
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// Callers that a table knows.
const MOST_CALLERS: usize = 65_536;

/// The settings of the portal and who has used it.
pub(super) struct Portal {
    enabled: bool,
    body_max: usize,
    /// Of devices with a genuine token, whatever address they share with others.
    devices: Rates<Uuid>,
    addresses: Rates<IpAddr>,
}

impl Portal {
    pub(super) fn new(config: &config::Portal) -> Self {
        Self {
            enabled: config.enabled,
            body_max: usize::try_from(config.body_max.as_u64()).unwrap_or(usize::MAX),
            devices: Rates::new(config.device_requests_per_minute),
            addresses: Rates::new(config.requests_per_minute),
        }
    }

    /// Largest body of a request.
    pub(super) fn body_max(&self) -> usize {
        self.body_max
    }
}

/// A request that is the control plane's to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Errand {
    path: String,
    proof: Proof,
}

/// What makes it worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Code,
    RefreshToken,
    AccessToken,
}

impl Errand {
    /// The errand of a request below the tunnel's path.
    fn of(method: &Method, path: &str, tunnel: &str) -> Option<Self> {
        let path = path.strip_prefix(tunnel)?.strip_prefix('/')?;
        let (path, proof) = match (method, path) {
            (&Method::POST, "api/v1/auth/enroll") => (path.to_owned(), Proof::Code),
            (&Method::POST, "api/v1/auth/refresh") => (path.to_owned(), Proof::RefreshToken),
            (&Method::GET, "api/v1/client/config" | "api/v1/client/account" | ".well-known/jwks.json") => {
                (path.to_owned(), Proof::AccessToken)
            }
            (&Method::DELETE | &Method::PATCH, _) => {
                let id: Uuid = path.strip_prefix("api/v1/client/devices/")?.parse().ok()?;
                (format!("api/v1/client/devices/{id}"), Proof::AccessToken)
            }
            _ => return None,
        };
        Some(Self { path, proof })
    }
}

/// The control plane's answer to a client, or nothing if a stranger's is due. Every body is read before, whatever the
/// path, so that none can be told from another by when it is answered.
pub(super) async fn answer<B>(request: Request<B>, from: IpAddr, shared: &Shared) -> Option<Response<Full<Bytes>>>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let portal = &shared.portal;
    let (head, body) = request.into_parts();
    let body = collect(body, portal.body_max).await?;
    if !portal.enabled {
        return None;
    }
    let errand = Errand::of(&head.method, head.uri.path(), &shared.tunnel.path)?;
    let (headers, device) = credentials(errand.proof, &head.headers, &body, shared)?;
    let now = Instant::now();
    let may = match device {
        Some(device) => portal.devices.take(device, now),
        None => portal.addresses.take(counted(from), now),
    };
    if !may {
        shared.metrics.refuse("portal_rate");
        return None;
    }
    match shared.control.relay(head.method, &errand.path, headers, body).await {
        Ok(relayed) => passed_on(relayed),
        Err(error) => {
            shared.metrics.refuse("portal_unavailable");
            tracing::debug!(%error, "a client's request was not relayed");
            None
        }
    }
}

/// The token of an `Authorization` header of the scheme Bearer, in any case (RFC 9110, section 11.1).
pub(super) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A body that is not too large.
pub(super) async fn collect<B>(body: B, max: usize) -> Option<Bytes>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    if usize::try_from(body.size_hint().lower()).ok()? > max {
        return None;
    }
    let collected = Limited::new(body, max).collect().await.ok()?;
    Some(collected.to_bytes())
}

/// The headers that travel on, if the request may leave the gateway, and the device that it proves to be of.
fn credentials(proof: Proof, headers: &HeaderMap, body: &[u8], shared: &Shared) -> Option<(HeaderMap, Option<Uuid>)> {
    let mut kept = HeaderMap::new();
    let mut device = None;
    match proof {
        Proof::Code => {
            serde_json::from_slice::<Enroll>(body).ok()?;
        }
        Proof::RefreshToken => {
            serde_json::from_slice::<Refresh>(body).ok()?;
        }
        Proof::AccessToken => {
            let value = headers.get(AUTHORIZATION)?;
            device = Some(shared.keys.check_at_once(bearer(value)?).ok()?.sub);
            kept.insert(AUTHORIZATION, value.clone());
            if let Some(known) = headers.get(IF_NONE_MATCH) {
                kept.insert(IF_NONE_MATCH, known.clone());
            }
        }
    }
    Some((kept, device))
}

/// Success, and refusals that only a genuine code or token can have.
fn passed_on(relayed: Relayed) -> Option<Response<Full<Bytes>>> {
    let refusals = [StatusCode::NOT_MODIFIED, StatusCode::FORBIDDEN, StatusCode::CONFLICT];
    if !relayed.status.is_success() && !refusals.contains(&relayed.status) {
        return None;
    }
    let mut response = Response::new(Full::new(relayed.body));
    *response.status_mut() = relayed.status;
    for name in [CONTENT_TYPE, ETAG, CACHE_CONTROL] {
        if let Some(value) = relayed.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Some(response)
}

/// Requests of each caller; a whole minute's may come at once.
struct Rates<C> {
    /// What one request costs.
    each: Duration,
    table: Mutex<Table<C>>,
}

struct Table<C> {
    /// When a caller will have paid for its requests.
    paid_at: HashMap<C, Instant>,
    swept_at: Option<Instant>,
}

impl<C: Copy + Eq + Hash> Rates<C> {
    fn new(per_minute: u32) -> Self {
        let table = Table { paid_at: HashMap::new(), swept_at: None };
        Self { each: MINUTE / per_minute.max(1), table: Mutex::new(table) }
    }

    /// Whether a caller may have another request.
    fn take(&self, caller: C, now: Instant) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_at = table.paid_at.get(&caller).copied().unwrap_or(now).max(now) + self.each;
        if paid_at > now + MINUTE || !table.has_room(&caller, now) {
            return false;
        }
        table.paid_at.insert(caller, paid_at);
        true
    }
}

impl<C: Eq + Hash> Table<C> {
    /// Whether a caller is known or may become so; those that have paid are forgotten first.
    fn has_room(&mut self, caller: &C, now: Instant) -> bool {
        if self.paid_at.len() < MOST_CALLERS || self.paid_at.contains_key(caller) {
            return true;
        }
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_AFTER) {
            return false;
        }
        self.swept_at = Some(now);
        self.paid_at.retain(|_, paid_at| *paid_at > now);
        self.paid_at.len() < MOST_CALLERS
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_these_requests_are_errands() {
        let of = |method: Method, path: &str| {
            assert_eq!(Errand::of(&method, path, "/secret"), None, "{path} stands elsewhere");
            assert_eq!(Errand::of(&method, &format!("/secrets{path}"), "/secret"), None);
            Errand::of(&method, &format!("/secret{path}"), "/secret").map(|errand| (errand.path, errand.proof))
        };
        let config = Some(("api/v1/client/config".to_owned(), Proof::AccessToken));
        assert_eq!(of(Method::GET, "/api/v1/client/config"), config);
        let keys = Some((".well-known/jwks.json".to_owned(), Proof::AccessToken));
        assert_eq!(of(Method::GET, "/.well-known/jwks.json"), keys);
        assert_eq!(of(Method::POST, "/api/v1/auth/enroll"), Some(("api/v1/auth/enroll".to_owned(), Proof::Code)));
        let id = "01a1fd57-4f40-788d-8276-5f073ec43d8a";
        let device = Some((format!("api/v1/client/devices/{id}"), Proof::AccessToken));
        assert_eq!(of(Method::DELETE, &format!("/api/v1/client/devices/{id}")), device);
        assert_eq!(of(Method::PATCH, &format!("/api/v1/client/devices/{id}")), device);
        for (method, path) in [
            (Method::HEAD, "/api/v1/client/config"),
            (Method::POST, "/api/v1/client/config"),
            (Method::GET, "/api/v1/auth/enroll"),
            (Method::GET, "/api/v1/client/config/"),
            (Method::DELETE, "/api/v1/client/devices/../../admin/users"),
            (Method::POST, "/api/v1/auth/validate-device"),
            (Method::GET, "/"),
        ] {
            assert_eq!(of(method, path), None, "{path}");
        }
    }

    #[test]
    fn rates_are_of_an_address_and_come_back() {
        let rates = Rates::new(20);
        let now = Instant::now();
        let take = |ip: &str, at: Instant| rates.take(counted(ip.parse().unwrap()), at);
        assert_eq!((0..30).filter(|_| take("192.0.2.1", now)).count(), 20);
        assert!(!take("::ffff:192.0.2.1", now) && take("192.0.2.2", now));
        assert!(!take("192.0.2.1", now + Duration::from_millis(2900)));
        assert!(take("192.0.2.1", now + Duration::from_secs(3)));
        assert_eq!((0..30).filter(|_| take("2001:db8::1", now)).count(), 20);
        assert!(!take("2001:db8::2", now), "a /64 is one address");
        assert_eq!((0..30).filter(|_| take("192.0.2.1", now + MINUTE * 2)).count(), 20);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_paid() {
        let rates = Rates::new(60);
        let now = Instant::now();
        let ip = |number: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap()));
        assert!((0..MOST_CALLERS).all(|number| rates.take(ip(number), now)));
        assert!(!rates.take(ip(MOST_CALLERS), now));
        assert!(rates.take(ip(1), now), "one that is known");
        let later = now + Duration::from_millis(1500);
        assert!(rates.take(ip(MOST_CALLERS), later));
        assert_eq!(rates.table.lock().unwrap().paid_at.len(), 2, "the one that still owes, and the new one");
    }
}
