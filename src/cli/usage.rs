use std::process::ExitCode;

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::USAGE;

/// Prints the help or the version, if the command line asked for it or has nothing else.
pub(super) fn help(error: &Error) -> Option<ExitCode> {
    let kind = error.kind();
    let code = if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        ExitCode::SUCCESS
    } else if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        ExitCode::from(USAGE)
    } else {
        return None;
    };
    if error.print().is_err() {
        tracing::debug!("nobody reads the help");
    }
    Some(code)
}

/// What clap says in some lines, in one.
pub(super) fn sentence(error: &Error) -> String {
    let text = error.render().to_string();
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let mut said = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let line = line.strip_prefix("error: ").or_else(|| line.strip_prefix("tip: ")).unwrap_or(line);
        let joint = match said.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) if line.starts_with('[') => " ",
            Some(_) => "; ",
        };
        said.push_str(joint);
        said.push_str(line);
    }
    match meant(error) {
        Some(command) => format!("{said}; see {command} --help"),
        None => said,
    }
}

/// The command that was meant.
fn meant(error: &Error) -> Option<String> {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return None };
    let usage = usage.to_string();
    let words = usage.trim_start_matches("Usage:").split_whitespace();
    let words: Vec<&str> = words.take_while(|word| !word.starts_with(['<', '[', '-'])).collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    fn said(line: &str) -> String {
        sentence(&Cli::try_parse_from(line.split(' ')).err().unwrap())
    }

    #[test]
    fn mistyped_words_are_named_with_what_may_have_been_meant() {
        for (line, text) in [
            (
                "httvps migrat",
                "unrecognized subcommand 'migrat'; a similar subcommand exists: 'migrate'; see httvps --help",
            ),
            (
                "httvps admin user list",
                "unrecognized subcommand 'user'; a similar subcommand exists: 'users'; see httvps admin --help",
            ),
            (
                "httvps admin devices whyy",
                "unrecognized subcommand 'whyy'; a similar subcommand exists: 'why'; see httvps admin devices --help",
            ),
            (
                "httvps admin users list --al",
                "unexpected argument '--al' found; a similar argument exists: '--all'; see httvps admin users list --help",
            ),
        ] {
            assert_eq!(said(line), text);
        }
    }

    #[test]
    fn stray_and_missing_words_are_named() {
        let id = "01a1fd55-7a80-7877-aa53-3ffc5ff4dd31";
        for (line, text) in [
            ("httvps admin keygen now", "unexpected argument 'now' found"),
            (&format!("httvps admin users get {id} name"), "unexpected argument 'name' found"),
            (&format!("httvps admin sessions delete {id} x=1"), "unexpected argument 'x=1' found"),
            ("httvps admin users delete", "the following required arguments were not provided: <ID>"),
            ("httvps admin users get ../plans", "invalid value '../plans' for '<ID>': not an ID"),
            ("httvps admin users create ann", "invalid value 'ann' for '[FIELD=VALUE]...': not FIELD=VALUE"),
            (&format!("httvps admin gateways invite {id} {id}"), &format!("unexpected argument '{id}' found")),
            ("httvps admin plans create name=a name=b", "the field 'name' is given twice"),
            ("httvps admin plans list --json --csv", "the argument '--json' cannot be used with '--csv'"),
            ("httvps admin gateways invite =x", "invalid value '=x' for '[ID|FIELD=VALUE]...': not FIELD=VALUE"),
            (&format!("httvps admin codes update {id}"), "unrecognized subcommand 'update'"),
            ("httvps admin plans create --wait", "unexpected argument '--wait' found"),
            (
                "httvps connect --transport h3",
                "invalid value 'h3' for '--transport <TRANSPORT>' [possible values: auto, ",
            ),
            ("httvps migrate now", "unexpected argument 'now' found; see httvps migrate --help"),
        ] {
            assert!(said(line).starts_with(text), "{line}: {}", said(line));
        }
    }
}
