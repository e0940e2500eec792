use std::io;
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Body;
use crate::config::{Decoy, ProxyProtocol, host_and_port};
use crate::net::dial::Dialer;
use crate::net::proxy_protocol::{Named, Version};

/// Bytes of a site that are moved at once.
const PIECE: usize = 16 * 1024;

/// A web server behind the gateway.
pub(super) struct Upstream {
    host: String,
    port: u16,
    limit: Duration,
    header: Option<Version>,
    dialer: Dialer,
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
        Some(Self { host: host.to_owned(), port, limit: config.connect_timeout, header, dialer: dialer.clone() })
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

    /// Asks the server on behalf of a client whose connection is not its own.
    pub(super) async fn ask(&self, request: Request<Body>, ends: Named) -> io::Result<Response<Incoming>> {
        let line = self.announce(ends).await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(line))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(forwarded(request)).await.map_err(io::Error::other)
    }
}

/// A request as its server expects it: the path in its first line, its authority as Host, nothing of the connection.
fn forwarded(mut request: Request<Body>) -> Request<Body> {
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = hyper::Version::HTTP_11;
    let headers = request.headers_mut();
    if let Some(authority) = authority {
        headers.entry(HOST).or_insert(authority);
    }
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
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
