use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ::shadowsocks::ServerConfig;
use ::shadowsocks::net::{ConnectOpts, UdpSocket};
use ::shadowsocks::relay::socks5::Address;
use ::shadowsocks::relay::udprelay::options::UdpSocketControlData;
use ::shadowsocks::relay::udprelay::proxy_socket::{ProxySocket, ProxySocketError, UdpSocketType};
use bytes::Bytes;
use tokio::io::ReadBuf;

use super::stream::{address, context};
use crate::digest::fresh_number;
use crate::frame::{Datagram, Target};
use crate::net::dial::Dialer;

const PACKET_MAX: usize = 65_536;

thread_local! {
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Datagrams through a node, each to a destination of its own.
pub struct NodeSocket {
    socket: ProxySocket<UdpSocket>,
    session: u64,
    packets: AtomicU64,
}

/// Opens a socket towards a node; of several addresses the one that takes connections.
pub async fn associate(dialer: &Dialer, config: &ServerConfig) -> io::Result<NodeSocket> {
    let (host, port) = address(config);
    let found = dialer.ordered(&host, port).await?;
    let node = found.first().ok_or(io::ErrorKind::NotFound)?;
    let socket = UdpSocket::connect_with_opts(node, &ConnectOpts::default()).await?;
    let socket = ProxySocket::from_socket(UdpSocketType::Client, context().clone(), config, socket);
    Ok(NodeSocket { socket, session: fresh_number(), packets: AtomicU64::new(0) })
}

impl NodeSocket {
    /// Sends one datagram; one that is too large or finds no room is lost, as datagrams are.
    pub async fn send(&self, target: &Target, payload: &[u8]) -> io::Result<()> {
        let address = match target {
            Target::Ip(address) => Address::SocketAddress(*address),
            Target::Name(name, port) => Address::DomainNameAddress(name.clone(), *port),
        };
        let mut control = UdpSocketControlData::default();
        control.client_session_id = self.session;
        control.packet_id = self.packets.fetch_add(1, Ordering::Relaxed);
        self.socket.send_with_ctrl(&address, &control, payload).await?;
        Ok(())
    }

    /// The next datagram and where it comes from; what is not the node's is skipped.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        let mut buffer = SPARE.take();
        buffer.resize(PACKET_MAX, 0);
        let received = self.poll_genuine(cx, &mut buffer);
        SPARE.set(buffer);
        received
    }

    fn poll_genuine(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Datagram>> {
        loop {
            let mut space = ReadBuf::new(buffer);
            let (len, peer, control) = match ready!(self.socket.poll_recv_with_ctrl(cx, &mut space)) {
                Ok((len, peer, _, control)) => (len, peer, control),
                Err(ProxySocketError::IoError(error)) => return Poll::Ready(Err(error)),
                Err(error) => {
                    tracing::debug!(%error, "a datagram that is not the node's");
                    continue;
                }
            };
            if control.is_some_and(|control| control.client_session_id != self.session) {
                continue;
            }
            let peer = match peer {
                Address::SocketAddress(address) => Target::Ip(address),
                Address::DomainNameAddress(name, port) => Target::Name(name, port),
            };
            let payload = Bytes::copy_from_slice(space.filled().get(..len).unwrap_or_default());
            return Poll::Ready(Ok(Datagram { peer, payload }));
        }
    }
}
