use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Body as HttpBody;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpStream;

use super::observed;
use super::pages::{Pages, Situation};
use super::upstream::{Upstream, relay};
use super::{Handover, Protocol};
use crate::config::{Decoy, Invalid, key};
use crate::gateway::body::{Body, boxed};
use crate::net::dial::Dialer;
use crate::net::proxy_protocol::Named;
use crate::net::socket::Socket;

/// The web site that everybody meets who is not a client.
pub(in crate::gateway) struct Site {
    upstream: Option<Upstream>,
    /// The same in HTTP/2.
    upstream_h2: Option<Upstream>,
    plain: Option<Upstream>,
    pages: Pages,
    decision_timeout: Duration,
}

impl Site {
    /// The site of the configuration; the error names a key.
    pub(in crate::gateway) fn new(config: &Decoy, dialer: &Dialer) -> Result<Self, Invalid> {
        if !config.files.is_empty() && !Path::new(&config.files).is_dir() {
            return Err(Invalid::new(key!(Decoy, files), format_args!("{} is not a folder", config.files)));
        }
        if config.upstream.is_empty() && config.files.is_empty() {
            tracing::warn!(
                "there is no web site behind this gateway: visitors get a 404 on every page; set decoy.upstream or \
                 decoy.files"
            );
        }
        let upstream = |address: &str| Upstream::new(address, config, dialer);
        Ok(Self {
            upstream: upstream(&config.upstream),
            upstream_h2: upstream(&config.upstream_h2),
            plain: upstream(&config.plain),
            pages: Pages::new(config),
            decision_timeout: config.patience,
        })
    }

    /// How long the first bytes are waited for before [`Site::announce`].
    pub(super) fn decision_timeout(&self) -> Duration {
        self.decision_timeout
    }

    /// A line to the upstream for a connection that may become its; none without an upstream that answers.
    pub(super) async fn announce(&self, protocol: Protocol, ends: Named) -> Option<TcpStream> {
        self.upstream(protocol)?.announce(ends).await.ok()
    }

    fn upstream(&self, protocol: Protocol) -> Option<&Upstream> {
        match protocol {
            Protocol::Http1 => self.upstream.as_ref(),
            Protocol::Http2 => self.upstream_h2.as_ref(),
        }
    }

    /// Whether there is an upstream that takes connections as they are.
    pub(in crate::gateway) fn speaks(&self, protocol: Protocol) -> bool {
        self.upstream(protocol).is_some()
    }

    /// Serves a connection that is the site's to its end, and tells when bytes have moved to its caller. One in HTTP/2 is given
    /// back if the upstream is not to be reached.
    pub(in crate::gateway) async fn serve(
        &self,
        mut socket: Socket,
        mut handover: Handover,
        ends: Named,
        moved: impl Fn(),
    ) -> Option<Socket> {
        let line = match (handover.upstream.take(), self.upstream(handover.protocol)) {
            (Some(known), _) => Some(Ok(known)),
            (None, Some(upstream)) => Some(upstream.announce(ends).await.map(|line| (line, 0))),
            (None, None) => None,
        };
        let situation = match line {
            Some(Ok((line, passed))) => {
                if let Err(error) = relay(observed(socket, moved), handover.read, line, passed).await {
                    tracing::debug!(%error, "site connection closed with an error");
                }
                return None;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "failed to reach the site's upstream");
                Situation::Down
            }
            None => Situation::Normal,
        };
        socket.put_back(handover.read.freeze());
        match handover.protocol {
            Protocol::Http1 => self.pages.serve(observed(socket, moved), situation).await,
            Protocol::Http2 => return Some(socket),
        }
        None
    }

    /// Serves a connection that does not even begin TLS.
    pub(in crate::gateway) async fn serve_plain(&self, socket: TcpStream, ends: Named) {
        match &self.plain {
            Some(plain) => match plain.announce(ends).await {
                Ok(line) => {
                    if let Err(error) = relay(socket, BytesMut::new(), line, 0).await {
                        tracing::debug!(%error, "site connection closed with an error");
                    }
                }
                Err(error) => tracing::warn!(%error, "failed to reach decoy.plain"),
            },
            None => self.pages.serve(socket, Situation::ClearText).await,
        }
    }

    /// The site's answer to a request that came among ours.
    pub(in crate::gateway) async fn answer<B>(&self, request: Request<B>, ends: Named) -> Response<Body>
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let Some(upstream) = &self.upstream else { return self.pages.answer(request).await };
        match upstream.ask(request.map(boxed), ends).await {
            Ok(response) => response.map(boxed),
            Err(error) => {
                tracing::warn!(%error, "failed to reach the site's upstream");
                self.pages.error(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// What a common server says of an error.
    pub(in crate::gateway) fn error(&self, status: StatusCode) -> Response<Body> {
        self.pages.error(status)
    }
}
