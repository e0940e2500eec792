//! The control plane as a gateway sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::jwk::JwkSet;
use prometheus::IntGauge;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::circuit::CircuitTimes;
use super::circuit_breaker::CircuitBreaker;
use crate::api::{
    AssignOutline, Assigned, EventAck, GatewayEnroll, GatewayEnrolled, GatewayHeartbeat, GatewayOrders, NodeHeartbeat,
    NodeOpinion, Problem, UsageReport, UsageReports, UsageVerdicts, ValidateDevice, Validated,
};
use crate::config::{self, Secret, UrlError};
use crate::digest::fresh_fraction;
use crate::net::dial::Dialer;
use crate::net::tls::{self, TlsError};
use crate::telemetry::causes;

/// Why the control plane gave no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// It was not asked, because others got no answer.
    #[error("control plane is away")]
    Away,
    /// The request was not delivered.
    #[error("control plane cannot be reached: {0}")]
    Unreachable(#[source] Undelivered),
    /// Nobody knows whether it acted on the request.
    #[error("control plane did not answer: {0}")]
    Lost(#[source] Unanswered),
    #[error("control plane answered {status} {code}")]
    Refused { status: StatusCode, code: String },
}

/// Why a request was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("{0}")]
    Url(#[source] UrlError),
    #[error("{}", causes(.0))]
    Connection(reqwest::Error),
}

/// Why there is no answer to read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no answer yet")]
    NotYet,
    #[error("others got no answer either")]
    NobodyElse,
    #[error("{}", causes(.0))]
    Connection(reqwest::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Why there is no client of the control plane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlClientError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Url(#[source] UrlError),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl ControlError {
    /// Whether there was no answer at all.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Away | Self::Unreachable(_) | Self::Lost(_))
    }

    /// Says in the log what failed; outages that are known are worth less than others.
    pub(crate) fn log(&self, what: &'static str) {
        match self {
            Self::Away => tracing::debug!(error = %self, "{what}"),
            Self::Unreachable(_) | Self::Lost(_) | Self::Refused { .. } => tracing::warn!(error = %self, "{what}"),
        }
    }
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

/// What may be done with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RetryPolicy {
    /// It may be sent again if its connection was closed under it.
    Repeatable,
    /// It acts once each time.
    Once,
    /// Repeatable, and it finds out whether an outage is over.
    Trial,
}

/// A client of the control plane with a gateway's token.
#[derive(Clone)]
pub(crate) struct ControlClient {
    http: Client,
    /// Connects anew for each request.
    unpooled: Client,
    base: Url,
    token: Secret,
    timeout: Duration,
    breaker: Arc<CircuitBreaker>,
}

impl ControlClient {
    /// `shown` is 1 while the control plane answers.
    pub(crate) fn new(
        config: &config::Gateway,
        ca: Option<&[u8]>,
        dialer: &Dialer,
        shown: Option<IntGauge>,
    ) -> Result<Self, ControlClientError> {
        let tls = tls::client_for(&config.control_url, ca)?;
        let base = Url::parse(&format!("{}/", config.control_url.trim_end_matches('/')));
        let base = base.map_err(ControlClientError::Url)?;
        let names = Arc::new(Names { dialer: dialer.clone(), port: base.port_or_known_default().unwrap_or_default() });
        let net = dialer.options();
        let client = |kept: usize| {
            Client::builder()
                .tls_backend_preconfigured(tls.as_ref().clone())
                .timeout(config.control_timeout)
                .pool_idle_timeout(config.control_idle_timeout)
                .pool_max_idle_per_host(kept)
                .dns_resolver(Arc::clone(&names))
                .tcp_keepalive((!net.keepalive_idle.is_zero()).then_some(net.keepalive_idle))
                .tcp_keepalive_interval(net.keepalive_interval)
                .tcp_keepalive_retries(net.keepalive_count)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()
        };
        let spread = 0.75 + fresh_fraction() / 2.0;
        let times = CircuitTimes {
            doubt: config.control_patience,
            retry_min: config.control_retry_min.mul_f64(spread),
            retry_max: config.control_retry_max.mul_f64(spread),
        };
        let breaker = Arc::new(CircuitBreaker::new(times, shown));
        let (http, unpooled) = (client(usize::MAX)?, client(0)?);
        Ok(Self { http, unpooled, base, token: config.token.clone(), timeout: config.control_timeout, breaker })
    }

    /// Whether the control plane is within reach.
    pub(crate) fn breaker(&self) -> &Arc<CircuitBreaker> {
        &self.breaker
    }

    pub(crate) async fn keys(&self) -> Result<JwkSet, ControlError> {
        decoded(self.exchange(self.http.get(self.url(".well-known/jwks.json")?), RetryPolicy::Repeatable).await?)
    }

    pub(crate) async fn validate(&self, request: &ValidateDevice) -> Result<Validated, ControlError> {
        self.post("api/v1/auth/validate-device", request, RetryPolicy::Repeatable).await
    }

    /// Asks for a node; does not wait once the control plane is in doubt.
    pub(crate) async fn assign(&self, request: &AssignOutline) -> Result<Assigned, ControlError> {
        let asked_at = Instant::now();
        tokio::select! {
            answer = self.post("api/v1/nodes/assign-outline", request, RetryPolicy::Repeatable) => answer,
            () = self.breaker.doubtful(asked_at) => Err(ControlError::Lost(Unanswered::NotYet)),
        }
    }

    pub(crate) async fn report(&self, reports: Vec<UsageReport>) -> Result<UsageVerdicts, ControlError> {
        self.post("api/v1/usage/report", &UsageReports::Batch { reports }, RetryPolicy::Repeatable).await
    }

    pub(crate) async fn enroll(&self, request: &GatewayEnroll) -> Result<GatewayEnrolled, ControlError> {
        self.post("api/v1/gateway/enroll", request, RetryPolicy::Once).await
    }

    pub(crate) async fn heartbeat(&self, request: &GatewayHeartbeat) -> Result<GatewayOrders, ControlError> {
        self.post("api/v1/gateway/heartbeat", request, RetryPolicy::Trial).await
    }

    /// Not repeated: two probes in a row mean more than one.
    pub(crate) async fn report_node(&self, request: &NodeHeartbeat) -> Result<NodeOpinion, ControlError> {
        self.post("api/v1/outline/heartbeat", request, RetryPolicy::Once).await
    }

    /// Opens the stream of events behind a cursor, or with a snapshot. `None` if it does not begin in time, which says nothing
    /// about the control plane: a proxy may hold it back.
    pub(crate) async fn events(&self, cursor: Option<&(String, i64)>) -> Result<Option<Response>, ControlError> {
        let mut url = self.url("api/v1/gateway/events")?;
        if let Some((epoch, after)) = cursor {
            url.query_pairs_mut().append_pair("epoch", epoch).append_pair("after", &after.to_string());
        }
        let request = self.http.get(url).bearer_auth(self.token.expose()).timeout(Duration::MAX);
        let sent = async { request.send().await.map(|response| (response.status(), response)).map_err(unreachable) };
        let Ok(answered) = tokio::time::timeout(self.timeout, self.through(RetryPolicy::Once, sent)).await else {
            return Ok(None);
        };
        let (status, response) = answered?;
        if status.is_success() {
            return Ok(Some(response));
        }
        Err(refused(status, &response.bytes().await.map_err(unreachable)?))
    }

    pub(crate) async fn ack(&self, ack: &EventAck) -> Result<(), ControlError> {
        let request = self.http.post(self.url("api/v1/gateway/events/ack")?).bearer_auth(self.token.expose()).json(ack);
        succeeded(self.exchange(request, RetryPolicy::Repeatable).await?).map(|_| ())
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
        self.exchange(request, RetryPolicy::Repeatable).await
    }

    fn url(&self, path: &str) -> Result<Url, ControlError> {
        self.base.join(path).map_err(|error| ControlError::Unreachable(Undelivered::Url(error)))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        policy: RetryPolicy,
    ) -> Result<T, ControlError> {
        let request = self.http.post(self.url(path)?).bearer_auth(self.token.expose()).json(body);
        decoded(self.exchange(request, policy).await?)
    }

    /// Sends a request and reads all of its answer.
    async fn exchange(&self, request: RequestBuilder, policy: RetryPolicy) -> Result<Relayed, ControlError> {
        let delivered = async {
            let again = request.try_clone().filter(|_| policy != RetryPolicy::Once);
            let answer = match (delivered(&self.http, request).await, again) {
                (Err(error), Some(again)) if was_closed(&error) => delivered(&self.unpooled, again).await,
                (answer, _) => answer,
            };
            answer.map(|answer| (answer.status, answer)).map_err(unreachable)
        };
        self.through(policy, delivered).await.map(|(_, answer)| answer)
    }

    /// Makes a call unless the control plane is away, and notes whether it was answered. An error of the server that came
    /// soon says nothing about whether it answers.
    async fn through<T>(
        &self,
        policy: RetryPolicy,
        call: impl Future<Output = Result<(StatusCode, T), ControlError>>,
    ) -> Result<(StatusCode, T), ControlError> {
        let entered =
            if policy == RetryPolicy::Trial { self.breaker.enter_as_trial() } else { self.breaker.enter().await };
        let entered = entered.ok_or(ControlError::Away)?;
        let outcome = tokio::select! {
            outcome = call => outcome,
            () = entered.given_up() => return Err(ControlError::Lost(Unanswered::NobodyElse)),
        };
        match &outcome {
            Ok((status, _)) if !status.is_server_error() => entered.answered(),
            Ok(_) if !entered.is_late() => {}
            Ok(_) | Err(_) => entered.failed(),
        }
        outcome
    }
}

async fn delivered(http: &Client, request: RequestBuilder) -> reqwest::Result<Relayed> {
    let response = http.execute(request.build()?).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Relayed { status, headers, body: response.bytes().await? })
}

/// Whether a connection that was kept was closed by its other end while the request was on its way.
fn was_closed(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

fn unreachable(error: reqwest::Error) -> ControlError {
    let error = error.without_url();
    if error.is_connect() {
        ControlError::Unreachable(Undelivered::Connection(error))
    } else {
        ControlError::Lost(Unanswered::Connection(error))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ControlError {
    let code = serde_json::from_slice::<Problem>(body).map_or_else(|_| String::new(), |problem| problem.code);
    ControlError::Refused { status, code }
}

fn succeeded(answer: Relayed) -> Result<Bytes, ControlError> {
    if answer.status.is_success() { Ok(answer.body) } else { Err(refused(answer.status, &answer.body)) }
}

fn decoded<T: DeserializeOwned>(answer: Relayed) -> Result<T, ControlError> {
    serde_json::from_slice(&succeeded(answer)?).map_err(|error| ControlError::Lost(error.into()))
}
