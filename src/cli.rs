//! The command line (docs/01, "Commands").

mod admin;
mod completions;
mod connect;
mod demo;
mod healthcheck;
mod keygen;
mod man;
mod migrate;
mod qr;
mod serve;
mod terminal;
mod usage;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Runtime, Source};
use crate::control::StartError;
use crate::migrate::MigrateError;
use crate::net::buffer_pool::BufferPool;
use crate::net::listener::Inherited;
use crate::telemetry;

const LAST_WORD: Duration = Duration::from_secs(1);
const RUNTIME: u8 = 1;
const USAGE: u8 = 2;
const SCHEMA: u8 = 3;
const REFUSED: u8 = 4;

#[derive(Parser)]
#[command(name = "httvps", version, about = "A VPN service that looks like ordinary web traffic")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// TOML file; variables named like `HTTVPS_GATEWAY__LISTEN` override it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration and exit
    #[arg(long, global = true)]
    check: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the control plane: REST API, accounting, node pool
    ServeControl,
    /// Serve a gateway: clients' tunnels to Shadowsocks nodes
    ServeGateway,
    /// Bring the database schema up to date
    Migrate(migrate::Args),
    /// Run everything in this process and try it
    Demo(demo::Args),
    /// Connect to a gateway; serve SOCKS5 and HTTP CONNECT
    Connect(connect::Args),
    /// Administer the control plane over its API
    Admin(admin::Args),
    /// Ask a URL; exit 0 if it answers 200
    Healthcheck(healthcheck::Args),
    /// Print a shell's completions of these commands
    Completions(completions::Args),
    /// Write man pages of these commands into a folder
    Man(man::Args),
}

/// What ends a command early.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn runtime(message: impl Display) -> Self {
        Self { code: RUNTIME, message: format!("{message}") }
    }

    fn usage(message: impl Display) -> Self {
        Self { code: USAGE, message: format!("{message}") }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: USAGE, message: error.to_string() }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Config(_) => USAGE,
            StartError::Schema(_) => SCHEMA,
            StartError::Database(_) => RUNTIME,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Config(error) => error.into(),
            MigrateError::Database(_) => Self::runtime(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::runtime(error)
    }
}

/// Writes a line of results; a closed pipe ends nothing.
fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        tracing::debug!("stdout is closed");
    }
}

/// Parses the command line, runs the command, gives the exit code.
pub fn main() -> ExitCode {
    let ended = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => match usage::help(&error) {
            Some(code) => return code,
            None => Err(Failure::usage(usage::sentence(&error))),
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(format!("error: {}\n", terminal::escaped(&failure.message)));
            ExitCode::from(failure.code)
        }
    }
}

/// Writes to the standard error output; one that takes nothing does not keep the process.
fn complain(line: String) {
    let (done, written) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let wrote = std::io::stderr().write_all(line.as_bytes());
        drop((wrote, done));
    });
    match written.recv_timeout(LAST_WORD) {
        Ok(()) | Err(_) => {}
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions(args) => {
            completions::run(args);
            return Ok(());
        }
        Command::Man(args) => return man::run(args),
        Command::ServeControl
        | Command::ServeGateway
        | Command::Migrate(_)
        | Command::Demo(_)
        | Command::Connect(_)
        | Command::Admin(_)
        | Command::Healthcheck(_) => {}
    }
    let source = Source::load(cli.config.as_deref())?;
    let source = if let Command::Connect(args) = &cli.command { args.apply(source)? } else { source };
    if cli.check {
        say(source.effective()?.trim_end());
        return Ok(());
    }
    let runtime: Runtime = source.section()?;
    let inherited = match cli.command {
        Command::ServeGateway => Inherited::from_service_manager().map_err(Failure::usage)?,
        Command::ServeControl
        | Command::Migrate(_)
        | Command::Demo(_)
        | Command::Connect(_)
        | Command::Admin(_)
        | Command::Healthcheck(_)
        | Command::Completions(_)
        | Command::Man(_) => Inherited::default(),
    };
    raise_file_limit();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if runtime.worker_threads > 0 {
        builder.worker_threads(runtime.worker_threads);
    }
    let idle_after = runtime.buffers_idle;
    BufferPool::limit(runtime.buffers_kept);
    let runtime = builder.enable_all().build()?;
    runtime.spawn(BufferPool::shrink_every(idle_after));
    let ended = runtime.block_on(dispatch(cli.command, source, inherited));
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, source: Source, inherited: Inherited) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => return Box::pin(demo::run(args)).await,
        Command::Admin(args) => return Box::pin(admin::run(args, &source)).await,
        Command::Healthcheck(args) => return healthcheck::run(args).await,
        Command::Completions(_) | Command::Man(_) => return Ok(()),
        Command::ServeControl | Command::ServeGateway | Command::Migrate(_) | Command::Connect(_) => {}
    }
    let _flush = telemetry::init(&source)?;
    match command {
        Command::ServeControl => Box::pin(serve::control(&source)).await,
        Command::ServeGateway => Box::pin(serve::gateway(&source, inherited)).await,
        Command::Migrate(args) => migrate::run(args, &source).await,
        Command::Connect(_) => Box::pin(connect::run(&source)).await,
        Command::Demo(_) | Command::Admin(_) | Command::Healthcheck(_) | Command::Completions(_) | Command::Man(_) => {
            Ok(())
        }
    }
}

/// A connection is a file: allow as many as the system lets this process have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
