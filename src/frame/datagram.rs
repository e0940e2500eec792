use bytes::{Buf, BufMut, Bytes};

use super::{DecodeError, Target, TargetError};

/// One record of a UDP stream: `length u16 (of the datagram), address in SOCKS5 form, datagram` (docs/03, "UDP").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where it goes or comes from.
    pub peer: Target,
    /// What it carries.
    pub payload: Bytes,
}

const LENGTH: usize = 2;

impl Datagram {
    /// Most bytes of a datagram: a v2 frame holds it with a length and the longest address.
    pub const MAX_PAYLOAD: usize = super::binary::MAX_DATA - LENGTH - Target::MAX_LEN;

    /// Takes the next record off a payload; `None` at its end. A record that is cut short is an error.
    pub fn decode(bytes: &mut Bytes) -> Result<Option<Self>, DecodeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let len = usize::from(bytes.try_get_u16().map_err(|_| DecodeError::Truncated)?);
        let (peer, peer_len) = Target::decode(bytes)?.ok_or(TargetError::Truncated)?;
        bytes.advance(peer_len);
        if bytes.len() < len {
            return Err(DecodeError::Truncated);
        }
        Ok(Some(Self { peer, payload: bytes.split_to(len) }))
    }

    /// Appends a record with a payload of at most [`Datagram::MAX_PAYLOAD`] bytes.
    pub fn encode(peer: &Target, payload: &[u8], out: &mut impl BufMut) {
        out.put_u16(u16::try_from(payload.len()).unwrap_or(u16::MAX));
        peer.encode(out);
        out.put_slice(payload);
    }

    /// Bytes of a record.
    pub fn encoded_len(peer: &Target, payload: usize) -> usize {
        payload.saturating_add(peer.encoded_len()).saturating_add(LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes_both_ways() {
        let peer = Target::Ip("8.8.8.8:53".parse().unwrap());
        let mut out = Vec::new();
        Datagram::encode(&peer, b"hi", &mut out);
        assert_eq!(out, b"\x00\x02\x01\x08\x08\x08\x08\x00\x35hi");
        assert_eq!(out.len(), Datagram::encoded_len(&peer, 2));
        out.extend_from_slice(b"\x00\x00\x03\x01a\x00\x01");
        let mut bytes = Bytes::from(out);
        let first = Datagram { peer, payload: Bytes::from_static(b"hi") };
        assert_eq!(Datagram::decode(&mut bytes), Ok(Some(first)));
        let second = Datagram { peer: Target::Name("a".into(), 1), payload: Bytes::new() };
        assert_eq!(Datagram::decode(&mut bytes), Ok(Some(second)));
        assert_eq!(Datagram::decode(&mut bytes), Ok(None));
    }

    #[test]
    fn cut_short() {
        for bytes in [&b"\x00"[..], b"\x00\x02", b"\x00\x02\x01\x08\x08\x08\x08\x00\x35h", b"\x00\x00\x03\x05a"] {
            assert!(Datagram::decode(&mut Bytes::from_static(bytes)).is_err(), "{bytes:02x?}");
        }
    }
}
