use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::shadowsocks::net::UdpSocket as NodeUdp;
use ::shadowsocks::relay::socks5::Address;
use ::shadowsocks::relay::udprelay::options::UdpSocketControlData;
use ::shadowsocks::relay::udprelay::proxy_socket::ProxySocket;
use tokio::net::UdpSocket;

use crate::digest::fresh_number;

const PACKET_MAX: usize = 65_536;
const IDLE: Duration = Duration::from_mins(1);

pub(super) type Node = Arc<ProxySocket<NodeUdp>>;

/// Relays datagrams, a socket for each client, for as long as it is polled.
pub(super) async fn serve(node: Node, allow: fn(SocketAddr) -> bool) {
    let mut clients = HashMap::<SocketAddr, Weak<UdpSocket>>::new();
    let mut packet = vec![0; PACKET_MAX];
    let mut answering = tokio::task::JoinSet::new();
    loop {
        let (len, client, target, control) = match node.recv_from_with_ctrl(&mut packet).await {
            Ok((len, client, target, _, control)) => (len, client, target, control.unwrap_or_default()),
            Err(error) => {
                tracing::debug!(%error, "a datagram that is not a client's");
                continue;
            }
        };
        while answering.try_join_next().is_some() {}
        let known = clients.get(&client).and_then(Weak::upgrade);
        let outward = match known {
            Some(outward) => outward,
            None => match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.map(Arc::new) {
                Ok(outward) => {
                    clients.retain(|_, socket| socket.strong_count() > 0);
                    clients.insert(client, Arc::downgrade(&outward));
                    answering.spawn(answer(Arc::clone(&node), client, Arc::clone(&outward), control));
                    outward
                }
                Err(error) => {
                    tracing::warn!(%error, "no socket for datagrams");
                    continue;
                }
            },
        };
        if let Some(payload) = packet.get(..len)
            && let Err(error) = send(&outward, target, payload, allow).await
        {
            tracing::debug!(%error, "a datagram was not sent");
        }
    }
}

async fn send(outward: &UdpSocket, target: Address, payload: &[u8], allow: fn(SocketAddr) -> bool) -> io::Result<()> {
    let addresses = super::resolve(target).await?;
    let address = addresses.into_iter().find(|address| allow(*address)).ok_or(io::ErrorKind::PermissionDenied)?;
    let mapped = match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 @ SocketAddr::V6(_) => v6,
    };
    outward.send_to(payload, mapped).await.map(|_| ())
}

/// Takes answers back to a client until there are none for a while.
async fn answer(node: Node, client: SocketAddr, outward: Arc<UdpSocket>, asked: UdpSocketControlData) {
    let mut packet = vec![0; PACKET_MAX];
    let mut control = UdpSocketControlData::default();
    control.client_session_id = asked.client_session_id;
    control.server_session_id = fresh_number();
    while let Ok(Ok((len, from))) = tokio::time::timeout(IDLE, outward.recv_from(&mut packet)).await {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Some(payload) = packet.get(..len) else { continue };
        if let Err(error) = node.send_to_with_ctrl(client, &Address::SocketAddress(from), &control, payload).await {
            tracing::debug!(%error, "a datagram was not answered");
        }
        control.packet_id += 1;
    }
}
