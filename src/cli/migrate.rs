use super::{Failure, say};
use crate::config::Source;
use crate::migrate;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only say where the schema stands
    #[arg(long)]
    status: bool,
    /// Say it as JSON
    #[arg(long, requires = "status")]
    json: bool,
}

pub(super) async fn run(args: Args, source: &Source) -> Result<(), Failure> {
    if !args.status {
        let applied = migrate::run(source).await?;
        if applied.is_empty() {
            say("up to date");
        }
        for name in applied {
            say(format_args!("applied {name}"));
        }
        return Ok(());
    }
    let status = migrate::status(source).await?;
    if args.json {
        say(serde_json::to_string(&status).map_err(Failure::runtime)?);
        return Ok(());
    }
    say(format_args!("current {}", status.current.as_deref().unwrap_or("none")));
    say(format_args!("latest {}", status.latest.as_deref().unwrap_or("none")));
    for name in status.pending {
        say(format_args!("pending {name}"));
    }
    Ok(())
}
