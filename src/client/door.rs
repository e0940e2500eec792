//! From a TCP connection to the gateway to an upgraded socket.

use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::handshake;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::config::Secret;
use crate::frame::Encoding;
use crate::net::buffered::Buffered;
use crate::net::dial::Dialer;

/// Where the gateway is and how to knock.
pub(super) struct Door {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) encoding: Encoding,
    /// The token that the request carries, if it does.
    pub(super) bearer: Option<Secret>,
    pub(super) notsent_lowat: u32,
    pub(super) dialer: Dialer,
    pub(super) tls: Arc<ClientConfig>,
}

impl Door {
    /// Connects, encrypts and upgrades.
    pub(super) async fn upgrade(&self) -> Result<Upgraded, String> {
        let socket = self.dialer.connect(&self.host, self.port).await.map_err(|error| error.to_string())?;
        if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(self.notsent_lowat) {
            tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let socket =
            connector.connect(name, Buffered::reading(socket)).await.map_err(|error| format!("TLS: {error}"))?;
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let protocol = self.encoding.subprotocol();
        let request = Request::get(self.path.as_str())
            .header(HOST, format!("{bracketed}:{}", self.port))
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_KEY, handshake::generate_key())
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, protocol);
        let request = match &self.bearer {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {}", token.expose())),
            None => request,
        };
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let (websocket, response) = handshake::client(&TokioExecutor::new(), request, socket)
            .await
            .map_err(|error| format!("upgrade: {error}"))?;
        if response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|chosen| chosen != protocol) {
            return Err(format!("the server did not choose {protocol}"));
        }
        Ok(websocket.into_inner().into_inner())
    }
}
