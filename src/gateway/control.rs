//! The control plane as a gateway sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::jwk::JwkSet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    AssignOutline, Assigned, EventAck, GatewayEnroll, GatewayEnrolled, GatewayHeartbeat, GatewayOrders, NodeHeartbeat,
    Problem, UsageReport, UsageReports, UsageVerdicts, ValidateDevice, Validated,
};
use crate::config::{self, Secret};
use crate::net::dial::Dialer;
use crate::telemetry::causes;

/// Why the control plane gave no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The request was not delivered.
    #[error("control plane cannot be reached: {0}")]
    Unreachable(String),
    /// Nobody knows whether it acted on the request.
    #[error("control plane did not answer: {0}")]
    Lost(String),
    #[error("control plane answered {status} {code}")]
    Refused { status: StatusCode, code: String },
}

/// The control plane's answer to a client.
pub(crate) struct Relayed {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The control plane's addresses, one that answers first.
struct Names {
    dialer: Dialer,
    port: u16,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let (dialer, port) = (self.dialer.clone(), self.port);
        Box::pin(async move {
            let found = dialer.ordered(name.as_str(), port).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A client of the control plane with a gateway's token.
#[derive(Clone)]
pub(crate) struct ControlClient {
    http: Client,
    base: Url,
    token: Secret,
    patience: Duration,
}

impl ControlClient {
    pub(crate) fn new(config: &config::Gateway, ca: Option<&[u8]>, dialer: &Dialer) -> Result<Self, String> {
        let tls = crate::net::tls::client_for(&config.control_url, ca)?;
        let base =
            Url::parse(&format!("{}/", config.control_url.trim_end_matches('/'))).map_err(|error| error.to_string())?;
        let names = Names { dialer: dialer.clone(), port: base.port_or_known_default().unwrap_or_default() };
        let net = dialer.options();
        let http = Client::builder()
            .tls_backend_preconfigured(tls.as_ref().clone())
            .timeout(config.control_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(names))
            .tcp_keepalive((!net.keepalive_idle.is_zero()).then_some(net.keepalive_idle))
            .tcp_keepalive_interval(net.keepalive_interval)
            .tcp_keepalive_retries(net.keepalive_count)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { http, base, token: config.token.clone(), patience: config.control_timeout })
    }

    pub(crate) async fn keys(&self) -> Result<JwkSet, ControlError> {
        let url = self.url(".well-known/jwks.json")?;
        answer(self.http.get(url).send().await).await
    }

    pub(crate) async fn validate(&self, request: &ValidateDevice) -> Result<Validated, ControlError> {
        self.post("api/v1/auth/validate-device", request).await
    }

    pub(crate) async fn assign(&self, request: &AssignOutline) -> Result<Assigned, ControlError> {
        self.post("api/v1/nodes/assign-outline", request).await
    }

    pub(crate) async fn report(&self, reports: Vec<UsageReport>) -> Result<UsageVerdicts, ControlError> {
        self.post("api/v1/usage/report", &UsageReports::Batch { reports }).await
    }

    pub(crate) async fn enrol(&self, request: &GatewayEnroll) -> Result<GatewayEnrolled, ControlError> {
        self.post("api/v1/gateway/enroll", request).await
    }

    pub(crate) async fn heartbeat(&self, request: &GatewayHeartbeat) -> Result<GatewayOrders, ControlError> {
        self.post("api/v1/gateway/heartbeat", request).await
    }

    pub(crate) async fn node_seen(&self, request: &NodeHeartbeat) -> Result<(), ControlError> {
        self.post::<serde_json::Value>("api/v1/outline/heartbeat", request).await.map(|_| ())
    }

    /// Opens the stream of events behind a place, or with a snapshot.
    pub(crate) async fn events(&self, place: Option<&(String, i64)>) -> Result<Response, ControlError> {
        let mut url = self.url("api/v1/gateway/events")?;
        if let Some((epoch, after)) = place {
            url.query_pairs_mut().append_pair("epoch", epoch).append_pair("after", &after.to_string());
        }
        let request = self.http.get(url).bearer_auth(self.token.expose()).timeout(Duration::MAX);
        match tokio::time::timeout(self.patience, request.send()).await {
            Ok(sent) => checked(sent).await,
            Err(_) => Err(ControlError::Lost("timed out".into())),
        }
    }

    pub(crate) async fn ack(&self, ack: &EventAck) -> Result<(), ControlError> {
        let request = self.http.post(self.url("api/v1/gateway/events/ack")?).bearer_auth(self.token.expose()).json(ack);
        checked(request.send().await).await.map(|_| ())
    }

    /// Passes a client's request on, without the gateway's token; whatever the answer is, it is given.
    pub(crate) async fn relay(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Relayed, ControlError> {
        let request = self.http.request(method, self.url(path)?).headers(headers).body(body);
        let response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(unreachable)?;
        Ok(Relayed { status, headers, body })
    }

    fn url(&self, path: &str) -> Result<Url, ControlError> {
        self.base.join(path).map_err(|error| ControlError::Unreachable(error.to_string()))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ControlError> {
        let request = self.http.post(self.url(path)?).bearer_auth(self.token.expose()).json(body);
        answer(request.send().await).await
    }
}

fn unreachable(error: reqwest::Error) -> ControlError {
    let delivered = !error.is_connect();
    let reason = causes(&error.without_url());
    if delivered { ControlError::Lost(reason) } else { ControlError::Unreachable(reason) }
}

/// An answer that is a success.
async fn checked(sent: reqwest::Result<Response>) -> Result<Response, ControlError> {
    let response = sent.map_err(unreachable)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let code = response.json::<Problem>().await.map_or_else(|_| String::new(), |problem| problem.code);
    Err(ControlError::Refused { status, code })
}

async fn answer<T: DeserializeOwned>(sent: reqwest::Result<Response>) -> Result<T, ControlError> {
    checked(sent).await?.json().await.map_err(unreachable)
}
