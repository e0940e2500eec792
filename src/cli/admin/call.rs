use reqwest::{Client, Method, Url};
use serde_json::{Map, Value};

use crate::api::Problem;
use crate::cli::{Failure, say, terminal};
use crate::config::{self, Secret, Source, key, read_file};
use crate::net::tls;
use crate::telemetry::causes;

/// The admin API, with an administrator's key.
pub(super) struct Api {
    http: Client,
    base: Url,
    key: Secret,
}

impl Api {
    pub(super) fn open(source: &Source) -> Result<Self, Failure> {
        let config: config::Admin = source.section()?;
        config.keeps_its_key().map_err(|invalid| source.locate(&invalid))?;
        if config.key.is_empty() {
            return Err(source.unusable(key!(config::Admin, key), "must be set").into());
        }
        let base = Url::parse(&format!("{}/api/v1/admin/", config.url.trim_end_matches('/')))
            .map_err(|error| source.unusable(key!(config::Admin, url), error))?;
        let http = client(&config, source)?;
        Ok(Self { http, base, key: config.key })
    }

    /// The answer's text. Fields travel in the body or, of what has none, in the query.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        fields: &Map<String, Value>,
        json: bool,
    ) -> Result<String, Failure> {
        let mut url = self.base.clone();
        let Ok(mut parts) = url.path_segments_mut() else { return Err(Failure::runtime("admin.url takes no path")) };
        parts.pop_if_empty().extend(path.split('/'));
        drop(parts);
        let has_body = method == Method::POST || method == Method::PATCH;
        if !has_body {
            for (name, value) in fields {
                url.query_pairs_mut().append_pair(name, value.as_str().unwrap_or_default());
            }
        }
        let mut request = self.http.request(method, url).bearer_auth(self.key.expose());
        if has_body {
            request = request.json(fields);
        }
        let response = request.send().await.map_err(|error| Failure::runtime(causes(&error)))?;
        let status = response.status();
        let text = response.text().await.map_err(Failure::runtime)?;
        if status.is_success() {
            return Ok(text);
        }
        if json {
            say(terminal::escaped_json(&text));
        }
        Err(Failure::runtime(match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => explain(&problem),
            Err(_) => format!("the control plane answered {status}"),
        }))
    }

    /// A row, or what else is there to read.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let text = self.ask(Method::GET, path, &Map::new(), false).await?;
        serde_json::from_str(&text).map_err(Failure::runtime)
    }
}

fn client(config: &config::Admin, source: &Source) -> Result<Client, Failure> {
    let key = key!(config::Admin, ca);
    let ca = match config.ca.as_str() {
        "" => None,
        path => Some(read_file(path).map_err(|error| source.unusable(key, error))?),
    };
    let tls = tls::client_for(&config.url, ca.as_deref()).map_err(|error| source.unusable(key, error))?;
    Client::builder().no_proxy().tls_backend_preconfigured(tls.as_ref().clone()).build().map_err(Failure::runtime)
}

fn explain(problem: &Problem) -> String {
    let fields: Vec<String> = problem.errors.iter().map(|error| format!("{} {}", error.field, error.code)).collect();
    let parts = [Some(problem.code.clone()), (!fields.is_empty()).then(|| fields.join(", ")), problem.detail.clone()];
    let text: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} (request {})", text.join(": "), problem.request_id)
}
