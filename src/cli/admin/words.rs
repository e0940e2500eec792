//! The words of `httvps admin`: a subcommand for each resource, and one below it for each verb.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use humantime_serde::re::humantime::parse_duration;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::resources::{Choice, Id, RESOURCES, Resource, Verb};
use super::{Args, Call};

const KEYGEN: &str = "keygen";
const EXAMPLES: &str = "Examples:\n  httvps admin users create identifier=ann@example.com\n  \
    httvps admin codes create user_id=ID\n  httvps admin devices why ID\n  \
    httvps admin nodes create region=eu-1 access_key=ss://… --wait\n  \
    httvps admin nodes import region=eu-1 file=keys.txt\n  httvps admin nodes password ID password=…\n  \
    httvps admin gateways invite name=gw-1 region=eu-1\n  \
    httvps admin plans update ID traffic_limit_gb=\n  httvps admin sessions list user_id=ID --all\n  \
    httvps admin sessions delete ID";

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let keygen = Command::new(KEYGEN).about("Print fresh keys and a tunnel path, as lines of an environment file");
        let json = Arg::new("json").long("json").action(ArgAction::SetTrue).global(true).help("Print answers as JSON");
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("RESOURCE")
            .subcommand_help_heading("Resources")
            .disable_help_subcommand(true)
            .subcommand(keygen)
            .subcommands(RESOURCES.iter().map(of_resource))
            .arg(json)
            .after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self { call: call(matches), json: matches.get_flag("json") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn of_resource(resource: &'static Resource) -> Command {
    Command::new(resource.name)
        .about(resource.about)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("VERB")
        .subcommand_help_heading("Verbs")
        .disable_help_subcommand(true)
        .subcommands(resource.verbs.iter().map(|verb| of_verb(resource, verb)))
}

fn of_verb(resource: &'static Resource, verb: &'static Verb) -> Command {
    let id = Arg::new("id").value_name("ID").help("Its ID, as printed by list and create");
    let fields = Arg::new("fields")
        .value_name("FIELD=VALUE")
        .action(ArgAction::Append)
        .num_args(1..)
        .value_parser(pair)
        .help(if verb.name == "list" { "Filters, and limit=N" } else { "Fields" });
    let words = match (verb.id, verb.takes_fields) {
        (Id::Optional, _) => vec![fields.value_name("ID|FIELD=VALUE").value_parser(id_or_pair)],
        (Id::None, true) => vec![fields],
        (Id::None, false) => Vec::new(),
        (Id::Required, true) => vec![id.required(true).value_parser(known_id), fields],
        (Id::Required, false) => vec![id.required(true).value_parser(known_id)],
    };
    let options = verb.options.iter().flat_map(|option| of_option(*option));
    let article = if resource.item.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    let about = verb.about.replace("{items}", resource.name).replace("{item}", &format!("{article} {}", resource.item));
    Command::new(verb.name).about(about).args(words).args(options)
}

fn of_option(option: Choice) -> Vec<Arg> {
    let flag =
        |name: &'static str, help: &'static str| vec![Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)];
    match option {
        Choice::All => flag("all", "Every page, not only the first"),
        Choice::Yes => flag("yes", "Do not ask"),
        Choice::Now => flag("now", "End the old one at once"),
        Choice::Wait => {
            let mut both = flag("wait", "Wait until the node takes traffic, or say why it does not");
            let limit = Arg::new("wait-timeout").long("wait-timeout").value_name("TIME").default_value("60s");
            both.push(limit.value_parser(parse_duration).help("How long to wait"));
            both
        }
    }
}

/// What was asked for; `None` for fresh keys.
fn call(matches: &ArgMatches) -> Option<Call> {
    let (name, matches) = matches.subcommand()?;
    let resource = RESOURCES.iter().find(|resource| resource.name == name)?;
    let (name, matches) = matches.subcommand()?;
    let verb = resource.verbs.iter().copied().find(|verb| verb.name == name)?;
    let has = |option: Choice, name: &str| verb.options.contains(&option) && matches.get_flag(name);
    let mut id = match verb.id {
        Id::Required => matches.get_one::<String>("id").cloned(),
        Id::None | Id::Optional => None,
    };
    let mut fields = Map::new();
    if verb.takes_fields {
        for (name, value) in matches.get_many::<(String, Option<String>)>("fields").unwrap_or_default() {
            match value {
                Some(value) => drop(fields.insert(name.clone(), Value::from(value.as_str()))),
                None => id = Some(name.clone()),
            }
        }
    }
    let wait = has(Choice::Wait, "wait").then(|| matches.get_one::<Duration>("wait-timeout").copied());
    Some(Call {
        resource,
        verb,
        id,
        fields,
        all: has(Choice::All, "all"),
        yes: has(Choice::Yes, "yes"),
        now: has(Choice::Now, "now"),
        wait: wait.flatten(),
    })
}

fn known_id(text: &str) -> Result<String, String> {
    let id = text.parse::<Uuid>().map_err(|_| "not an ID as printed by list and create".to_owned())?;
    Ok(id.to_string())
}

/// Values travel as text; the API knows their types. An empty value clears a field.
fn pair(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Some(value.to_owned()))),
        _ => Err("not FIELD=VALUE".to_owned()),
    }
}

fn id_or_pair(text: &str) -> Result<(String, Option<String>), String> {
    if text.contains('=') { pair(text) } else { known_id(text).map(|id| (id, None)) }
}
