use reqwest::{Client, Method, Response, Url};
use serde_json::{Map, Value};

use super::{Failure, USAGE, keygen, say};
use crate::api::Problem;
use crate::config::{self, Source, read_file};
use crate::net::tls;
use crate::telemetry::causes;

const RESOURCES: [&str; 8] = ["users", "devices", "plans", "subscriptions", "regions", "nodes", "gateways", "sessions"];

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  httvps admin users create identifier=ann@example.com\n  \
    httvps admin devices create user_id=ID platform=android\n  httvps admin nodes create region=eu-1 access_key=ss://…\n  \
    httvps admin plans update ID traffic_limit_gb=\n  httvps admin sessions delete ID")]
pub(super) struct Args {
    /// keygen, or one of users, devices, plans, subscriptions, regions, nodes, gateways, sessions
    resource: String,
    /// list, get, create, update, delete; token for devices and gateways
    verb: Option<String>,
    /// ID and field=value pairs
    rest: Vec<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure { code: USAGE, message: message.into() }
}

pub(super) async fn run(args: Args, source: &Source) -> Result<(), Failure> {
    if args.resource == "keygen" {
        return keygen::run();
    }
    if !RESOURCES.contains(&args.resource.as_str()) {
        let known = RESOURCES.join(", ");
        return Err(usage(format!("there is no resource {:?}; there are keygen, {known}", args.resource)));
    }
    let verb = args.verb.as_deref().ok_or_else(|| usage("a verb is missing: list, get, create, update or delete"))?;
    let takes_id = matches!(verb, "get" | "update" | "delete" | "token");
    let (id, pairs) = match args.rest.split_first() {
        Some((id, pairs)) if takes_id => (Some(id.as_str()), pairs),
        _ if takes_id => return Err(usage(format!("{verb} needs an ID"))),
        _ => (None, args.rest.as_slice()),
    };
    if let Some(id) = id
        && id.parse::<uuid::Uuid>().is_err()
    {
        return Err(usage(format!("{id:?} is not an ID")));
    }
    let fields = fields(pairs)?;
    let (method, suffix) = match verb {
        "list" | "get" => (Method::GET, ""),
        "create" => (Method::POST, ""),
        "update" => (Method::PATCH, ""),
        "delete" => (Method::DELETE, ""),
        "token" => (Method::POST, "/token"),
        other => return Err(usage(format!("there is no verb {other:?}"))),
    };
    let config: config::Admin = source.section()?;
    if config.key.is_empty() {
        return Err(source.unusable::<config::Admin>("key", "must be set").into());
    }
    let path = match id {
        Some(id) => format!("/api/v1/admin/{}/{id}{suffix}", args.resource),
        None => format!("/api/v1/admin/{}", args.resource),
    };
    let mut url = Url::parse(&format!("{}{path}", config.url.trim_end_matches('/')))
        .map_err(|error| source.unusable::<config::Admin>("url", error))?;
    let has_body = method == Method::POST || method == Method::PATCH;
    if !has_body {
        for (name, value) in &fields {
            url.query_pairs_mut().append_pair(name, value.as_str().unwrap_or_default());
        }
    }
    let mut request = client(&config, source)?.request(method, url).bearer_auth(config.key.expose());
    if has_body {
        request = request.json(&fields);
    }
    let response = request.send().await.map_err(|error| Failure::runtime(causes(&error)))?;
    show(response, args.json).await
}

fn client(config: &config::Admin, source: &Source) -> Result<Client, Failure> {
    let bad = |reason: String| source.unusable::<config::Admin>("ca", reason);
    let ca = match config.ca.as_str() {
        "" => None,
        path => Some(read_file(path).map_err(bad)?),
    };
    let tls = tls::client_for(&config.url, ca.as_deref()).map_err(bad)?;
    Client::builder().no_proxy().tls_backend_preconfigured(tls.as_ref().clone()).build().map_err(Failure::runtime)
}

/// Values travel as text; the API knows their types. An empty value clears a field.
fn fields(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Value::from(value))),
            _ => Err(usage(format!("{pair:?} is not field=value"))),
        })
        .collect()
}

async fn show(response: Response, json: bool) -> Result<(), Failure> {
    let status = response.status();
    let text = response.text().await.map_err(Failure::runtime)?;
    if !status.is_success() {
        if json {
            say(&text);
        }
        return Err(Failure::runtime(match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => explain(&problem),
            Err(_) => format!("the control plane answered {status}"),
        }));
    }
    if json || text.is_empty() {
        if !text.is_empty() {
            say(text);
        }
        return Ok(());
    }
    let answer: Value = serde_json::from_str(&text).map_err(Failure::runtime)?;
    if let Some(items) = answer.get("items").and_then(Value::as_array) {
        for item in items {
            say(line(item));
        }
        if let Some(next) = answer.get("next").and_then(Value::as_str) {
            say(format_args!("more: after={next}"));
        }
    } else if let Value::Object(fields) = &answer {
        for (name, value) in fields {
            say(format_args!("{name} {}", plain(value)));
        }
    }
    Ok(())
}

fn explain(problem: &Problem) -> String {
    let fields: Vec<String> = problem.errors.iter().map(|error| format!("{} {}", error.field, error.code)).collect();
    let parts = [Some(problem.code.clone()), (!fields.is_empty()).then(|| fields.join(", ")), problem.detail.clone()];
    let text: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} (request {})", text.join(": "), problem.request_id)
}

fn line(item: &Value) -> String {
    let Value::Object(fields) = item else { return plain(item) };
    let id = fields.get("id").map(plain).unwrap_or_default();
    let rest = fields.iter().filter(|(name, value)| *name != "id" && !value.is_null());
    rest.fold(id, |text, (name, value)| format!("{text}  {name}={}", plain(value)))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
