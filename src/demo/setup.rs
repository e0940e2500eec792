use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::net::tls::{self, TlsError};
use crate::shadowsocks::NodeKey;

const NAME: &str = "demo";
const DAYS: u32 = 3650;

/// Why the demo's tunnel lacks something.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("{path}: {status} {answer}")]
    Refused { path: String, status: StatusCode, answer: Value },
    #[error("an answer lacks {0}")]
    Lacking(String),
}

/// Makes through the admin API what a tunnel needs, or finds what an earlier demo made.
pub(super) struct Setup {
    http: Client,
    base: String,
    key: String,
}

/// What the gateway and the client need to know.
pub(super) struct Made {
    pub(super) gateway_token: String,
    pub(super) device_id: String,
    pub(super) device_token: String,
}

impl Setup {
    pub(super) fn new(control_url: &str, key: &str) -> Result<Self, SetupError> {
        let http = Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(tls::client_for(control_url, None)?.as_ref().clone())
            .build()?;
        Ok(Self { http, base: format!("{control_url}/api/v1/admin"), key: key.to_owned() })
    }

    pub(super) async fn run(&self, region: &str, node: &NodeKey) -> Result<Made, SetupError> {
        self.ensure("regions", "code", json!({ "code": region, "name": "Demo" })).await?;
        let address = json!({
            "name": NAME,
            "region": region,
            "internal_ip": node.host,
            "port": node.port,
            "method": node.method,
            "password": node.password,
        });
        match self.find("nodes", "name", NAME).await? {
            Some(id) => self.ask(Method::PATCH, &format!("nodes/{id}"), Some(address)).await?,
            None => self.ask(Method::POST, "nodes", Some(address)).await?,
        };
        let gateway = self.ensure("gateways", "name", json!({ "name": NAME, "region": region })).await?;
        let gateway = self.ask(Method::POST, &format!("gateways/{gateway}/token"), None).await?;
        let plan = self.ensure("plans", "name", json!({ "name": NAME })).await?;
        let user = self.ensure("users", "identifier", json!({ "identifier": "demo@example.com" })).await?;
        let subscription = json!({ "user_id": user, "plan_id": plan, "days": DAYS });
        self.ensure("subscriptions", "user_id", subscription).await?;
        let device = json!({ "user_id": user, "device_uuid": NAME, "platform": std::env::consts::OS });
        let device = self.ensure("devices", "device_uuid", device).await?;
        let token = self.ask(Method::POST, &format!("devices/{device}/token"), None).await?;
        Ok(Made {
            gateway_token: text(&gateway, "token")?,
            device_token: text(&token, "access_token")?,
            device_id: device,
        })
    }

    async fn ensure(&self, resource: &str, field: &str, body: Value) -> Result<String, SetupError> {
        let wanted = text(&body, field)?;
        match self.find(resource, field, &wanted).await? {
            Some(id) => Ok(id),
            None => text(&self.ask(Method::POST, resource, Some(body)).await?, "id"),
        }
    }

    async fn find(&self, resource: &str, field: &str, value: &str) -> Result<Option<String>, SetupError> {
        let list = self.ask(Method::GET, resource, None).await?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = items.iter().find(|item| item[field].as_str() == Some(value));
        found.map(|item| text(item, "id")).transpose()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, SetupError> {
        let mut request = self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(&self.key);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if status.is_success() {
            Ok(answer)
        } else {
            Err(SetupError::Refused { path: path.to_owned(), status, answer })
        }
    }
}

fn text(value: &Value, field: &str) -> Result<String, SetupError> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| SetupError::Lacking(field.to_owned()))
}
