mod call;
mod columns;
mod contract;
mod deletion;
mod help;
mod ids;
mod names;
mod nodes;
mod output;
mod pages;
mod progress;
mod resources;
mod sheet;
mod table;
mod values;
mod why;
mod words;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value};

use super::{Failure, USAGE, keygen};
use crate::config::Source;

use call::Api;
use contract::Contract;
use ids::Reference;
use output::{Format, Output};
use pages::{Page, Pages};
use resources::{Resource, Verb};

/// A resource, a verb, an ID and fields; or keys.
pub(super) struct Args {
    call: Option<Call>,
    format: Format,
}

/// What the API is asked for.
struct Call {
    resource: &'static Resource,
    verb: &'static Verb,
    id: Option<Reference>,
    fields: Map<String, Value>,
    all: bool,
    yes: bool,
    now: bool,
    wait: Option<Duration>,
}

impl Call {
    fn path(&self, id: Option<&str>) -> String {
        let verb = self.verb.in_path.then_some(self.verb.name);
        let parts = [Some(self.resource.name), id, verb];
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
    let format = args.format;
    let json = format == Format::Json;
    let id = match &call.id {
        Some(id) => Some(ids::whole(&api, call.resource.name, id).await?),
        None => None,
    };
    ids::in_fields(&api, &mut call).await?;
    if matches!(call.verb.method, resources::Method::Post | resources::Method::Patch) {
        let request = Contract::embedded().request(call.verb.method, &call.verb.template(call.resource));
        call.fields = request.typed(call.fields);
    }
    let path = call.path(id.as_deref());
    let kind = (call.resource.name, call.verb.name);
    let output = Output { api: &api, kind, format };
    if kind == ("nodes", "import") {
        return nodes::import(&api, call.fields, format).await;
    }
    if call.all {
        let items = Pages::new(&api, &path, call.fields, json).all().await?;
        return output.page(&Page { items, next: None }).await;
    }
    if kind.1 == "delete" && !call.yes {
        deletion::confirm(&api, call.resource, &path).await?;
    }
    if call.now {
        call.fields.insert("now".into(), Value::Bool(true));
    }
    let text = api.ask(call.method(), &path, &call.fields, json).await?;
    output.answer(&text).await?;
    match call.wait {
        Some(limit) => nodes::wait(&api, &text, limit, format).await,
        None => Ok(()),
    }
}
