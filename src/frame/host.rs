use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::TargetError;

const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// What a destination's host means once it is read as resolvers read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// An address, in whatever spelling.
    Ip(IpAddr),
    /// A host name without a last dot: labels of letters, digits, hyphens and underscores (RFC 1123, RFC 2181).
    Name(&'a str),
}

impl<'a> Host<'a> {
    /// Reads a host: IPv6 with or without brackets and zone, IPv4 as `inet_aton` does, or a name (docs/03).
    pub fn parse(text: &'a str) -> Result<Self, TargetError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address(inner).map(Self::Ip).ok_or(TargetError::Name);
        }
        if let Some(ip) = address(text) {
            return Ok(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_numeric(last) {
            return ipv4(name).map(|ip| Self::Ip(ip.into())).ok_or(TargetError::Name);
        }
        if is_name(name) { Ok(Self::Name(name)) } else { Err(TargetError::Name) }
    }
}

/// An address; the zone of an IPv6 one means nothing elsewhere and is left out.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let (ip, zone) = text.split_once('%')?;
    if zone.is_empty() { None } else { ip.parse::<Ipv6Addr>().ok().map(IpAddr::from) }
}

/// Whether a text has the form of a host name without a last dot: labels of letters, digits, hyphens and underscores.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

/// As `is_name`, where no label begins or ends with a hyphen (RFC 1123).
pub fn is_strict_name(text: &str) -> bool {
    is_name(text) && text.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-'))
}

fn is_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(fits)
}

/// Whether resolvers may read a last label as part of an IPv4 address.
fn is_numeric(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// One to four numbers, decimal, octal or hexadecimal, the last of which fills what the others leave.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers = text.split('.').map(number).collect::<Option<Vec<_>>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let mut ip = 0u32;
    for number in first {
        ip = ip << 8 | u32::from(u8::try_from(*number).ok()?);
    }
    let left = 32u32.saturating_sub(8u32.saturating_mul(u32::try_from(first.len()).ok()?));
    let last = u32::try_from(*last).ok()?;
    if left < 32 && last >> left != 0 {
        return None;
    }
    Some(Ipv4Addr::from(ip.checked_shl(left).unwrap_or(0) | last))
}

fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match (hex, text.strip_prefix('0')) {
        _ if text.starts_with('+') => None,
        (Some(""), _) => Some(0),
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        (None, _) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_in_every_spelling() {
        for (text, ip) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("127.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("0X7F.0x1", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("0x", "0.0.0.0"),
            ("4294967295", "255.255.255.255"),
            ("1.65536", "1.1.0.0"),
            ("[127.0.0.1]", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("::1%lo", "::1"),
            ("[fe80::1%25eth0]", "fe80::1"),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
            ("[::FFFF:7f00:1]", "::ffff:127.0.0.1"),
            ("64:ff9b::127.0.0.1", "64:ff9b::7f00:1"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host::Ip(ip.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn names_and_what_is_none() {
        for name in
            ["example.com", "EXAMPLE", "a_b.example", "xn--bcher-kva.example", "1.example", "0x7f.example", "-a"]
        {
            assert_eq!(Host::parse(name), Ok(Host::Name(name)), "{name}");
        }
        assert_eq!(Host::parse("example.com."), Ok(Host::Name("example.com")));
        let long = "a".repeat(64);
        for bad in [
            "127.0.0.1\0.example.com",
            "example.com\0",
            "a b",
            "a..b",
            ".",
            "",
            "a.b..",
            "bücher.example",
            "１２７.０.０.１",
            "127。0。0。1",
            "a:b",
            "[::1",
            "[example.com]",
            "::1%",
            "127.0.0.1%lo",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.256",
            "1.16777216",
            "4294967296",
            "08.1",
            "a.1",
            "a.0x1",
            "user@example.com",
            "example.com/path",
            &long,
        ] {
            assert_eq!(Host::parse(bad), Err(TargetError::Name), "{bad:?}");
        }
    }

    #[test]
    fn a_strict_name_has_no_hyphen_at_a_labels_end() {
        for (text, is_strict) in [("a-b.example", true), ("a_b", true), ("-a", false), ("a.b-", false), ("a..b", false)]
        {
            assert_eq!(is_strict_name(text), is_strict, "{text}");
        }
        assert!(is_strict_name(&"a".repeat(63)) && !is_strict_name(&"a".repeat(64)));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Host::parse(&text).is_ok();
        }

        #[test]
        fn what_is_an_address_is_never_a_name(ip: IpAddr) {
            for text in [ip.to_string(), format!("[{ip}]")] {
                prop_assert_eq!(Host::parse(&text), Ok(Host::Ip(ip)));
            }
        }
    }
}
