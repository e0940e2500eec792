//! The certificates that a gateway shows, by its configuration (docs/04, "Certificates").

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::GatewayState;
use super::acme::{self, Acme};
use crate::clock::Clock;
use crate::config::{self, ConfigError, Source, Tls, key};
use crate::metrics::Metrics;
use crate::net::tls::{Certificate, Certificates, Identity, Tickets};

const NONE: &str = "must be set, or acme.names, or tls.self_signed for development";
const SELF_SIGNED: &str = "the certificate is self-signed and the listener is open to other machines: no client trusts it by \
    itself, and whoever connects sees that this is no web site";

/// What a gateway's listener shows.
pub(super) struct Loaded {
    pub(super) all: Arc<Certificates>,
    /// What ACME obtains, if it is to.
    pub(super) obtained: Option<Arc<Certificate>>,
    /// The PEM of the self-signed one, if it was made.
    pub(super) made: Option<Vec<u8>>,
    pub(super) tickets: Tickets,
}

/// Reads or makes all of them.
pub(super) fn load(source: &Source, clock: &Clock, metrics: &Metrics) -> Result<Loaded, ConfigError> {
    let config: Tls = source.section()?;
    let net: config::Net = source.section()?;
    let by_acme: config::Acme = source.section()?;
    let state_dir = source.section::<config::Gateway>()?.state_dir;
    if by_acme.is_on() && (config.self_signed || !config.cert.is_empty()) {
        return Err(source.unusable(key!(config::Acme, names), "excludes tls.cert and tls.self_signed"));
    }
    let mut made = None;
    let default = if by_acme.is_on() {
        Certificate::awaited(&acme::path(&by_acme, &state_dir), by_acme.names.first().cloned(), &net)
    } else if config.self_signed {
        let bad = |error| source.unusable(key!(Tls, self_signed), error);
        let identity = Identity::self_signed(clock.now()).map_err(bad)?;
        let certificate = Certificate::of(&identity, &net).map_err(bad)?;
        made = Some(identity.cert);
        certificate
    } else if !config.cert.is_empty() {
        let read = Certificate::read(&config.cert, &config.key, &net);
        read.map_err(|error| source.unusable(key!(Tls, cert), error))?
    } else if speaks_tls(source)? {
        return Err(source.unusable(key!(Tls, cert), NONE));
    } else {
        Certificate::none(&net)
    };
    let obtained = by_acme.is_on().then(|| Arc::clone(&default));
    let others = config.certificates.iter().map(|pair| Certificate::read(&pair.cert, &pair.key, &net));
    let others = others.collect::<Result<_, _>>();
    let others = others.map_err(|error| source.unusable(key!(Tls, certificates), error))?;
    let tickets = match config.ticket_secret.expose() {
        "" => Tickets::own(net.ticket_lifetime, clock.clone()),
        secret => Tickets::shared(secret.as_bytes(), net.ticket_lifetime, clock.clone()),
    };
    let all = Certificates::new(default, others, &net, metrics);
    all.warn(clock.now());
    Ok(Loaded { all, obtained, made, tickets })
}

/// Whether any listener needs a certificate.
fn speaks_tls(source: &Source) -> Result<bool, ConfigError> {
    let (gateway, behind) = (source.section::<config::Gateway>()?, source.section::<config::Behind>()?);
    Ok(!gateway.listen.is_empty() || !behind.proxy_listen.is_empty())
}

impl GatewayState {
    /// What somebody should look after.
    pub(super) fn certificate_complaints(&self) -> Vec<String> {
        let of_all = self.certificates.complaints(self.clock.now());
        let of_acme = self.acme.as_ref().and_then(Acme::complaint);
        of_all.into_iter().chain(of_acme).chain(self.exposed.then(|| SELF_SIGNED.to_owned())).collect()
    }

    /// The TLS of a new connection.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        let validating = self.acme.as_ref().and_then(Acme::validating);
        validating.unwrap_or_else(|| Arc::clone(&self.tls))
    }
}

/// Obtains what [`load`] left to be obtained, for a listener with this configuration.
pub(super) async fn obtaining(
    source: &Source,
    obtained: Option<Arc<Certificate>>,
    tls: &ServerConfig,
    metrics: &Metrics,
) -> Result<Option<Acme>, ConfigError> {
    let Some(certificate) = obtained else { return Ok(None) };
    let state_dir = source.section::<config::Gateway>()?.state_dir;
    let acme = Acme::new(source.section()?, source.section()?, &state_dir, certificate, tls, metrics).await;
    acme.map(Some).map_err(|invalid| source.locate(&invalid))
}

/// Whether a certificate that was made here is shown to other machines, which is said loudly.
pub(super) fn is_exposed(made: Option<&[u8]>, listening: impl IntoIterator<Item = IpAddr>) -> bool {
    let exposed = made.is_some() && listening.into_iter().any(|address| !address.is_loopback());
    if exposed {
        tracing::warn!("{SELF_SIGNED}");
    }
    exposed
}
