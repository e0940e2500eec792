//! Log lines on stderr, which never hold up or end the process (docs/07, "Logs").

mod sink;

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{ConfigError, Log, LogFormat, Source, key};

pub use sink::Flush;
use sink::Sink;

/// Libraries that say at once what their callers say better, with details that have no place in logs.
const QUIET: [&str; 2] = ["rustls_platform_verifier", "shadowsocks"];
const OWN: &str = env!("CARGO_CRATE_NAME");

/// Starts logging as configured; the second call in a process does nothing. What waits is written when the guard goes.
pub fn init(source: &Source) -> Result<Option<Flush>, ConfigError> {
    let log: Log = source.section()?;
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| source.unusable(key!(Log, level), format!("not a filter: {error}")))?;
    let (sink, flush) = Sink::stderr(log.buffer_lines, log.flush_timeout);
    let lines = fmt::layer().with_writer(sink).log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(filter_fn(may_log)).with(lines).try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
        return Ok(None);
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task panicked")));
    Ok(Some(flush))
}

/// Libraries log what passes through them (statements with their values, URLs, headers) at their finer levels: those stay
/// closed whatever the filter says.
fn may_log(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target().split("::").next().unwrap_or_default();
    target == OWN || *metadata.level() <= Level::INFO && !QUIET.contains(&target)
}

/// An error with what caused it, on one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}
