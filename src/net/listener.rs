//! Listening sockets.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::dial::keep_alive;
use crate::config::{Addresses, Net};

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 1024;

/// Binds `host:port`; what it accepts has keepalive. The error says which address and why.
pub async fn bind(address: &str, net: &Net) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    keep_alive(&SockRef::from(&listener), net);
    Ok(listener)
}

/// Binds several; `[::]` takes IPv4 along unless `0.0.0.0` has the same port.
pub async fn bind_all(addresses: &Addresses, net: &Net) -> Result<Vec<TcpListener>, String> {
    let known: Vec<SocketAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let has_v4 = |port: u16| known.iter().any(|other| other.is_ipv4() && other.port() == port);
    let mut listeners = Vec::new();
    for address in addresses.iter() {
        let alone = address
            .parse()
            .ok()
            .filter(|v6: &SocketAddr| v6.is_ipv6() && v6.ip().is_unspecified() && v6.port() != 0 && has_v4(v6.port()));
        listeners.push(match alone {
            Some(v6) => bind_v6_only(v6, net).map_err(|error| format!("cannot listen on {address}: {error}"))?,
            None => bind(address, net).await?,
        });
    }
    Ok(listeners)
}

fn bind_v6_only(address: SocketAddr, net: &Net) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    keep_alive(&SockRef::from(&socket), net);
    TcpListener::from_std(socket.into())
}

/// The next connection. Errors such as too many open files are logged and waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "connection gone at accept");
                    continue;
                }
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
