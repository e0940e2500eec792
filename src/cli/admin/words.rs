//! The words of `httvps admin`: a subcommand for each resource, and one below it for each verb.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use humantime_serde::re::humantime::parse_duration;
use serde_json::Map;

use super::columns::is_named;
use super::ids::Reference;
use super::output::Format;
use super::resources::{Choice, Id, RESOURCES, Resource, Verb};
use super::{Args, Call, help};

const KEYGEN: &str = "keygen";
const EXAMPLES: &str = "Examples:\n  httvps admin users create identifier=ann@example.com\n  \
    httvps admin codes create user_id=ID\n  httvps admin devices why ID\n  \
    httvps admin nodes create region=eu-1 access_key=ss://… --wait\n  \
    httvps admin nodes import region=eu-1 file=keys.txt\n  httvps admin nodes password ID password=…\n  \
    httvps admin gateways invite name=gw-1 region=eu-1\n  \
    httvps admin plans update ID traffic_limit_gb=\n  httvps admin sessions list user_id=ID --all\n  \
    httvps admin sessions delete ID";

/// How answers may be printed, and with what else not at once.
const FORMATS: [(&str, &str, [&str; 2]); 3] = [
    ("json", "Print answers as JSON, as the API gives them", ["csv", "wide"]),
    ("csv", "Print answers as comma-separated values, with the API's names and values", ["json", "wide"]),
    ("wide", "Print all columns and whole IDs, however wide", ["json", "csv"]),
];

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let keygen = Command::new(KEYGEN).about("Print fresh keys and a tunnel path, as lines of an environment file");
        let formats = FORMATS.map(|(name, help, others)| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).global(true).conflicts_with_all(others).help(help)
        });
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("RESOURCE")
            .subcommand_help_heading("Resources")
            .disable_help_subcommand(true)
            .subcommand(keygen)
            .subcommands(
                RESOURCES.iter().map(|resource| Command::new(resource.name).about(resource.about).defer(below)),
            )
            .args(formats)
            .after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let format = match FORMATS.map(|(name, ..)| matches.get_flag(name)) {
            [true, ..] => Format::Json,
            [_, true, _] => Format::Csv,
            [.., true] => Format::Wide,
            [false, false, false] => Format::Text,
        };
        Ok(Self { call: call(matches)?, format })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Adds to a resource's command what is below it, when it is needed.
fn below(command: Command) -> Command {
    let Some(resource) = RESOURCES.iter().find(|resource| resource.name == command.get_name()) else { return command };
    command
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("VERB")
        .subcommand_help_heading("Verbs")
        .disable_help_subcommand(true)
        .subcommands(resource.verbs.iter().map(|verb| of_verb(resource, verb)))
        .after_help(help::of_resource(resource))
}

fn of_verb(resource: &'static Resource, verb: &'static Verb) -> Command {
    let id = Arg::new("id").value_name("ID");
    let id = if is_named(resource.name) {
        let help = "Its ID, the last digits of it that a list shows, or its name or code";
        id.value_parser(Reference::parse_or_name).help(help)
    } else {
        id.value_parser(Reference::parse).help("Its ID, or the last digits of it that a list shows")
    };
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
        (Id::Required, true) => vec![id.required(true), fields],
        (Id::Required, false) => vec![id.required(true)],
    };
    let options = verb.options.iter().flat_map(|option| of_option(*option));
    let article = if resource.item.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    let about = verb.about.replace("{items}", resource.name).replace("{item}", &format!("{article} {}", resource.item));
    Command::new(verb.name).about(about).args(words).args(options).after_help(help::of_verb(resource, verb))
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
fn call(matches: &ArgMatches) -> Result<Option<Call>, Error> {
    let Some((resource, matches)) = matches.subcommand().and_then(|(name, matches)| {
        RESOURCES.iter().find(|resource| resource.name == name).map(|resource| (resource, matches))
    }) else {
        return Ok(None);
    };
    let Some((verb, matches)) = matches.subcommand().and_then(|(name, matches)| {
        resource.verbs.iter().copied().find(|verb| verb.name == name).map(|verb| (verb, matches))
    }) else {
        return Ok(None);
    };
    let has = |option: Choice, name: &str| verb.options.contains(&option) && matches.get_flag(name);
    let mut id = match verb.id {
        Id::Required => matches.get_one::<Reference>("id").cloned(),
        Id::None | Id::Optional => None,
    };
    let mut fields = Map::new();
    if verb.takes_fields {
        for word in matches.get_many::<Word>("fields").unwrap_or_default() {
            match word {
                Word::Field(name, value) if fields.insert(name.clone(), value.as_str().into()).is_some() => {
                    return Err(Error::raw(
                        ErrorKind::ArgumentConflict,
                        format!("the field '{name}' is given twice\n"),
                    ));
                }
                Word::Field(..) => {}
                Word::Id(text, _) if id.is_some() => {
                    let unexpected = format!("unexpected argument '{text}' found\n");
                    return Err(Error::raw(ErrorKind::UnknownArgument, unexpected));
                }
                Word::Id(_, reference) => id = Some(reference.clone()),
            }
        }
    }
    let wait = has(Choice::Wait, "wait").then(|| matches.get_one::<Duration>("wait-timeout").copied());
    Ok(Some(Call {
        resource,
        verb,
        id,
        fields,
        all: has(Choice::All, "all"),
        yes: has(Choice::Yes, "yes"),
        now: has(Choice::Now, "now"),
        wait: wait.flatten(),
    }))
}

/// A word behind the verb.
#[derive(Clone)]
enum Word {
    Field(String, String),
    Id(String, Reference),
}

/// Values travel as text; the API knows their types. An empty value clears a field.
fn pair(text: &str) -> Result<Word, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Word::Field(name.to_owned(), value.to_owned())),
        _ => Err("not FIELD=VALUE".to_owned()),
    }
}

fn id_or_pair(text: &str) -> Result<Word, String> {
    if text.contains('=') { pair(text) } else { Reference::parse_or_name(text).map(|id| Word::Id(text.to_owned(), id)) }
}
