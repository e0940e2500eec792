//! SOCKS5 CONNECT (RFC 1928) without authentication.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::link::Link;
use super::local;
use crate::frame::Target;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_UNSUPPORTED: u8 = 7;
const ADDRESS_UNSUPPORTED: u8 = 8;

pub(super) async fn serve(mut socket: TcpStream, link: Arc<Link>) -> io::Result<()> {
    let [version, count] = read(&mut socket).await?;
    if version != VERSION {
        return Err(io::Error::other("not SOCKS5"));
    }
    let mut methods = vec![0; count.into()];
    socket.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        socket.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::other("no method in common"));
    }
    socket.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [_, command, _] = read(&mut socket).await?;
    let target = match read_target(&mut socket).await? {
        Some(target) if command == CONNECT => target,
        Some(_) => return refuse(&mut socket, COMMAND_UNSUPPORTED).await,
        None => return refuse(&mut socket, ADDRESS_UNSUPPORTED).await,
    };
    match link.open(&target).await {
        Ok(stream) => {
            reply(&mut socket, SUCCEEDED).await?;
            local::relay(stream, socket, &link).await
        }
        Err(_) => refuse(&mut socket, GENERAL_FAILURE).await,
    }
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

async fn reply(socket: &mut TcpStream, code: u8) -> io::Result<()> {
    socket.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

async fn refuse(socket: &mut TcpStream, code: u8) -> io::Result<()> {
    reply(socket, code).await?;
    socket.shutdown().await
}
