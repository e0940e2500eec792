//! Configuration: `config/default.toml` < the file of `--config` < `HTTVPS_<SECTION>__<KEY>` (docs/01).

mod acme;
mod addresses;
mod behind;
mod control;
mod data_path;
mod decoy;
mod env;
mod error;
mod fault;
mod gateway;
mod http2;
mod net;
mod resume;
mod secret;
mod subscriber;
mod tls;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use acme::{Acme, Challenge};
pub use addresses::{Addresses, Networks};
pub use behind::Behind;
pub use control::{Admin, Control, Database, Sessions};
pub use data_path::{Egress, Mux, Notices, Padding, Probe, RateLimit, Relay, Resolve, V1, jittered};
pub use decoy::{Decoy, ProxyProtocol, host_and_port};
pub use error::ConfigError;
pub(crate) use fault::key;
pub use fault::{FileError, Invalid, Key, read_file};
pub use gateway::{Client, Clock, Gateway, TUNNEL_PATH, Transport, Tunnel, UrlError, is_tunnel_path};
pub use http2::Http2;
pub use net::Net;
pub use resume::Resume;
pub use secret::Secret;
pub use subscriber::{Billing, ClientConfig, Enrollment, Events, Leases, Offline, Pool, Portal};
pub use tls::{Pair, Tls};

const DEFAULTS: &str = include_str!("../config/default.toml");

/// A section of the configuration.
pub trait Section: DeserializeOwned + Serialize {
    /// Its name in the file.
    const NAME: &'static str;

    /// Checks what types cannot: the key and why its value will not do.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// Fails unless a number lies in a range, which the reason names.
fn within<T: Copy + PartialOrd + Display>(key: Key, value: T, range: &RangeInclusive<T>) -> Result<(), Invalid> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(key, format!("must be {} to {}", range.start(), range.end())))
}

/// As [`within`], for durations.
fn lasts(key: Key, value: Duration, range: &RangeInclusive<Duration>) -> Result<(), Invalid> {
    let text = |duration: &Duration| humantime_serde::re::humantime::format_duration(*duration).to_string();
    if range.contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(key, format!("must be {} to {}", text(range.start()), text(range.end()))))
}

/// Pauses after something failed: none may spin, none may look like a hang.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

/// `[log]`
#[derive(Clone, Debug, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A `tracing` filter.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
    /// Lines that may wait to be written; further ones are lost and counted.
    pub buffer_lines: usize,
    /// How long the end of the process waits for lines that are still to be written.
    #[serde(with = "humantime_serde")]
    pub flush_timeout: Duration,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Section for Log {
    const NAME: &'static str = "log";

    fn validate(&self) -> Result<(), Invalid> {
        if self.buffer_lines == 0 {
            return Err(Invalid::new(key!(Self, buffer_lines), "must be at least 1"));
        }
        lasts(key!(Self, flush_timeout), self.flush_timeout, &(Duration::ZERO..=Duration::from_secs(10)))?;
        let known = ["error", "warn", "info", "debug", "trace", "off"];
        let bare =
            self.level.split(',').map(str::trim).find(|part| !part.contains(['=', ':', '[']) && !known.contains(part));
        match bare {
            Some(part) => Err(Invalid::new(key!(Self, level), format!("{part:?} is no level: {}", known.join(", ")))),
            None => Ok(()),
        }
    }
}

/// `[runtime]`
#[derive(Clone, Debug, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Worker threads; 0 is one a core.
    pub worker_threads: usize,
    /// Buffers of the data path that were not needed for so long are given up.
    #[serde(with = "humantime_serde")]
    pub buffers_idle: Duration,
    /// Most buffers that one worker thread keeps.
    pub buffers_kept: usize,
}

impl Section for Runtime {
    const NAME: &'static str = "runtime";

    fn validate(&self) -> Result<(), Invalid> {
        if self.buffers_idle.is_zero() {
            return Err(Invalid::new(key!(Self, buffers_idle), "must be longer than zero"));
        }
        within(key!(Self, buffers_kept), self.buffers_kept, &(1..=65_536))
    }
}

/// `[ops]`
#[derive(Clone, Debug, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    /// Address of the control plane's operations listener; empty for none.
    pub control_listen: String,
    /// Address of the gateway's operations listener; empty for none.
    pub gateway_listen: String,
}

impl Section for Ops {
    const NAME: &'static str = "ops";
}

/// The merged sources, from which each role takes its own sections.
#[derive(Clone, Debug)]
pub struct Source {
    figment: Figment,
    file: Option<PathBuf>,
}

impl Source {
    /// Merges defaults, the file and the process's environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::merge(file, env::vars()?.into_iter())
    }

    /// Defaults only, changed by `KEY=VALUE` pairs named as in the environment; for tests and the demo.
    pub fn with<K: Into<String>, V: Into<String>>(
        overrides: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        Self::merge(None, overrides.into_iter().map(|(key, value)| (key.into(), value.into())))
    }

    fn merge(file: Option<&Path>, vars: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let defaults = Figment::from(Toml::string(DEFAULTS));
        let known = env::Known::of(DEFAULTS);
        let mut figment = defaults;
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::file(path, &error))?;
            known.check_file(path, &text)?;
            figment = figment.merge(Toml::string(&text));
        }
        let figment = known.merge_vars(figment, vars)?;
        Ok(Self { figment, file: file.map(Path::to_owned) })
    }

    /// The same with some keys set anew, named as in the environment.
    pub fn overridden<K: Into<String>, V: Into<String>>(
        self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let vars = vars.into_iter().map(|(key, value)| (key.into(), value.into()));
        let figment = env::Known::of(DEFAULTS).merge_vars(self.figment, vars)?;
        Ok(Self { figment, file: self.file })
    }

    /// One section, validated.
    pub fn section<S: Section>(&self) -> Result<S, ConfigError> {
        let section: S =
            self.figment.extract_inner(S::NAME).map_err(|error| ConfigError::value(S::NAME, &error, self.file()))?;
        section.validate().map_err(|invalid| self.locate(&invalid))?;
        Ok(section)
    }

    /// The error for a key that validated but cannot be used, with where it was set.
    pub fn unusable(&self, key: Key, reason: impl Display) -> ConfigError {
        self.locate(&Invalid::new(key, reason))
    }

    /// The same for a key and a reason that go together.
    pub fn locate(&self, invalid: &Invalid) -> ConfigError {
        ConfigError::invalid(invalid, self.file())
    }

    fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Every section as TOML, secrets redacted.
    pub fn effective(&self) -> Result<String, ConfigError> {
        #[derive(Serialize)]
        struct All {
            log: Log,
            runtime: Runtime,
            ops: Ops,
            database: Database,
            control: Control,
            billing: Billing,
            leases: Leases,
            enrollment: Enrollment,
            client_config: ClientConfig,
            events: Events,
            pool: Pool,
            sessions: Sessions,
            gateway: Gateway,
            behind: Behind,
            decoy: Decoy,
            clock: Clock,
            offline: Offline,
            portal: Portal,
            tls: Tls,
            acme: Acme,
            tunnel: Tunnel,
            http2: Http2,
            mux: Mux,
            resume: Resume,
            padding: Padding,
            notices: Notices,
            v1: V1,
            relay: Relay,
            rate_limit: RateLimit,
            net: Net,
            egress: Egress,
            probe: Probe,
            client: Client,
            admin: Admin,
        }
        let all = All {
            log: self.section()?,
            runtime: self.section()?,
            ops: self.section()?,
            database: self.section()?,
            control: self.section()?,
            billing: self.section()?,
            leases: self.section()?,
            enrollment: self.section()?,
            client_config: self.section()?,
            events: self.section()?,
            pool: self.section()?,
            sessions: self.section()?,
            gateway: self.section()?,
            behind: self.section()?,
            decoy: self.section()?,
            clock: self.section()?,
            offline: self.section()?,
            portal: self.section()?,
            tls: self.section()?,
            acme: self.section()?,
            tunnel: self.section()?,
            http2: self.section()?,
            mux: self.section()?,
            resume: self.section()?,
            padding: self.section()?,
            notices: self.section()?,
            v1: self.section()?,
            relay: self.section()?,
            rate_limit: self.section()?,
            net: self.section()?,
            egress: self.section()?,
            probe: self.section()?,
            client: self.section()?,
            admin: self.section()?,
        };
        toml::to_string(&all).map_err(|error| ConfigError::printing(&error))
    }
}

#[cfg(test)]
mod tests;
