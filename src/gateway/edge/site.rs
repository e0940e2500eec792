use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body as HttpBody;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Handover;
use super::pages::{Pages, Situation};
use super::upstream::{Upstream, relay};
use crate::config::Decoy;
use crate::net::dial::Dialer;
use crate::net::prefixed::Prefixed;
use crate::net::proxy_protocol::Named;

/// What an answer carries.
pub(in crate::gateway) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// The web site that everybody meets who is not a client.
pub(in crate::gateway) struct Site {
    upstream: Option<Upstream>,
    plain: Option<Upstream>,
    pages: Pages,
    patience: Duration,
}

impl Site {
    /// The site of the configuration; the error names a key.
    pub(in crate::gateway) fn new(config: &Decoy, dialer: &Dialer) -> Result<Self, (&'static str, String)> {
        if !config.files.is_empty() && !Path::new(&config.files).is_dir() {
            return Err(("files", format!("{} is not a folder", config.files)));
        }
        if config.upstream.is_empty() && config.files.is_empty() {
            tracing::warn!(
                "there is no web site behind this gateway: strangers meet a 404 on every page; set decoy.upstream or \
                 decoy.files"
            );
        }
        let upstream = |address: &str| Upstream::new(address, config, dialer);
        Ok(Self {
            upstream: upstream(&config.upstream),
            plain: upstream(&config.plain),
            pages: Pages::new(config),
            patience: config.patience,
        })
    }

    /// How long the first bytes are waited for before [`Site::announce`].
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A line to the upstream for a connection that may become its; none without an upstream that answers.
    pub(super) async fn announce(&self, ends: Named) -> Option<TcpStream> {
        self.upstream.as_ref()?.announce(ends).await.ok()
    }

    /// Serves a connection that is the site's to its end.
    pub(in crate::gateway) async fn serve<S>(&self, socket: S, mut handover: Handover, ends: Named)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let line = match (handover.line.take(), &self.upstream) {
            (Some(known), _) => Some(Ok(known)),
            (None, Some(upstream)) => Some(upstream.announce(ends).await.map(|line| (line, 0))),
            (None, None) => None,
        };
        match line {
            Some(Ok((line, passed))) => {
                if let Err(error) = relay(socket, handover, line, passed).await {
                    tracing::debug!(%error, "a stranger's connection ended");
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the site's upstream is not to be reached");
                self.pages.serve(Prefixed::new(handover.read.freeze(), socket), Situation::Down).await;
            }
            None => self.pages.serve(Prefixed::new(handover.read.freeze(), socket), Situation::Normal).await,
        }
    }

    /// Serves a connection that does not even begin TLS.
    pub(in crate::gateway) async fn serve_plain(&self, socket: TcpStream, ends: Named) {
        match &self.plain {
            Some(plain) => match plain.announce(ends).await {
                Ok(line) => {
                    if let Err(error) = relay(socket, Handover::of(bytes::BytesMut::new()), line, 0).await {
                        tracing::debug!(%error, "a stranger's connection ended");
                    }
                }
                Err(error) => tracing::warn!(%error, "decoy.plain is not to be reached"),
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
        match upstream.ask(request.map(|body| body.map_err(Into::into).boxed_unsync()), ends).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(error) => {
                tracing::warn!(%error, "the site's upstream is not to be reached");
                self.pages.error(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// What a common server says of an error.
    pub(in crate::gateway) fn error(&self, status: StatusCode) -> Response<Body> {
        self.pages.error(status)
    }
}
