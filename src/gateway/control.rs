//! The control plane as a gateway sees it.

use jsonwebtoken::jwk::JwkSet;
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    AssignOutline, Assigned, GatewayHeartbeat, GatewayOrders, NodeHeartbeat, Problem, UsageReport, UsageReports,
    UsageVerdicts, ValidateDevice, Validated,
};
use crate::config::{self, Secret};
use crate::telemetry::causes;

/// Why the control plane gave no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("control plane cannot be reached: {0}")]
    Unreachable(String),
    #[error("control plane answered {status} {code}")]
    Refused { status: StatusCode, code: String },
}

/// A client of the control plane with a gateway's token.
#[derive(Clone)]
pub(crate) struct ControlClient {
    http: Client,
    base: Url,
    token: Secret,
}

impl ControlClient {
    pub(crate) fn new(config: &config::Gateway, ca: Option<&[u8]>) -> Result<Self, String> {
        let tls = crate::net::tls::client_for(&config.control_url, ca)?;
        let http = Client::builder()
            .tls_backend_preconfigured(tls.as_ref().clone())
            .timeout(config.control_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| error.to_string())?;
        let base =
            Url::parse(&format!("{}/", config.control_url.trim_end_matches('/'))).map_err(|error| error.to_string())?;
        Ok(Self { http, base, token: config.token.clone() })
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

    pub(crate) async fn heartbeat(&self, request: &GatewayHeartbeat) -> Result<GatewayOrders, ControlError> {
        self.post("api/v1/gateway/heartbeat", request).await
    }

    pub(crate) async fn node_seen(&self, request: &NodeHeartbeat) -> Result<(), ControlError> {
        self.post::<serde_json::Value>("api/v1/outline/heartbeat", request).await.map(|_| ())
    }

    fn url(&self, path: &str) -> Result<Url, ControlError> {
        self.base.join(path).map_err(|error| ControlError::Unreachable(error.to_string()))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ControlError> {
        let request = self.http.post(self.url(path)?).bearer_auth(self.token.expose()).json(body);
        answer(request.send().await).await
    }
}

async fn answer<T: DeserializeOwned>(sent: reqwest::Result<reqwest::Response>) -> Result<T, ControlError> {
    let unreachable = |error: reqwest::Error| ControlError::Unreachable(causes(&error.without_url()));
    let response = sent.map_err(unreachable)?;
    let status = response.status();
    if status.is_success() {
        return response.json().await.map_err(unreachable);
    }
    let code = response.json::<Problem>().await.map_or_else(|_| String::new(), |problem| problem.code);
    Err(ControlError::Refused { status, code })
}
