use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Failure, say};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder, such as /usr/local/share/man/man1
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| write(&command, &args.dir));
    written.map_err(|error| Failure::usage(format!("{}: {error}", args.dir.display())))
}

/// Writes a page for the command and for each below it.
fn write(command: &Command, dir: &Path) -> std::io::Result<()> {
    let page = Man::new(command.clone()).generate_to(dir)?;
    say(page.display());
    command.get_subcommands().try_for_each(|below| write(below, dir))
}
