//! Listening sockets.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::dial::keep_alive;
use crate::config::Net;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds `host:port`; what it accepts has keepalive. The error says which address and why.
pub async fn bind(address: &str, net: &Net) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    keep_alive(&SockRef::from(&listener), net);
    Ok(listener)
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
