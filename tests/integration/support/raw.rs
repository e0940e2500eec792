//! A scripted client: TLS, an upgrade request, WebSocket messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::OpCode;
use httvps::frame::{Features, Frame, Hello, Token, binary};
use httvps::mux::Message;
use httvps::net::websocket::{Incoming, Reader, Side, write_header};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::control::REGION;
use crate::support::deployment::{Deployment, PATH};
use crate::support::subscriber::Subscriber;
use crate::support::wait::TIMEOUT;

pub(crate) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn dial_as(address: &str, tls: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    TlsConnector::from(tls).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
}

/// Connects by TLS with the protocols that the crate offers by default.
pub(crate) async fn dial_to(address: &str, ca: &str) -> TlsStream<TcpStream> {
    dial_as(address, httvps::net::tls::client(Some(&std::fs::read(ca).unwrap())).unwrap()).await
}

/// Connects by TLS and offers these protocols.
pub(crate) async fn dial_offering(address: &str, ca: &str, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut tls = (*httvps::net::tls::client(Some(&std::fs::read(ca).unwrap())).unwrap()).clone();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    dial_as(address, Arc::new(tls)).await
}

pub(crate) async fn dial(deployment: &Deployment) -> TlsStream<TcpStream> {
    dial_to(deployment.address(), &deployment.ca()).await
}

/// Sends a request head and returns the response's.
pub(crate) async fn request(socket: &mut TlsStream<TcpStream>, head: &str) -> String {
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

pub(crate) fn upgrade_request(protocol: &str) -> String {
    format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}Sec-WebSocket-Protocol: {protocol}\r\n\r\n")
}

/// An upgraded connection.
pub(crate) struct RawClient {
    pub(crate) socket: TlsStream<TcpStream>,
    reader: Reader,
    input: BytesMut,
    waiting: VecDeque<Frame>,
}

impl RawClient {
    pub(crate) fn new(socket: TlsStream<TcpStream>) -> Self {
        Self { socket, reader: Reader::new(Side::Client, 1 << 20, 1), input: BytesMut::new(), waiting: VecDeque::new() }
    }

    pub(crate) async fn open(deployment: &Deployment, protocol: &str) -> Self {
        let mut socket = dial(deployment).await;
        let head = request(&mut socket, &upgrade_request(protocol)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self::new(socket)
    }

    /// Opens a v2 session.
    pub(crate) async fn session(deployment: &Deployment) -> Self {
        let mut raw = Self::open(deployment, "httvps.v2").await;
        raw.frames(&[Frame::Hello(Box::new(hello(deployment)))]).await;
        assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
        raw
    }

    pub(crate) async fn say(&mut self, opcode: OpCode, body: &[u8]) {
        self.socket.write_all(&sealed(opcode, body)).await.unwrap();
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.say(OpCode::Text, text.as_bytes()).await;
    }

    pub(crate) async fn frames(&mut self, frames: &[Frame]) {
        self.say(OpCode::Binary, &encoded(frames)).await;
    }

    /// The next message, or `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        tokio::time::timeout(TIMEOUT, self.read()).await.expect("something comes")
    }

    async fn read(&mut self) -> Option<Incoming> {
        loop {
            match self.reader.next(&mut self.input) {
                Ok(incoming) => return Some(incoming),
                Err(Ok(_)) => {}
                Err(Err(violation)) => panic!("the gateway broke RFC 6455: {violation}"),
            }
            if self.socket.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The frames of the next message.
    async fn message(&mut self) -> Vec<Frame> {
        match self.next().await {
            Some(Incoming::Binary(bytes)) => decoded(bytes),
            other => panic!("no frames: {other:?}"),
        }
    }

    /// The next frame other than padding, pings and windows; pings are answered.
    pub(crate) async fn next_frame(&mut self) -> Frame {
        loop {
            match self.next_frame_or_window().await {
                Frame::Window { .. } => {}
                frame => return frame,
            }
        }
    }

    /// The next frame other than padding and pings; pings are answered.
    pub(crate) async fn next_frame_or_window(&mut self) -> Frame {
        loop {
            match self.waiting.pop_front() {
                Some(Frame::Ping(bytes)) => {
                    let message = sealed(OpCode::Binary, &encoded(&[Frame::Pong(bytes)]));
                    let _ = self.socket.write_all(&message).await;
                }
                Some(Frame::Padding(_)) => {}
                Some(frame) => return frame,
                None => self.waiting = self.message().await.into(),
            }
        }
    }

    /// Reads to the end; returns the close code.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Some(Incoming::Close(code)) => return code,
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Whether nothing arrives for a while.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.read()).await.is_err()
    }
}

fn sealed(opcode: OpCode, body: &[u8]) -> BytesMut {
    let mut message = Message::from(body);
    write_header(&mut message, opcode, Side::Client);
    message.concat().into()
}

pub(crate) fn encoded(frames: &[Frame]) -> BytesMut {
    let mut body = BytesMut::new();
    for frame in frames {
        binary::encode(frame, &mut body);
    }
    body
}

pub(crate) fn decoded(mut bytes: Bytes) -> Vec<Frame> {
    std::iter::from_fn(|| binary::decode(&mut bytes).unwrap()).collect()
}

pub(crate) fn hello(deployment: &Deployment) -> Hello {
    hello_of(&deployment.subscriber)
}

pub(crate) fn hello_of(subscriber: &Subscriber) -> Hello {
    Hello {
        device_id: subscriber.device.clone(),
        access_token: Token::from(subscriber.token.clone()),
        region: REGION.into(),
        client_version: "1.0.0".into(),
        platform: "test".into(),
        features: Features::NONE,
        keepalive: None,
        resume: None,
        replaces: None,
    }
}
