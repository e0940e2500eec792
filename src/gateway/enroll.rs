//! The gateway's token: given, kept from an enrollment, or traded for a one-time token (docs/04, "Enrollment").

use std::io;
use std::path::Path;

use super::atomic_file::AtomicFile;
use super::control::ControlClient;
use crate::api::GatewayEnroll;
use crate::config::{self, Invalid, Secret, key};
use crate::net::dial::Dialer;

const FILE: &str = "token";
const MISSING: &str = "must be set, or gateway.enroll_token; `httvps admin gateways create` or `invite` shows it once";

/// The token to use. The enrollment token is spent only once the file for its successor is open.
pub(super) async fn token(config: &config::Gateway, ca: Option<&[u8]>, dialer: &Dialer) -> Result<Secret, Invalid> {
    if !config.token.is_empty() {
        return Ok(config.token.clone());
    }
    let path = Path::new(&config.state_dir).join(FILE);
    let bad =
        |error: io::Error| Invalid::new(key!(config::Gateway, state_dir), format_args!("{}: {error}", path.display()));
    if let Some(token) = kept(&path).map_err(bad)? {
        return Ok(token);
    }
    if config.enroll_token.is_empty() {
        return Err(Invalid::new(key!(config::Gateway, token), MISSING));
    }
    let fresh = AtomicFile::open(&path).map_err(bad)?;
    let control = ControlClient::new(config, ca, dialer, None)
        .map_err(|error| Invalid::new(key!(config::Gateway, control_ca), error))?;
    let request = GatewayEnroll { token: config.enroll_token.expose().to_owned() };
    let enrolled = control.enroll(&request).await;
    let enrolled = enrolled.map_err(|error| Invalid::new(key!(config::Gateway, enroll_token), error))?;
    fresh.keep(enrolled.token.as_bytes()).map_err(bad)?;
    tracing::info!(gateway = %enrolled.gateway_id, "enrolled");
    Ok(enrolled.token.into())
}

fn kept(path: &Path) -> io::Result<Option<Secret>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.trim().to_owned().into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
