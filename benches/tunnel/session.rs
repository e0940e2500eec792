use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use httvps::frame::{Features, Frame, Hello, SessionCode, StreamId, Target, Token, binary};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::control::REGION;
use crate::support::deployment::gateway_address;
use crate::support::deployment::{Deployment, PATH};
use crate::support::process::Process;
use crate::support::wait::TIMEOUT;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;

#[derive(Clone)]
pub(crate) struct Door {
    address: String,
    tls: TlsConnector,
    hello: Hello,
}

impl Door {
    pub(crate) fn of(deployment: &Deployment, resumption: Resumption) -> Self {
        let (device, token) = (deployment.subscriber.device.clone(), deployment.subscriber.token.clone());
        Self::new(deployment.gateway(), connector(&deployment.ca(), resumption), device, Token::from(token))
    }

    pub(crate) fn new(gateway: &Process, tls: TlsConnector, device_id: String, access_token: Token) -> Self {
        let hello = Hello {
            device_id,
            access_token,
            region: REGION.into(),
            client_version: String::new(),
            platform: String::new(),
            features: Features::NONE,
            keepalive: None,
            resume: None,
            replaces: None,
        };
        let address = gateway_address(gateway).to_owned();
        Self { address, tls, hello }
    }

    pub(crate) async fn enter(&self, early: &[Frame]) -> io::Result<Session> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let socket = self.tls.connect(name, socket).await?;
        let mut session = Session { id: String::new(), socket, arrived: VecDeque::new() };
        session.upgrade().await?;
        let hello = Frame::Hello(Box::new(self.hello.clone()));
        let frames: Vec<Frame> = std::iter::once(hello).chain(early.iter().cloned()).collect();
        session.send(&message(&frames)).await?;
        session.id = session
            .until(|frame| if let Frame::HelloOk(consent) = frame { Some(consent.session_id.clone()) } else { None })
            .await?;
        Ok(session)
    }
}

pub(crate) fn connector(ca: &str, resumption: Resumption) -> TlsConnector {
    let ca = std::fs::read(ca).unwrap();
    let mut config = (*httvps::net::tls::client(Some(&ca)).unwrap()).clone();
    config.resumption = resumption;
    TlsConnector::from(Arc::new(config))
}

pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) socket: TlsStream<TcpStream>,
    arrived: VecDeque<Frame>,
}

impl Session {
    async fn upgrade(&mut self) -> io::Result<()> {
        let key = BASE64_STANDARD.encode([1; 16]);
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: httvps.v2\r\n\r\n"
        );
        self.send(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.socket.read_u8().await?);
        }
        if head.starts_with(b"HTTP/1.1 101 ") {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()))
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(&Frame) -> Option<T>) -> io::Result<T> {
        loop {
            while let Some(frame) = self.arrived.pop_front() {
                if let Some(found) = wanted(&frame) {
                    return Ok(found);
                }
                if let Frame::Error { code, .. } = frame {
                    return Err(io::Error::other(code.as_str()));
                }
            }
            timeout(TIMEOUT, self.receive()).await??;
        }
    }

    pub(crate) async fn over(mut self) -> io::Result<SessionCode> {
        loop {
            while let Some(frame) = self.arrived.pop_front() {
                match frame {
                    Frame::Error { code, .. } => return Ok(code),
                    Frame::Ping(bytes) => self.send(&message(&[Frame::Pong(bytes)])).await?,
                    _ => {}
                }
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        let opcode = self.socket.read_u8().await? & 0x0f;
        let len = match self.socket.read_u8().await? & 0x7f {
            126 => u64::from(self.socket.read_u16().await?),
            127 => self.socket.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; len as usize];
        self.socket.read_exact(&mut payload).await?;
        match opcode {
            BINARY => {
                let mut payload = Bytes::from(payload);
                while let Some(frame) = binary::decode(&mut payload).map_err(io::Error::other)? {
                    self.arrived.push_back(frame);
                }
                Ok(())
            }
            CLOSE => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn open(id: u32, target: &Target, payload: &'static [u8]) -> Frame {
    let payload = Bytes::from_static(payload);
    Frame::Open { id: StreamId(id), target: Some(target.clone()), payload, fin: false, udp: false }
}

pub(crate) fn message(frames: &[Frame]) -> Vec<u8> {
    let mut body = BytesMut::new();
    for frame in frames {
        binary::encode(frame, &mut body);
    }
    let mut bytes = vec![0x82, 0xfe];
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend_from_slice(&body);
    bytes
}
