//! A gateway behind balancers and proxies, configured as in `deploy/behind`.

mod control;
mod counted;
mod headers;
mod proxy;
mod real;

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::deployment::Deployment;
use crate::support::wait::TIMEOUT;

/// The address of a client; none of them is a trusted proxy.
fn somebody(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

async fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let socket = timeout(TIMEOUT, socket.connect(to)).await.expect("it connects").unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Starts TLS on an established connection.
async fn secure(deployment: &Deployment, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = httvps::net::tls::client(Some(&std::fs::read(deployment.ca()).unwrap())).unwrap();
    let name = "localhost".try_into().unwrap();
    timeout(TIMEOUT, TlsConnector::from(tls).connect(name, socket)).await.expect("TLS succeeds or fails")
}

/// The address of one of the gateway's listeners.
fn listener(deployment: &Deployment, name: &str) -> SocketAddr {
    deployment.gateway().line(name).rsplit_once('/').unwrap().1.parse().unwrap()
}

async fn refused(deployment: &Deployment, reason: &str) -> u64 {
    deployment.metric(&format!("httvps_refused_total{{reason=\"{reason}\"}}")).await
}

/// Whether the peer closes without sending anything.
async fn is_closed(socket: &mut TcpStream) -> bool {
    let end = timeout(TIMEOUT, socket.read(&mut [0; 1])).await.expect("it is closed");
    matches!(end, Ok(0) | Err(_))
}
