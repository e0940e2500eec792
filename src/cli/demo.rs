use std::path::PathBuf;

use super::{Failure, say};
use crate::demo::{self, Options};
use crate::lifecycle::Shutdown;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address of the SOCKS5 listener
    #[arg(long, default_value = "127.0.0.1:1080")]
    socks: String,
    /// Address of the HTTP CONNECT listener
    #[arg(long, default_value = "127.0.0.1:8118")]
    http: String,
    /// Keep everything here; without it in a temporary folder
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Let the tunnel reach private and loopback addresses
    #[arg(long)]
    allow_private: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let options =
        Options { socks: args.socks, http: args.http, data_dir: args.data_dir, allow_private: args.allow_private };
    demo::run(options, &shutdown, say).await.map_err(|error| match error {
        demo::DemoError::Config(error) => error.into(),
        demo::DemoError::Start(error) => error.into(),
        other @ (demo::DemoError::Io(_)
        | demo::DemoError::Randomness(_)
        | demo::DemoError::Database(_)
        | demo::DemoError::Node(_)
        | demo::DemoError::Setup(_)
        | demo::DemoError::Takeover(_)
        | demo::DemoError::Refused(_)) => Failure::runtime(other),
    })
}
