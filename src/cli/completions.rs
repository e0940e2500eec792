use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, say};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Whose completions
    shell: Shell,
}

pub(super) fn run(args: &Args) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "httvps", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
}
