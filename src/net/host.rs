//! Host names and addresses as people write them, in one spelling each.

use std::net::{IpAddr, Ipv6Addr};

use crate::frame::is_strict_name;

/// What a host must look like.
pub const EXPECTED: &str = "must be a host name or an IP address, such as node.example.com, 10.0.0.7 or 2001:db8::7, without scheme, port and blanks";

/// The one spelling of a host: an address as RFC 5952 writes it, a name in lower case without the final dot. `None` if it
/// is neither.
pub fn canonical(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical().to_string());
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical().to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    (is_strict_name(name) && !is_number).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_one_spelling() {
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("[2001:DB8::7]", "2001:db8::7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("Node.Example.COM.", "node.example.com"),
            ("ss_server", "ss_server"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_host() {
        for text in [
            "",
            ".",
            " 10.0.0.1",
            "10.0.0.1 ",
            "10.0.0.1:8388",
            "[::1]:8388",
            "[10.0.0.1]",
            "http://x",
            "https://node.example/",
            "a b",
            "a..b",
            "-a.example",
            "10.0.0",
            "127.1",
            "0x7f000001",
            "2130706433",
            "fe80::1%eth0",
            "user@host",
            "bücher.example",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
