//! What a gateway relays for clients besides tunnels (docs/04, "Portal").

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use uuid::Uuid;

use super::GatewayState;
use super::connection_limiter::client_key;
use super::control::Relayed;
use super::rejection::Rejection;
use super::request_limiter::RequestLimiter;
use crate::api::{Enroll, Refresh};
use crate::config;

/// The settings of the portal and who has used it.
pub(super) struct Portal {
    enabled: bool,
    body_max: usize,
    /// Of devices with a genuine token, whatever address they share with others.
    devices: RequestLimiter<Uuid>,
    addresses: RequestLimiter<IpAddr>,
}

impl Portal {
    pub(super) fn new(config: &config::Portal) -> Self {
        Self {
            enabled: config.enabled,
            body_max: usize::try_from(config.body_max.as_u64()).unwrap_or(usize::MAX),
            devices: RequestLimiter::new(config.device_requests_per_minute, config.callers_max),
            addresses: RequestLimiter::new(config.requests_per_minute, config.callers_max),
        }
    }

    /// Largest body of a request.
    pub(super) fn body_max(&self) -> usize {
        self.body_max
    }
}

/// A request that is the control plane's to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortalRequest {
    path: String,
    proof: Proof,
    /// The device whose token it carries, where that is the proof.
    device: Option<Uuid>,
}

/// What makes it worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Code,
    RefreshToken,
    AccessToken,
}

impl PortalRequest {
    /// The portal request of a request below the tunnel's path.
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
        Some(Self { path, proof, device: None })
    }
}

/// What a request asks of the control plane, if that may answer it.
pub(super) fn request_of<B>(request: &Request<B>, state: &GatewayState) -> Option<PortalRequest> {
    let portal = &state.portal;
    let mut wanted = PortalRequest::of(request.method(), request.uri().path(), &state.tunnel.path)?;
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if !portal.enabled || length.is_some_and(|length| length > portal.body_max) {
        return None;
    }
    if wanted.proof == Proof::AccessToken {
        wanted.device = Some(device(request.headers(), state)?);
    }
    Some(wanted)
}

/// The control plane's answer to a client; none if the site's is due.
pub(super) async fn answer(
    portal_request: &PortalRequest,
    head: &Parts,
    body: Bytes,
    from: IpAddr,
    state: &GatewayState,
) -> Option<Response<Full<Bytes>>> {
    let portal = &state.portal;
    let headers = credentials(portal_request.proof, &head.headers, &body)?;
    let now = Instant::now();
    let may = match portal_request.device {
        Some(device) => portal.devices.allow(device, now),
        None => portal.addresses.allow(client_key(from), now),
    };
    if !may {
        state.metrics.refuse(Rejection::PortalRate);
        return None;
    }
    match state.control.relay(head.method.clone(), &portal_request.path, headers, body).await {
        Ok(relayed) => passed_on(relayed),
        Err(error) => {
            state.metrics.refuse(Rejection::PortalUnavailable);
            tracing::debug!(%error, "failed to relay a portal request");
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

/// The device of the access token that a request carries.
fn device(headers: &HeaderMap, state: &GatewayState) -> Option<Uuid> {
    Some(state.keys.check_at_once(bearer(headers.get(AUTHORIZATION)?)?).ok()?.sub)
}

/// The headers that travel on, if the request may leave the gateway.
fn credentials(proof: Proof, headers: &HeaderMap, body: &[u8]) -> Option<HeaderMap> {
    let mut kept = HeaderMap::new();
    match proof {
        Proof::Code => {
            serde_json::from_slice::<Enroll>(body).ok()?;
        }
        Proof::RefreshToken => {
            serde_json::from_slice::<Refresh>(body).ok()?;
        }
        Proof::AccessToken => {
            for name in [AUTHORIZATION, IF_NONE_MATCH] {
                if let Some(value) = headers.get(&name) {
                    kept.insert(name, value.clone());
                }
            }
        }
    }
    Some(kept)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_requests_are_portal_requests() {
        let of = |method: Method, path: &str| {
            assert_eq!(PortalRequest::of(&method, path, "/secret"), None, "{path} stands elsewhere");
            assert_eq!(PortalRequest::of(&method, &format!("/secrets{path}"), "/secret"), None);
            PortalRequest::of(&method, &format!("/secret{path}"), "/secret").map(|wanted| (wanted.path, wanted.proof))
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
}
