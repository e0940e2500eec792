//! The PROXY protocol, versions 1 and 2: whose connection a balancer passes on (docs/04, "Behind others").

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::net::TcpStream;

/// The longest line of version 1, with its end.
const V1_MAX: usize = 107;
/// Version 2 up to its length, and the longest one that is read, with its extensions.
const V2_FIXED: usize = 16;
const V2_MAX: usize = 2048;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The client's end of its connection.
    pub client: SocketAddr,
    /// The end that the client connected to.
    pub local: SocketAddr,
}

/// Which version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("the connection ended before its first byte")]
    Nothing,
    #[error("the connection ended after {0} bytes of the header")]
    Truncated(usize),
    #[error("it begins with {0:02x?}, which is no PROXY header")]
    Foreign(Vec<u8>),
    #[error("the header is longer than {0} bytes")]
    TooLong(usize),
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes a header off a connection and not a byte more, in whatever pieces it comes. `None`: the proxy speaks for itself
/// (LOCAL, UNKNOWN), as in its health checks.
pub async fn read(socket: &TcpStream) -> Result<Option<Named>, HeaderError> {
    let mut bytes = vec![0; V2_MAX];
    let mut taken = 0;
    loop {
        let space = bytes.get_mut(taken..).filter(|space| !space.is_empty()).ok_or(HeaderError::TooLong(V2_MAX))?;
        let seen = match socket.peek(space).await? {
            0 if taken == 0 => return Err(HeaderError::Nothing),
            0 => return Err(HeaderError::Truncated(taken)),
            more => taken + more,
        };
        let (len, is_whole) = extent(bytes.get(..seen).unwrap_or_default())?;
        match socket.try_read(bytes.get_mut(taken..len).unwrap_or_default()) {
            Ok(read) => taken += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if is_whole && taken == len {
            return parse(bytes.get(..len).unwrap_or_default());
        }
    }
}

/// How many of the bytes belong to the header, and whether they are all of it.
fn extent(bytes: &[u8]) -> Result<(usize, bool), HeaderError> {
    let begins = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(byte, other)| byte == other);
    if begins(v1::PROTOCOL_PREFIX.as_bytes()) {
        let end = bytes.iter().take(V1_MAX).position(|byte| *byte == b'\n');
        return match end {
            Some(end) => Ok((end + 1, true)),
            None if bytes.len() >= V1_MAX => Err(HeaderError::TooLong(V1_MAX)),
            None => Ok((bytes.len(), false)),
        };
    }
    if !begins(v2::PROTOCOL_PREFIX) {
        return Err(HeaderError::Foreign(bytes.iter().take(4).copied().collect()));
    }
    let Some(&[high, low]) = bytes.get(V2_FIXED - 2..V2_FIXED) else { return Ok((bytes.len(), false)) };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    match bytes.len() {
        _ if len > V2_MAX => Err(HeaderError::TooLong(V2_MAX)),
        there if there < len => Ok((there, false)),
        _ => Ok((len, true)),
    }
}

fn parse(header: &[u8]) -> Result<Option<Named>, HeaderError> {
    let malformed = |error: String| HeaderError::Malformed(error.replace('\r', "\\r").replace('\n', "\\n"));
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let header = v2::Header::try_from(header).map_err(|error| malformed(error.to_string()))?;
        return match (header.command, header.protocol, header.addresses) {
            (v2::Command::Local, ..) => Ok(None),
            (v2::Command::Proxy, v2::Protocol::Datagram, _) => Err(malformed("a header of datagrams".into())),
            (_, _, v2::Addresses::IPv4(ends)) => Ok(Some(Named::of(
                (ends.source_address.into(), ends.source_port),
                (ends.destination_address.into(), ends.destination_port),
            ))),
            (_, _, v2::Addresses::IPv6(ends)) => Ok(Some(Named::of(
                (ends.source_address.into(), ends.source_port),
                (ends.destination_address.into(), ends.destination_port),
            ))),
            (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Ok(None),
        };
    }
    let header = v1::Header::try_from(header).map_err(|error| malformed(error.to_string()))?;
    match header.addresses {
        v1::Addresses::Unknown => Ok(None),
        v1::Addresses::Tcp4(ends) => Ok(Some(Named::of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        ))),
        v1::Addresses::Tcp6(ends) => Ok(Some(Named::of(
            (ends.source_address.into(), ends.source_port),
            (ends.destination_address.into(), ends.destination_port),
        ))),
    }
}

impl Named {
    fn of(client: (IpAddr, u16), local: (IpAddr, u16)) -> Self {
        let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self { client: address(client), local: address(local) }
    }

    /// The header that says this to a server, to be sent before all else. Ends of different families are written as IPv6.
    pub fn header(&self, version: Version) -> Result<Vec<u8>, HeaderError> {
        let (client, local) = (self.client.ip().to_canonical(), self.local.ip().to_canonical());
        let (client, local) = match (client, local) {
            (IpAddr::V4(client), IpAddr::V6(_)) => (IpAddr::V6(client.to_ipv6_mapped()), local),
            (IpAddr::V6(_), IpAddr::V4(local)) => (client, IpAddr::V6(local.to_ipv6_mapped())),
            same => same,
        };
        let ends = (SocketAddr::new(client, self.client.port()), SocketAddr::new(local, self.local.port()));
        match version {
            Version::V1 => Ok(v1::Addresses::from(ends).to_string().into_bytes()),
            Version::V2 => {
                let command = v2::Version::Two | v2::Command::Proxy;
                Ok(v2::Builder::with_addresses(command, v2::Protocol::Stream, ends).build()?)
            }
        }
    }
}

#[cfg(test)]
mod tests;
