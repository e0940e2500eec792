//! Client tunnels inside the test process, cheap enough for thousands.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httvps::config::Source;
use httvps::frame::{Encoding, Hello, Padding, StreamCode, Target, binary};
use httvps::mux::{Event, Limits, Payload, Received, Role};
use httvps::net::buffered::Buffered;
use httvps::net::tunnel::{Driver, Framing, Transport, Tunnel, TunnelStream};
use httvps::net::websocket::Side;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::support::deployment::Deployment;
use crate::support::raw::{hello_of, upgrade_request};
use crate::support::subscriber::Subscriber;
use crate::support::wait::TIMEOUT;

/// Opens tunnels as a subscriber.
#[derive(Clone)]
pub(crate) struct TunnelDialer {
    address: String,
    tls: TlsConnector,
    hello: Hello,
    limits: Arc<Limits>,
}

/// An accepted tunnel; dropping it closes the connection.
pub(crate) struct InProcessTunnel {
    pub(crate) tunnel: Tunnel,
    driver: AbortHandle,
}

impl Drop for InProcessTunnel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl TunnelDialer {
    pub(crate) fn of(deployment: &Deployment, subscriber: &Subscriber) -> Self {
        let source = Source::with::<&str, &str>([]).unwrap();
        let limits = Limits::new(&source.section().unwrap(), &source.section().unwrap(), Padding::default());
        let tls = httvps::net::tls::client(Some(&std::fs::read(deployment.ca()).unwrap())).unwrap();
        let hello = hello_of(subscriber);
        let address = deployment.address().to_owned();
        Self { address, tls: TlsConnector::from(tls), hello, limits: Arc::new(limits) }
    }

    /// Opens a tunnel, or returns why there is none.
    pub(crate) async fn enter(&self) -> Result<InProcessTunnel, String> {
        match tokio::time::timeout(TIMEOUT, self.try_enter()).await {
            Ok(entered) => entered,
            Err(_) => Err("no answer".into()),
        }
    }

    async fn try_enter(&self) -> Result<InProcessTunnel, String> {
        let text = |error: std::io::Error| error.to_string();
        let socket = TcpStream::connect(&self.address).await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut socket = self.tls.connect(name, Buffered::reading(socket)).await.map_err(text)?;
        socket.write_all(upgrade_request("httvps.v2").as_bytes()).await.map_err(text)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.map_err(text)?);
        }
        let head = String::from_utf8_lossy(&head);
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(head.into_owned());
        }
        let tunnel = Tunnel::new(Role::Client, Encoding::V2, Arc::clone(&self.limits));
        let transport = Transport {
            framing: Framing::WebSocket(Side::Client),
            encoding: Encoding::V2,
            message_max: binary::MAX_MESSAGE,
            hello_max: usize::MAX,
            fragments_max: 16,
            close_timeout: Duration::from_secs(1),
        };
        let driver = tokio::spawn(Driver::new(socket, Bytes::new(), tunnel.clone(), transport).run());
        let entered = InProcessTunnel { tunnel, driver: driver.abort_handle() };
        entered.tunnel.hello(self.hello.clone(), &Padding::documented());
        match entered.tunnel.next_event().await {
            Some(Event::Accepted(_)) => Ok(entered),
            Some(Event::Ended { code, .. }) => Err(code.as_str().to_owned()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Sends all bytes; returns the code if the stream ends first.
pub(crate) async fn send(stream: &TunnelStream, mut bytes: &[u8]) -> Result<(), StreamCode> {
    while !bytes.is_empty() {
        let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return Err(end_of(stream).await) };
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        stream.send(Payload::from(now));
        bytes = later;
    }
    Ok(())
}

async fn end_of(stream: &TunnelStream) -> StreamCode {
    loop {
        match poll_fn(|cx| stream.poll_receive(cx)).await {
            Received::Reset(code) => return code,
            Received::Finished => return StreamCode::Cancelled,
            Received::Data(_) | Received::Nothing => {}
        }
    }
}

/// Reads to the end; returns the number of bytes, and the code if the stream was reset.
pub(crate) async fn receive(stream: &TunnelStream) -> (u64, Result<(), StreamCode>) {
    let mut got = 0;
    loop {
        match poll_fn(|cx| stream.poll_receive(cx)).await {
            Received::Data(bytes) => {
                got += bytes.len() as u64;
                stream.consumed(bytes.len());
            }
            Received::Finished => return (got, Ok(())),
            Received::Reset(code) => return (got, Err(code)),
            Received::Nothing => {}
        }
    }
}

/// Asks a [`Behavior::Source`](crate::support::destination::Behavior) for a number of bytes; returns how many arrived.
pub(crate) async fn fetch(tunnel: &Tunnel, source: SocketAddr, len: u64) -> (u64, Result<(), StreamCode>) {
    let first = Bytes::copy_from_slice(&len.to_be_bytes());
    let Ok(stream) = tunnel.open(&Target::Ip(source), first) else { return (0, Err(StreamCode::Cancelled)) };
    let (got, ended) = receive(&stream).await;
    if ended.is_ok() {
        stream.finish();
    }
    (got, ended)
}
