//! Log lines on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Log, LogFormat, Source};

/// Libraries that say at once what their callers say better, with details that have no place in logs.
const QUIET: [&str; 2] = ["rustls_platform_verifier=off", "shadowsocks=off"];

/// Starts logging as configured; the second call in a process does nothing.
pub fn init(source: &Source) -> Result<(), ConfigError> {
    let log: Log = source.section()?;
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| source.unusable::<Log>("level", format!("not a filter: {error}")))?;
    let filter = QUIET.iter().filter_map(|target| target.parse().ok()).fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}

/// An error with what caused it, on one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}
