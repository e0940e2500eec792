mod call;
mod nodes;
mod show;

use std::time::Duration;

use humantime_serde::re::humantime::parse_duration;
use reqwest::Method;
use serde_json::{Map, Value};

use super::{Failure, USAGE, keygen};
use crate::config::Source;

use call::Api;

const RESOURCES: [&str; 11] = [
    "users",
    "devices",
    "codes",
    "plans",
    "subscriptions",
    "regions",
    "nodes",
    "gateways",
    "endpoints",
    "sessions",
    "refusals",
];

/// Verbs beyond the five: resource, verb, and whether it only reads.
const MORE: [(&str, &str, bool); 11] = [
    ("devices", "token", false),
    ("devices", "why", true),
    ("subscriptions", "renew", false),
    ("subscriptions", "top-up", false),
    ("subscriptions", "change-plan", false),
    ("subscriptions", "cancel", false),
    ("nodes", "health", true),
    ("nodes", "password", false),
    ("gateways", "token", false),
    ("gateways", "invite", false),
    ("gateways", "revoke", false),
];

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  httvps admin users create identifier=ann@example.com\n  \
    httvps admin codes create user_id=ID\n  httvps admin devices why ID\n  \
    httvps admin nodes create region=eu-1 access_key=ss://… --wait\n  \
    httvps admin nodes import region=eu-1 file=keys.txt\n  httvps admin nodes password ID password=…\n  \
    httvps admin gateways invite name=gw-1 region=eu-1\n  \
    httvps admin plans update ID traffic_limit_gb=\n  httvps admin sessions delete ID")]
pub(super) struct Args {
    /// keygen, or one of users, devices, codes, plans, subscriptions, regions, nodes, gateways, endpoints, sessions,
    /// refusals
    resource: String,
    /// list, get, create, update, delete; devices: token, why; subscriptions: renew, top-up, change-plan, cancel; nodes:
    /// health, password, import; gateways: token, invite, revoke
    verb: Option<String>,
    /// ID and field=value pairs
    rest: Vec<String>,
    /// With nodes password and gateways token: end the old one at once
    #[arg(long)]
    now: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// With nodes create: wait until the node takes traffic, or say why it does not
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait_timeout: Duration,
}

/// A request, before its fields are read.
struct Call<'a> {
    method: Method,
    path: String,
    pairs: &'a [String],
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
    let kind = (args.resource.as_str(), verb);
    if args.wait && kind != ("nodes", "create") {
        return Err(usage("--wait is for nodes create"));
    }
    if kind == ("nodes", "import") {
        return nodes::import(&Api::open(source)?, fields(&args.rest)?, args.json).await;
    }
    let call = call(&args.resource, verb, &args.rest)?;
    let mut fields = fields(call.pairs)?;
    if args.now {
        if !matches!(kind, ("nodes", "password") | ("gateways", "token")) {
            return Err(usage("--now is for nodes password and gateways token"));
        }
        fields.insert("now".into(), Value::from("true"));
    }
    let api = Api::open(source)?;
    let text = api.ask(call.method, &call.path, &fields, args.json).await?;
    show::answer(kind, &text, args.json)?;
    if args.wait {
        return nodes::wait(&api, &text, args.wait_timeout, args.json).await;
    }
    Ok(())
}

fn call<'a>(resource: &str, verb: &str, rest: &'a [String]) -> Result<Call<'a>, Failure> {
    let more = MORE.iter().find(|(of, name, _)| (*of, *name) == (resource, verb));
    let method = match (verb, more) {
        ("list" | "get", _) | (_, Some((_, _, true))) => Method::GET,
        ("create", _) | (_, Some((_, _, false))) => Method::POST,
        ("update", _) => Method::PATCH,
        ("delete", _) => Method::DELETE,
        (_, None) => return Err(usage(format!("there is no verb {verb:?} of {resource}"))),
    };
    let names_one = match verb {
        "list" | "create" => false,
        "invite" => rest.first().is_some_and(|first| !first.contains('=')),
        _ => true,
    };
    let (id, pairs) = match rest.split_first() {
        Some((id, pairs)) if names_one => (Some(id.as_str()), pairs),
        None if names_one => return Err(usage(format!("{verb} needs an ID"))),
        Some(_) | None => (None, rest),
    };
    if let Some(id) = id
        && id.parse::<uuid::Uuid>().is_err()
    {
        return Err(usage(format!("{id:?} is not an ID")));
    }
    let parts = [Some(resource), id, more.map(|_| verb)];
    let path = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
    Ok(Call { method, path, pairs })
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
