//! A gateway behind balancers and proxies, with the configurations of `deploy/behind`.

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

use crate::support::deployment::World;
use crate::support::wait::PATIENCE;

/// A client's address: each is somebody else's, and none is trusted.
fn somebody(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

async fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let socket = timeout(PATIENCE, socket.connect(to)).await.expect("it connects").unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// TLS over a connection that stands already.
async fn secure(world: &World, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = httvps::net::tls::client(Some(&std::fs::read(world.ca()).unwrap())).unwrap();
    let name = "localhost".try_into().unwrap();
    timeout(PATIENCE, TlsConnector::from(tls).connect(name, socket)).await.expect("TLS succeeds or fails")
}

/// Where the gateway's listener of a name is.
fn listener(world: &World, name: &str) -> SocketAddr {
    world.gateway().line(name).rsplit_once('/').unwrap().1.parse().unwrap()
}

async fn refused(world: &World, reason: &str) -> u64 {
    world.metric(&format!("httvps_refused_total{{reason=\"{reason}\"}}")).await
}

/// Whether the other side closes without a word.
async fn is_closed(socket: &mut TcpStream) -> bool {
    let end = timeout(PATIENCE, socket.read(&mut [0; 1])).await.expect("it is closed");
    matches!(end, Ok(0) | Err(_))
}
