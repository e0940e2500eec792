//! SOCKS5 CONNECT and UDP ASSOCIATE (RFC 1928); credentials (RFC 1929) are taken and not looked at.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::connection::Connection;
use super::{datagrams, local};
use crate::frame::Target;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CREDENTIALS: u8 = 2;
const CREDENTIALS_VERSION: u8 = 1;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_UNSUPPORTED: u8 = 7;
const ADDRESS_UNSUPPORTED: u8 = 8;
const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(super) async fn serve(mut socket: TcpStream, connection: Arc<Connection>) -> io::Result<()> {
    if !negotiate(&mut socket).await? {
        socket.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::other("no method in common"));
    }
    let command = read_command(&mut socket).await?;
    let target = match read_target(&mut socket).await? {
        Some(target) if command == CONNECT => target,
        Some(_) if command == UDP_ASSOCIATE => return associate(socket, &connection).await,
        Some(_) => return refuse(&mut socket, COMMAND_UNSUPPORTED).await,
        None => return refuse(&mut socket, ADDRESS_UNSUPPORTED).await,
    };
    match connection.tunnel().await {
        Ok(_) => {
            reply(&mut socket, SUCCEEDED, UNSPECIFIED).await?;
            local::relay(&target, socket, BytesMut::new(), &connection).await
        }
        Err(_) => refuse(&mut socket, GENERAL_FAILURE).await,
    }
}

/// Agrees on a method; false if there is none.
async fn negotiate(socket: &mut TcpStream) -> io::Result<bool> {
    let [version, count] = read(socket).await?;
    if version != VERSION {
        return Err(io::Error::other("not SOCKS5"));
    }
    let mut methods = vec![0; count.into()];
    socket.read_exact(&mut methods).await?;
    if methods.contains(&NO_AUTHENTICATION) {
        socket.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
        return Ok(true);
    }
    if !methods.contains(&CREDENTIALS) {
        return Ok(false);
    }
    socket.write_all(&[VERSION, CREDENTIALS]).await?;
    let [version] = read(socket).await?;
    if version != CREDENTIALS_VERSION {
        return Err(io::Error::other("not credentials of RFC 1929"));
    }
    skip_credentials(socket).await?;
    socket.write_all(&[CREDENTIALS_VERSION, SUCCEEDED]).await?;
    Ok(true)
}

/// The command of a request, behind credentials that nobody asked for, if a program sends them.
async fn read_command(socket: &mut TcpStream) -> io::Result<u8> {
    let mut version = socket.read_u8().await?;
    if version == CREDENTIALS_VERSION {
        skip_credentials(socket).await?;
        version = socket.read_u8().await?;
    }
    if version != VERSION {
        return Err(io::Error::other("not SOCKS5"));
    }
    let [command, _] = read(socket).await?;
    Ok(command)
}

/// User name and password, each behind its length.
async fn skip_credentials(socket: &mut TcpStream) -> io::Result<()> {
    let mut skipped = [0; u8::MAX as usize];
    for _ in 0..2 {
        let len = usize::from(socket.read_u8().await?);
        socket.read_exact(&mut skipped[..len]).await?;
    }
    Ok(())
}

/// A UDP socket beside the connection, for as long as the connection stands.
async fn associate(mut socket: TcpStream, connection: &Connection) -> io::Result<()> {
    let Ok(stream) = connection.open_udp().await else { return refuse(&mut socket, GENERAL_FAILURE).await };
    let local = UdpSocket::bind((socket.local_addr()?.ip().to_canonical(), 0)).await?;
    reply(&mut socket, SUCCEEDED, local.local_addr()?).await?;
    datagrams::relay(&stream, &local, &mut socket).await
}

async fn read<const N: usize>(socket: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Reads the target byte by byte of what its form needs; `None` for a form that is unknown.
async fn read_target(socket: &mut TcpStream) -> io::Result<Option<Target>> {
    let mut bytes = Vec::with_capacity(Target::MAX_LEN);
    loop {
        match Target::decode(&bytes) {
            Ok(Some((target, _))) => return Ok(Some(target)),
            Ok(None) => bytes.push(socket.read_u8().await?),
            Err(_) => return Ok(None),
        }
    }
}

async fn reply(socket: &mut TcpStream, code: u8, bound: SocketAddr) -> io::Result<()> {
    let mut bytes = vec![VERSION, code, 0];
    Target::Ip(bound).encode(&mut bytes);
    socket.write_all(&bytes).await
}

async fn refuse(socket: &mut TcpStream, code: u8) -> io::Result<()> {
    reply(socket, code, UNSPECIFIED).await?;
    socket.shutdown().await
}
