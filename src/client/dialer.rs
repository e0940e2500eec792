//! Dials the gateway: from a TCP connection to what carries a tunnel, by one of the transports.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::handshake;
use h2::client::SendRequest;
use h2::ext::Protocol;
use http_body_util::Empty;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::http::request::Builder;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request};
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::{DialError, TransportError};
use crate::config::{Http2, Secret, Transport};
use crate::frame::Encoding;
use crate::net::buffered::Buffered;
use crate::net::dial::Dialer;
use crate::net::http2::{Channel, MEDIA_TYPE, Piece};
use crate::net::tls;
use crate::net::tunnel::Framing;
use crate::net::websocket::Side;

type Socket = TlsStream<Buffered<TcpStream>>;

/// Where the gateway is and how a tunnel to it is asked for.
pub(super) struct GatewayDialer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) encoding: Encoding,
    pub(super) token: Secret,
    /// Whether a WebSocket's request carries the token; that of plain HTTP/2 always does.
    pub(super) bearer: bool,
    pub(super) notsent_lowat: u32,
    pub(super) dialer: Dialer,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) http2: Http2,
    /// How long a connection may take to close.
    pub(super) close_timeout: Duration,
}

/// What carries the tunnel.
pub(super) enum Opened {
    WebSocket(Upgraded),
    /// The answer to the request is awaited when it is first read.
    Http2(Channel, Framing),
}

impl GatewayDialer {
    /// Connects.
    pub(super) async fn dial(&self) -> Result<TcpStream, DialError> {
        let socket = self.dialer.connect(&self.host, self.port).await?;
        if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(self.notsent_lowat) {
            tracing::debug!(%error, "failed to set TCP_NOTSENT_LOWAT");
        }
        Ok(socket)
    }

    /// Encrypts and asks for a tunnel. If `may_upgrade`, a gateway without HTTP/2 is asked for a WebSocket over HTTP/1.1 on the
    /// same connection.
    pub(super) async fn open(
        &self,
        socket: TcpStream,
        transport: Transport,
        may_upgrade: bool,
    ) -> Result<Opened, TransportError> {
        let socket = self.encrypt(socket, transport, may_upgrade).await?;
        let speaks_http2 = socket.get_ref().1.alpn_protocol() == Some(tls::H2.as_bytes());
        match transport {
            Transport::H2 if speaks_http2 => Box::pin(self.post(socket)).await,
            Transport::H2ws if speaks_http2 => Box::pin(self.connect(socket)).await,
            Transport::H2 | Transport::H2ws if !may_upgrade => Err(TransportError::NoHttp2),
            Transport::Auto | Transport::Ws | Transport::H2 | Transport::H2ws => {
                Box::pin(self.upgrade(socket)).await.map(Opened::WebSocket)
            }
        }
    }

    async fn encrypt(
        &self,
        socket: TcpStream,
        transport: Transport,
        may_upgrade: bool,
    ) -> Result<Socket, TransportError> {
        let name = ServerName::try_from(self.host.clone())?;
        let mut config = ClientConfig::clone(&self.tls);
        let offered: &[&str] = match transport {
            Transport::Ws | Transport::Auto => &[tls::HTTP_1_1],
            Transport::H2 | Transport::H2ws if may_upgrade => &[tls::H2, tls::HTTP_1_1],
            Transport::H2 | Transport::H2ws => &[tls::H2],
        };
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, Buffered::reading(socket)).await.map_err(TransportError::Tls)
    }

    fn authority(&self) -> String {
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{bracketed}:{}", self.port)
    }

    fn with_token(&self, request: Builder) -> Builder {
        request.header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
    }

    /// The headers of a WebSocket's request.
    fn offer(&self, request: Builder) -> Builder {
        let request =
            request.header(SEC_WEBSOCKET_VERSION, "13").header(SEC_WEBSOCKET_PROTOCOL, self.encoding.subprotocol());
        if self.bearer { self.with_token(request) } else { request }
    }

    /// WebSocket over HTTP/1.1.
    async fn upgrade(&self, socket: Socket) -> Result<Upgraded, TransportError> {
        let request = Request::get(self.path.as_str())
            .header(HOST, self.authority())
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_KEY, handshake::generate_key());
        let request = self.offer(request).body(Empty::<Bytes>::new())?;
        let (websocket, response) = handshake::client(&TokioExecutor::new(), request, socket).await?;
        let protocol = self.encoding.subprotocol();
        if response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|chosen| chosen != protocol) {
            return Err(TransportError::Subprotocol(protocol));
        }
        Ok(websocket.into_inner().into_inner())
    }

    /// Plain HTTP/2: what the tunnel says first travels right behind the request.
    async fn post(&self, socket: Socket) -> Result<Opened, TransportError> {
        let (mut http2, connection) = self.begin(socket).await?;
        let request = self.request(Method::POST).header(CONTENT_TYPE, MEDIA_TYPE);
        let request = self.with_token(request).body(())?;
        let (response, send) = http2.send_request(request, false)?;
        let channel = Channel::requested(send, response, None, &self.http2, connection);
        Ok(Opened::Http2(channel, Framing::Frames))
    }

    /// WebSocket over HTTP/2. That the endpoint takes it is known, so that nothing is waited for: a connection that says nothing
    /// of ours is the site's (docs/03, "Transports").
    async fn connect(&self, socket: Socket) -> Result<Opened, TransportError> {
        let (mut http2, connection) = self.begin(socket).await?;
        let request = self.offer(self.request(Method::CONNECT)).extension(Protocol::from_static("websocket"));
        let request = request.body(())?;
        let (response, send) = http2.send_request(request, false)?;
        let protocol = Some(self.encoding.subprotocol());
        let channel = Channel::requested(send, response, protocol, &self.http2, connection);
        Ok(Opened::Http2(channel, Framing::WebSocket(Side::Client)))
    }

    fn request(&self, method: Method) -> Builder {
        Request::builder().method(method).uri(format!("https://{}{}", self.authority(), self.path))
    }

    /// A connection that lives as long as what its guard is kept with.
    async fn begin(&self, socket: Socket) -> Result<(SendRequest<Piece>, DropGuard), TransportError> {
        let size = Http2::size;
        let window = size(self.http2.stream_window);
        let (http2, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(window.saturating_add(size(self.http2.connection_window)))
            .max_frame_size(size(self.http2.frame_max))
            .max_header_list_size(size(self.http2.header_list_max))
            .max_send_buffer_size(usize::try_from(self.http2.send_buffer.as_u64()).unwrap_or(usize::MAX))
            .enable_push(false)
            .handshake(socket)
            .await?;
        let (over, limit) = (CancellationToken::new(), self.close_timeout);
        let given_up = over.clone();
        tokio::spawn(async move {
            let late = async {
                given_up.cancelled().await;
                tokio::time::sleep(limit).await;
            };
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP/2 connection lost");
                },
                () = late => {}
            }
        });
        let http2 = http2.ready().await?;
        Ok((http2, over.drop_guard()))
    }
}
