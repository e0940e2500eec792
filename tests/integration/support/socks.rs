//! A SOCKS5 client.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) async fn connect(proxy: &str, target: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(target) = target else { panic!("an IPv4 destination") };
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    negotiate(proxy, &request).await
}

pub(crate) async fn connect_name(proxy: &str, name: &str, port: u16) -> io::Result<TcpStream> {
    let mut request = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    negotiate(proxy, &request).await
}

pub(crate) async fn connect_v6(proxy: &str, address: std::net::Ipv6Addr, port: u16) -> io::Result<TcpStream> {
    let mut request = vec![5, 1, 0, 4];
    request.extend(address.octets());
    request.extend(port.to_be_bytes());
    negotiate(proxy, &request).await
}

async fn negotiate(proxy: &str, request: &[u8]) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(proxy).await?;
    socket.set_nodelay(true)?;
    socket.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    socket.read_exact(&mut chosen).await?;
    assert_eq!(chosen, [5, 0]);
    socket.write_all(request).await?;
    let mut reply = [0; 10];
    socket.read_exact(&mut reply).await?;
    if reply[1] == 0 { Ok(socket) } else { Err(io::Error::other(format!("SOCKS5 reply {}", reply[1]))) }
}
