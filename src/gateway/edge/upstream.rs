use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, COOKIE, HOST, HeaderValue, UPGRADE};
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Decoy, ProxyProtocol, host_and_port};
use crate::gateway::body::{Body, without_connection};
use crate::net::dial::Dialer;
use crate::net::proxy_protocol::{Named, Version};

/// Bytes of a site that are moved at once.
const PIECE: usize = 16 * 1024;
/// The same of an answer that is asked for.
const ANSWER_PIECE: usize = 32 * 1024;

/// A web server behind the gateway.
pub(super) struct Upstream {
    host: String,
    port: u16,
    limit: Duration,
    header: Option<Version>,
    dialer: Dialer,
    /// Requests that may be asked at once; others wait.
    asking: Arc<Semaphore>,
}

impl Upstream {
    /// The server at `host:port`; none if that is empty.
    pub(super) fn new(address: &str, config: &Decoy, dialer: &Dialer) -> Option<Self> {
        let (host, port) = host_and_port(address)?;
        let header = match config.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::V1 => Some(Version::V1),
            ProxyProtocol::V2 => Some(Version::V2),
        };
        let asking = Arc::new(Semaphore::new(config.max_requests));
        let limit = config.connect_timeout;
        Some(Self { host: host.to_owned(), port, limit, header, dialer: dialer.clone(), asking })
    }

    /// A line to the server for somebody's connection.
    pub(super) async fn announce(&self, ends: Named) -> io::Result<TcpStream> {
        let connected = timeout(self.limit, self.dialer.connect(&self.host, self.port)).await;
        let mut line = connected.unwrap_or_else(|elapsed| Err(elapsed.into()))?;
        if let Some(version) = self.header {
            line.write_all(&ends.header(version).map_err(io::Error::other)?).await?;
        }
        Ok(line)
    }

    /// Asks the server on behalf of a client whose connection is not its own. The line lives as long as the answer, or is what the
    /// connection is switched to if the request may do that.
    pub(super) async fn ask(&self, request: Request<Body>, ends: Named) -> io::Result<Response<Answer>> {
        let asking = Arc::clone(&self.asking).acquire_owned().await.map_err(io::Error::other)?;
        let line = self.announce(ends).await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(ANSWER_PIECE)
            .handshake(TokioIo::new(line))
            .await
            .map_err(io::Error::other)?;
        let line = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection closed with an error");
            }
        }));
        let response = sender.send_request(forwarded(request)).await.map_err(io::Error::other)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            line.detach();
            return Ok(response.map(|body| Answer { body, _asked: None }));
        }
        Ok(response.map(|body| Answer { body, _asked: Some((line, asking)) }))
    }
}

/// An answer's body, with the line that it comes on.
pub(super) struct Answer {
    body: Incoming,
    _asked: Option<(AbortOnDropHandle<()>, OwnedSemaphorePermit)>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request as its server expects it: the path in its first line, its authority as Host, cookies in one field (RFC 9113,
/// section 8.2.3), nothing of the connection unless it may be switched.
fn forwarded(mut request: Request<Body>) -> Request<Body> {
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = hyper::Version::HTTP_11;
    let may_switch = request.extensions().get::<OnUpgrade>().is_some();
    let headers = request.headers_mut();
    if let Some(authority) = authority {
        headers.entry(HOST).or_insert(authority);
    }
    let cookies: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
    let protocol = headers.get(UPGRADE).filter(|_| may_switch).cloned();
    without_connection(headers);
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    request
}

/// Passes a connection on as the bytes it is, both ways, until both sides have ended or one has failed. The line knows the
/// first of what was read already.
pub(super) async fn relay<S>(mut socket: S, read: BytesMut, mut line: TcpStream, passed: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    line.write_all(read.get(passed..).unwrap_or_default()).await?;
    drop(read);
    copy_bidirectional_with_sizes(&mut socket, &mut line, PIECE, PIECE).await?;
    Ok(())
}
