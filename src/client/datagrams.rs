//! SOCKS5 datagrams (RFC 1928, section 7) to and from a stream of the tunnel.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::OnceLock;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use crate::frame::{Datagram, Target};
use crate::net::tunnel::TunnelStream;

const HEADER: usize = 3;
const PACKET_MAX: usize = 65_536;

/// Runs until the program closes its connection or the stream ends.
pub(super) async fn relay(stream: &TunnelStream, local: &UdpSocket, connection: &mut TcpStream) -> io::Result<()> {
    let host = connection.peer_addr()?.ip().to_canonical();
    let program = OnceLock::new();
    let up = pin!(async {
        let mut packet = vec![0; PACKET_MAX];
        loop {
            let (len, from) = local.recv_from(&mut packet).await?;
            if from.ip().to_canonical() != host || *program.get_or_init(|| from) != from {
                continue;
            }
            if let Some((peer, payload)) = packet.get(..len).and_then(parse) {
                stream.send_datagram(&peer, payload);
            }
        }
    });
    let down = pin!(async {
        while let Some(mut frame) = stream.next_datagrams().await {
            while let Ok(Some(datagram)) = Datagram::decode(&mut frame) {
                if let Some(program) = program.get() {
                    give(local, *program, &datagram).await;
                }
            }
        }
    });
    let closed = pin!(until_closed(connection));
    tokio::select! {
        ended = up => ended,
        () = down => Ok(()),
        closed = closed => closed,
    }
}

/// The destination and the payload of a packet that is no fragment.
fn parse(packet: &[u8]) -> Option<(Target, &[u8])> {
    let (&[_, _, fragment], rest) = packet.split_first_chunk::<HEADER>()?;
    if fragment != 0 {
        return None;
    }
    let (target, len) = Target::decode(rest).ok()??;
    Some((target, rest.get(len..)?))
}

async fn give(local: &UdpSocket, program: SocketAddr, datagram: &Datagram) {
    let mut packet = vec![0; HEADER];
    datagram.peer.encode(&mut packet);
    packet.extend_from_slice(&datagram.payload);
    if let Err(error) = local.send_to(&packet, program).await {
        tracing::debug!(%error, "failed to deliver a datagram to its program");
    }
}

/// What a program sends on the connection has no meaning and is skipped.
async fn until_closed(connection: &mut TcpStream) -> io::Result<()> {
    let mut skipped = [0; 64];
    while connection.read(&mut skipped).await? > 0 {}
    Ok(())
}
