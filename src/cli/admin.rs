mod call;
mod deletion;
mod nodes;
mod pages;
mod resources;
mod show;
mod words;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value};

use super::{Failure, USAGE, keygen};
use crate::config::Source;

use call::Api;
use resources::{Resource, Verb};

/// A resource, a verb, an ID and fields; or keys.
pub(super) struct Args {
    call: Option<Call>,
    json: bool,
}

/// What the API is asked for.
struct Call {
    resource: &'static Resource,
    verb: &'static Verb,
    id: Option<String>,
    fields: Map<String, Value>,
    all: bool,
    yes: bool,
    now: bool,
    wait: Option<Duration>,
}

impl Call {
    fn path(&self) -> String {
        let verb = self.verb.in_path.then_some(self.verb.name);
        let parts = [Some(self.resource.name), self.id.as_deref(), verb];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }

    fn method(&self) -> Method {
        match self.verb.method {
            resources::Method::Get => Method::GET,
            resources::Method::Post => Method::POST,
            resources::Method::Patch => Method::PATCH,
            resources::Method::Delete => Method::DELETE,
        }
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure { code: USAGE, message: message.into() }
}

pub(super) async fn run(args: Args, source: &Source) -> Result<(), Failure> {
    let Some(mut call) = args.call else { return keygen::run() };
    let api = Api::open(source)?;
    let path = call.path();
    let kind = (call.resource.name, call.verb.name);
    if kind == ("nodes", "import") {
        return nodes::import(&api, call.fields, args.json).await;
    }
    if call.all {
        return pages::all(&api, &path, call.fields, args.json).await;
    }
    if kind.1 == "delete" && !call.yes {
        deletion::confirm(&api, call.resource, &path).await?;
    }
    if call.now {
        call.fields.insert("now".into(), Value::from("true"));
    }
    let text = api.ask(call.method(), &path, &call.fields, args.json).await?;
    show::answer(kind, &text, args.json)?;
    match call.wait {
        Some(limit) => nodes::wait(&api, &text, limit, args.json).await,
        None => Ok(()),
    }
}
