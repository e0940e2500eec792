//! The request that becomes a tunnel, is relayed, or gets the site's answer (docs/03, "Transports").

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, is_upgrade_request, upgrade};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use uuid::Uuid;

use super::GatewayState;
use super::body::{Body, boxed};
use super::portal::{self, PortalRequest};
use crate::frame::Encoding;
use crate::net::http2::MEDIA_TYPE;
use crate::net::proxy_protocol::Named;
use crate::net::tunnel::Framing;
use crate::net::websocket::Side;

const V1: &str = Encoding::V1.subprotocol();
const V2: &str = Encoding::V2.subprotocol();
const TOKEN: &str = "httvps.token.";

/// What client and gateway agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) encoding: Encoding,
    /// The device whose token the request carried.
    pub(super) bearer: Option<Uuid>,
}

/// What a request that is a client's was let in for; its token, if it has one, was checked.
#[derive(Clone, Debug)]
pub(super) enum Grant {
    /// It becomes a tunnel.
    Tunnel(Asked),
    /// The control plane may answer it.
    Portal(PortalRequest),
}

impl Grant {
    /// What a request is let in for; none if it is the site's.
    pub(super) fn of<B>(request: &Request<B>, state: &GatewayState) -> Option<Self> {
        let tunnel =
            if request.version() == Version::HTTP_2 { asked(request, state) } else { upgrading(request, state) };
        tunnel.map(Self::Tunnel).or_else(|| portal::request_of(request, state).map(Self::Portal))
    }
}

/// What the requests of a connection have led to.
pub(super) struct Outcome {
    /// What the first of them was let in for, if that is known.
    first: Mutex<Option<Grant>>,
    /// Whether the site may switch the connection to another protocol.
    may_switch: bool,
    switched: Mutex<Option<Switched>>,
}

/// What a connection has become.
pub(super) enum Switched {
    Tunnel(UpgradeFut, Agreement),
    /// The site's, from here to there.
    Site(OnUpgrade, OnUpgrade),
}

impl Outcome {
    /// Nothing yet; the first request was let in for this, if it was looked at.
    pub(super) fn after(first: Option<Grant>, may_switch: bool) -> Self {
        Self { first: Mutex::new(first), may_switch, switched: Mutex::default() }
    }

    fn take_first(&self) -> Option<Grant> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn switch(&self, to: Switched) {
        *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    /// What the connection has become, once.
    pub(super) fn take(&self) -> Option<Switched> {
        self.switched.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Agrees to a tunnel, passes on what the control plane answers, or has the site answer.
pub(super) async fn respond(
    mut request: Request<Incoming>,
    ends: Named,
    state: &GatewayState,
    outcome: &Outcome,
) -> Response<Body> {
    match outcome.take_first().or_else(|| Grant::of(&request, state)) {
        Some(Grant::Tunnel(asked)) => {
            if let Ok((response, upgrade)) = upgrade(&mut request) {
                outcome.switch(Switched::Tunnel(upgrade, asked.agreement));
                let mut response = response.map(boxed);
                if let Some(name) = asked.echo {
                    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
                }
                return response;
            }
            state.site.answer(request, ends).await
        }
        Some(Grant::Portal(portal_request)) => relay(&portal_request, request, ends, state).await,
        None => pass_on(request, ends, state, outcome).await,
    }
}

/// Has the site answer, which may switch the connection to another protocol behind a proxy that forwards requests.
async fn pass_on(
    mut request: Request<Incoming>,
    ends: Named,
    state: &GatewayState,
    outcome: &Outcome,
) -> Response<Body> {
    let client = request.extensions().get::<OnUpgrade>().cloned();
    if !outcome.may_switch {
        request.extensions_mut().remove::<OnUpgrade>();
    }
    let mut response = state.site.answer(request, ends).await;
    if let Some(client) = client
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        outcome.switch(Switched::Site(client, hyper::upgrade::on(&mut response)));
    }
    response
}

/// The control plane's answer to a request that may have one, or the site's.
pub(super) async fn relay<B>(
    portal_request: &PortalRequest,
    request: Request<B>,
    ends: Named,
    state: &GatewayState,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let (head, body) = request.into_parts();
    let Some(body) = portal::collect(body, state.portal.body_max()).await else {
        return state.site.error(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let answered = Box::pin(portal::answer(portal_request, &head, body.clone(), ends.client.ip(), state)).await;
    let Some(response) = answered else {
        return state.site.answer(without_secrets(head), ends).await;
    };
    response.map(boxed)
}

/// A request for the site of which the control plane would have nothing.
fn without_secrets(mut head: Parts) -> Request<Full<Bytes>> {
    for name in [AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    Request::from_parts(head, Full::default())
}

/// What a WebSocket client over HTTP/1.1 asks for, if that is a tunnel.
fn upgrading<B>(request: &Request<B>, state: &GatewayState) -> Option<Asked> {
    if request.uri().path() != state.tunnel.path || !is_handshake(request) {
        return None;
    }
    let (encoding, echo) = encoding_of(request)?;
    let bearer = vouched(request, state, state.tunnel.require_bearer).ok()?;
    Some(Asked { agreement: Agreement { encoding, bearer }, framing: Framing::WebSocket(Side::Server), echo })
}

/// RFC 6455, section 4.2.1, to the letter.
fn is_handshake<B>(request: &Request<B>) -> bool {
    let only = |name: HeaderName| {
        let mut values = request.headers().get_all(name).into_iter();
        values.next().filter(|_| values.next().is_none())
    };
    let is_key = |key: &HeaderValue| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    request.method() == Method::GET
        && is_upgrade_request(request)
        && only(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && only(SEC_WEBSOCKET_KEY).is_some_and(is_key)
        && ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| request.headers().contains_key(name))
}

/// A tunnel that a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) agreement: Agreement,
    pub(super) framing: Framing,
    /// The subprotocol to answer with.
    pub(super) echo: Option<&'static str>,
}

/// What a request over HTTP/2 asks for, if that is a tunnel: extended CONNECT (RFC 8441), or a POST of our media type.
fn asked<B>(request: &Request<B>, state: &GatewayState) -> Option<Asked> {
    if request.uri().path() != state.tunnel.path {
        return None;
    }
    let headers = request.headers();
    match *request.method() {
        Method::CONNECT => {
            let protocol = request.extensions().get::<h2::ext::Protocol>()?;
            let is_websocket = protocol.as_str() == "websocket"
                && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
            if !is_websocket {
                return None;
            }
            let (encoding, echo) = encoding_of(request)?;
            let bearer = vouched(request, state, state.tunnel.require_bearer).ok()?;
            let framing = Framing::WebSocket(Side::Server);
            Some(Asked { agreement: Agreement { encoding, bearer }, framing, echo })
        }
        Method::POST if headers.get(CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE) => {
            let bearer = vouched(request, state, true).ok()?;
            let agreement = Agreement { encoding: Encoding::V2, bearer };
            Some(Asked { agreement, framing: Framing::Frames, echo: None })
        }
        _ => None,
    }
}

/// A token is bad, or missing where one has to be.
struct Unvouched;

/// The device whose token a request carries, if it carries one.
fn vouched<B>(request: &Request<B>, state: &GatewayState, required: bool) -> Result<Option<Uuid>, Unvouched> {
    match bearer_of(request) {
        Some(token) => Ok(Some(state.keys.check_at_once(token).map_err(|_| Unvouched)?.sub)),
        None if required => Err(Unvouched),
        None => Ok(None),
    }
}

fn offered<B>(request: &Request<B>) -> impl Iterator<Item = &str> {
    let headers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    headers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The encoding a client asks for, the newer if it offers both, and the name to echo.
fn encoding_of<B>(request: &Request<B>) -> Option<(Encoding, Option<&'static str>)> {
    let mut names = offered(request).filter(|name| !name.starts_with(TOKEN)).peekable();
    if names.peek().is_none() {
        return Some((Encoding::V1, None));
    }
    names.fold(None, |best, name| match name {
        V2 => Some((Encoding::V2, Some(V2))),
        V1 => best.or(Some((Encoding::V1, Some(V1)))),
        _ => best,
    })
}

/// The token of `Authorization`, or of the subprotocol that browsers can set.
fn bearer_of<B>(request: &Request<B>) -> Option<&str> {
    match request.headers().get(AUTHORIZATION) {
        Some(value) => Some(portal::bearer(value).unwrap_or_default()),
        None => offered(request).find_map(|name| name.strip_prefix(TOKEN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(offered: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        for value in offered {
            request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn encodings_by_subprotocol() {
        let ask = |offered: &[&str]| encoding_of(&offering(offered));
        assert_eq!(ask(&[]), Some((Encoding::V1, None)));
        assert_eq!(ask(&["httvps.v1, httvps.v2"]), Some((Encoding::V2, Some(V2))));
        assert_eq!(ask(&["httvps.v2", "httvps.v1"]), Some((Encoding::V2, Some(V2))));
        assert_eq!(ask(&["chat", "httvps.v1"]), Some((Encoding::V1, Some(V1))));
        assert_eq!(ask(&["httvps.token.a.b.c"]), Some((Encoding::V1, None)));
        assert_eq!(ask(&["httvps.v2, httvps.token.a.b.c"]), Some((Encoding::V2, Some(V2))));
        assert_eq!(ask(&["chat"]), None);
    }

    #[test]
    fn bearers_by_header_or_subprotocol() {
        assert_eq!(bearer_of(&offering(&["httvps.v2"])), None);
        assert_eq!(bearer_of(&offering(&["httvps.v2, httvps.token.a.b"])), Some("a.b"));
        let mut request = offering(&["httvps.token.a.b"]);
        for scheme in ["Bearer c.d", "bearer c.d", "BEARER   c.d"] {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(scheme));
            assert_eq!(bearer_of(&request), Some("c.d"), "{scheme}");
        }
        for other in ["Basic x", "Bearerc.d", "bearer"] {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(other));
            assert_eq!(bearer_of(&request), Some(""), "another scheme is no token, and no lack of one");
        }
    }
}
