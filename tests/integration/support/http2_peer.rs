//! A client's end of an HTTP/2 connection with several tunnels and other requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use httvps::config::{Http2, Source};
use httvps::frame::{Encoding, Frame, Padding, binary};
use httvps::mux::{Event, Limits, Role};
use httvps::net::http2::{Channel, MEDIA_TYPE, Piece};
use httvps::net::tunnel::{Driver, Framing, Transport, Tunnel};
use httvps::net::websocket::Side;
use hyper::{HeaderMap, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::support::deployment::{Deployment, PATH};
use crate::support::raw::{encoded, hello};
use crate::support::wait::TIMEOUT;

const STREAM_WINDOW: u32 = 1 << 20;

/// An HTTP/2 connection.
pub(crate) struct Peer {
    send: SendRequest<Piece>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
    config: Http2,
    limits: Arc<Limits>,
}

/// A request whose body is being sent.
pub(crate) struct Upload {
    left: Arc<AtomicUsize>,
    pub(crate) task: JoinHandle<Result<(), h2::Error>>,
}

impl Upload {
    /// Whether the server has read one stream window of it and no more.
    pub(crate) fn is_held_up(&self) -> Result<(), String> {
        match self.left.load(Ordering::Relaxed) {
            left if left <= 2 << 20 => Ok(()),
            left => Err(format!("{left} bytes are left")),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The response to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

pub(crate) fn websocket(protocol: &'static str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = request("CONNECT", PATH, headers);
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

impl Peer {
    /// Connects and waits for the server's settings.
    pub(crate) async fn dial(deployment: &Deployment) -> Self {
        let (peer, pings) = Self::begin(deployment).await;
        pings.unwrap().ping(h2::Ping::opaque()).await.unwrap();
        peer
    }

    pub(crate) async fn begin(deployment: &Deployment) -> (Self, Option<h2::PingPong>) {
        let source = Source::with::<&str, &str>([]).unwrap();
        let limits = Limits::new(&source.section().unwrap(), &source.section().unwrap(), Padding::default());
        let mut tls = (*httvps::net::tls::client(Some(&std::fs::read(deployment.ca()).unwrap())).unwrap()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(deployment.address()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.unwrap();
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(16 * STREAM_WINDOW)
            .handshake(socket)
            .await
            .unwrap();
        let pings = connection.ping_pong();
        let connection = tokio::spawn(connection);
        (Self { send, connection, config: source.section().unwrap(), limits: Arc::new(limits) }, pings)
    }

    pub(crate) fn takes_websockets(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    pub(crate) async fn ask(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let asking = async {
            let mut send = self.send.clone().ready().await?;
            let (response, mut stream) = send.send_request(request, body.is_empty())?;
            if !body.is_empty() {
                stream.send_data(Bytes::copy_from_slice(body).into(), true)?;
            }
            let (head, mut stream) = response.await?.into_parts();
            let mut body = BytesMut::new();
            while let Some(bytes) = stream.data().await {
                let bytes = bytes?;
                stream.flow_control().release_capacity(bytes.len())?;
                body.extend_from_slice(&bytes);
            }
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_vec() })
        };
        tokio::time::timeout(TIMEOUT, asking).await.expect("an answer")
    }

    /// Requests a tunnel on a stream without awaiting the response.
    pub(crate) async fn channel(&self, request: Request<()>, protocol: Option<&'static str>) -> Channel {
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, stream) = send.send_request(request, false).unwrap();
        Channel::requested(stream, response, protocol, &self.config, CancellationToken::new().drop_guard())
    }

    /// Sends a request and returns the response's body once it has begun.
    pub(crate) async fn open(&self, request: Request<()>) -> h2::RecvStream {
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        tokio::time::timeout(TIMEOUT, response).await.expect("an answer").unwrap().into_body()
    }

    /// A request whose body is sent as the server accepts it, until it is dropped.
    pub(crate) async fn upload(&self, path: &str, len: usize) -> Upload {
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut stream) = send.send_request(request("POST", path, &[]), false).unwrap();
        let left = Arc::new(AtomicUsize::new(len));
        let counter = Arc::clone(&left);
        let task = tokio::spawn(async move {
            while counter.load(Ordering::Relaxed) > 0 {
                stream.reserve_capacity(counter.load(Ordering::Relaxed).min(64 * 1024));
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
                if room > 0 && stream.send_data(Bytes::from(vec![b'x'; room]).into(), false).is_err() {
                    break;
                }
                counter.fetch_sub(room.min(counter.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            response.await.map(drop)
        });
        Upload { left, task }
    }

    /// A tunnel over plain HTTP/2 that sends frames and never reads, until it is dropped.
    pub(crate) async fn unread(
        &self,
        deployment: &Deployment,
        frames: &[Frame],
    ) -> (h2::SendStream<Piece>, h2::RecvStream) {
        let bearer = format!("Bearer {}", deployment.subscriber.token);
        let headers = [("content-type", MEDIA_TYPE), ("authorization", bearer.as_str())];
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut stream) = send.send_request(request("POST", PATH, &headers), false).unwrap();
        let frames = [&[Frame::Hello(Box::new(hello(deployment)))], frames].concat();
        stream.send_data(encoded(&frames).freeze().into(), false).unwrap();
        let response = tokio::time::timeout(TIMEOUT, response).await.expect("an answer").unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        (stream, response.into_body())
    }

    /// Opens a tunnel over plain HTTP/2.
    pub(crate) async fn plain(&self, deployment: &Deployment) -> Tunnel {
        let bearer = format!("Bearer {}", deployment.subscriber.token);
        let headers = [("content-type", MEDIA_TYPE), ("authorization", bearer.as_str())];
        let channel = self.channel(request("POST", PATH, &headers), None).await;
        self.enter(deployment, channel, Encoding::V2, Framing::Frames).await
    }

    /// Opens a tunnel over a WebSocket.
    pub(crate) async fn websocket(&self, deployment: &Deployment, encoding: Encoding) -> Tunnel {
        let protocol = encoding.subprotocol();
        let headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", protocol)];
        let channel = self.channel(websocket("websocket", &headers), Some(protocol)).await;
        self.enter(deployment, channel, encoding, Framing::WebSocket(Side::Client)).await
    }

    async fn enter(&self, deployment: &Deployment, channel: Channel, encoding: Encoding, framing: Framing) -> Tunnel {
        let tunnel = Tunnel::new(Role::Client, encoding, Arc::clone(&self.limits));
        let transport = Transport {
            framing,
            encoding,
            message_max: 4 * binary::MAX_MESSAGE,
            hello_max: usize::MAX,
            fragments_max: 16,
            close_timeout: Duration::from_secs(1),
        };
        let driving = tokio::spawn(Driver::new(channel, Bytes::new(), tunnel.clone(), transport).run());
        tunnel.hello(hello(deployment), &Padding::documented());
        match tokio::time::timeout(TIMEOUT, tunnel.next_event()).await.expect("an answer to hello") {
            Some(Event::Accepted(_)) => tunnel,
            None => panic!("{}", driving.await.unwrap()),
            other => panic!("{other:?}"),
        }
    }
}
