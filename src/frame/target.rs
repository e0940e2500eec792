use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::BufMut;

use super::Host;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A destination in SOCKS5 form (RFC 1928, section 4: ATYP, address, port); never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Ip(SocketAddr),
    /// A host name of 1 to 255 bytes and a port.
    Name(String, u16),
}

/// Why bytes are not a target.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    #[error("unknown address type 0x{0:02x}")]
    AddressType(u8),
    #[error("not a host name")]
    Name,
    #[error("not `host:port`")]
    Text,
    #[error("target is cut short")]
    Truncated,
}

impl Target {
    /// The longest encoding in bytes.
    pub const MAX_LEN: usize = 259;

    /// Reads a target from the start of `bytes`: the target and its length, or `None` if more bytes are needed.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, TargetError> {
        let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
        let (address_len, prefix) = match kind {
            IPV4 => (4usize, 1usize),
            IPV6 => (16, 1),
            NAME => match rest.first() {
                None => return Ok(None),
                Some(0) => return Err(TargetError::Name),
                Some(&len) => (usize::from(len), 2),
            },
            other => return Err(TargetError::AddressType(other)),
        };
        let port_at: usize = address_len.saturating_add(prefix);
        let end = port_at.saturating_add(2);
        let (Some(address), Some(port)) = (bytes.get(prefix..port_at), bytes.get(port_at..end)) else {
            return Ok(None);
        };
        let port = port.iter().fold(0, |port, byte| (port << 8) | u16::from(*byte));
        let target = if kind == NAME {
            let name = std::str::from_utf8(address).map_err(|_| TargetError::Name)?;
            Self::Name(name.to_owned(), port)
        } else if let Ok(octets) = <[u8; 4]>::try_from(address) {
            Self::Ip((Ipv4Addr::from(octets), port).into())
        } else {
            let octets = <[u8; 16]>::try_from(address).map_err(|_| TargetError::Truncated)?;
            Self::Ip((Ipv6Addr::from(octets), port).into())
        };
        Ok(Some((target, end)))
    }

    /// Appends the SOCKS5 form.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Ip(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        out.put_u8(IPV4);
                        out.put_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.put_u8(IPV6);
                        out.put_slice(&ip.octets());
                    }
                }
                out.put_u16(address.port());
            }
            Self::Name(name, port) => {
                out.put_u8(NAME);
                out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
                out.put_slice(name.as_bytes().get(..255).unwrap_or(name.as_bytes()));
                out.put_u16(*port);
            }
        }
    }

    /// Length of the SOCKS5 form in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Ip(SocketAddr::V4(_)) => 7,
            Self::Ip(SocketAddr::V6(_)) => 19,
            Self::Name(name, _) => name.len().min(255).saturating_add(4),
        }
    }

    /// Reads `host:port` or `[address]:port`.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Text)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::Text);
        }
        let port = port.parse().map_err(|_| TargetError::Text)?;
        if host.starts_with('[') {
            return match Host::parse(host) {
                Ok(Host::Ip(ip)) => Ok(Self::Ip((ip, port).into())),
                Ok(Host::Name(_)) | Err(_) => Err(TargetError::Text),
            };
        }
        if host.is_empty() || host.len() > 255 || host.contains([':', '[', ']']) {
            return Err(TargetError::Text);
        }
        Ok(Self::Name(host.to_owned(), port))
    }

    /// The form that [`Target::parse`] reads.
    pub fn text(&self) -> String {
        match self {
            Self::Ip(address) => address.to_string(),
            Self::Name(name, port) => format!("{name}:{port}"),
        }
    }

    /// The destination port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_target() -> impl Strategy<Value = Target> {
        prop_oneof![
            (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| Target::Ip((ip, port).into())),
            ("[a-z0-9.-]{1,255}", any::<u16>()).prop_map(|(name, port)| Target::Name(name, port)),
        ]
    }

    proptest! {
        #[test]
        fn round_trip_and_every_prefix_asks_for_more(target in any_target()) {
            let mut bytes = Vec::new();
            target.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), target.encoded_len());
            prop_assert_eq!(Target::decode(&bytes), Ok(Some((target, bytes.len()))));
            for end in 0..bytes.len() {
                prop_assert_eq!(Target::decode(&bytes[..end]), Ok(None));
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Target::decode(&bytes).is_ok();
        }
    }

    #[test]
    fn literal_bytes() {
        let (target, len) = Target::decode(b"\x03\x0bexample.com\x01\xbbGET").unwrap().unwrap();
        assert_eq!((target, len), (Target::Name("example.com".into(), 443), 15));
        assert_eq!(Target::decode(&[2, 0]), Err(TargetError::AddressType(2)));
        assert_eq!(Target::decode(&[3, 0]), Err(TargetError::Name));
    }

    #[test]
    fn text() {
        assert_eq!(Target::parse("a.b:80"), Ok(Target::Name("a.b".into(), 80)));
        assert_eq!(Target::parse("[::1]:80"), Ok(Target::Ip("[::1]:80".parse().unwrap())));
        for text in ["a.b:80", "[::1]:80", "1.2.3.4:5"] {
            assert_eq!(Target::parse(text).unwrap().text(), text);
        }
        assert_eq!(Target::parse("[127.0.0.1]:80"), Ok(Target::Ip("127.0.0.1:80".parse().unwrap())));
        for bad in ["a", "a:", ":1", "a:+1", "a:65536", "::1:80", "[a]:80", ""] {
            assert_eq!(Target::parse(bad), Err(TargetError::Text), "{bad}");
        }
        assert_eq!(format!("{:?}", Target::Name("secret".into(), 1)), "<redacted>");
    }
}
