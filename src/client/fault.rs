//! Why there is no tunnel, or no stream on it.

use std::io;

use fastwebsockets::WebSocketError;
use rustls::pki_types::InvalidDnsNameError;
use tokio::task::JoinError;

use crate::mux::OpenError;
use crate::net::tunnel::Ended;

/// Why nothing carries a tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No connection, whatever would travel over it.
    #[error(transparent)]
    Unreachable(#[from] io::Error),
    /// This transport does not get through.
    #[error(transparent)]
    Refused(#[from] TransportError),
}

/// Why a transport does not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("the server does not speak HTTP/2")]
    NoHttp2,
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("upgrade: {0}")]
    Upgrade(#[from] WebSocketError),
    #[error("the server did not choose {0}")]
    Subprotocol(&'static str),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

/// Why a connection does not carry a tunnel, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("timed out")]
    TimedOut,
    #[error("no answer to hello")]
    NoAnswer,
    #[error("before hello_ok: {0}")]
    BeforeHelloOk(#[source] TunnelEnd),
    #[error(transparent)]
    Ended(#[from] TunnelEnd),
    #[error("the session cannot be resumed")]
    NotResumable,
    #[error("the host is in another network")]
    Elsewhere,
}

/// How a tunnel's connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelEnd {
    #[error(transparent)]
    Ended(#[from] Ended),
    /// What moved its bytes failed.
    #[error(transparent)]
    Task(#[from] JoinError),
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    #[error("no tunnel")]
    NoTunnel,
    #[error("too many streams wait")]
    QueueFull,
    #[error("no room for another stream in time")]
    TimedOut,
    #[error(transparent)]
    Open(#[from] OpenError),
}
