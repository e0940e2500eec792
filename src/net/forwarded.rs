//! Whose request trusted proxies pass on, by `Forwarded` (RFC 7239) or `X-Forwarded-For` (docs/04, "Behind others").

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

use crate::config::Networks;

/// The client of a request that came from a trusted proxy: the last address in the header that is no trusted proxy's. What is
/// no address, and all before it, is nobody's word. `None` if the proxies named nobody.
pub fn client(headers: &HeaderMap, header: &HeaderName, trusted: &Networks) -> Option<IpAddr> {
    let of_element = if *header == FORWARDED { forwarded } else { plain };
    let mut named = None;
    for value in headers.get_all(header).iter().rev() {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut rest = Some(&*text);
        while let Some(list) = rest {
            let (before, element) = last(list);
            rest = before;
            if element.is_empty() {
                continue;
            }
            let Some(ip) = of_element(element) else { return named };
            named = Some(ip);
            if !trusted.contains(ip) {
                return named;
            }
        }
    }
    named
}

/// The last element of a list, and what is before it. Quotes are counted from the end, which is the trusted proxy's own.
fn last(list: &str) -> (Option<&str>, &str) {
    let mut is_quoted = false;
    for (at, byte) in list.bytes().enumerate().rev() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => return (list.get(..at), list.get(at + 1..).unwrap_or_default().trim()),
            _ => {}
        }
    }
    (None, list.trim())
}

/// An address, with or without a port; IPv6 with a port in brackets.
fn plain(text: &str) -> Option<IpAddr> {
    let ip = match text.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(inner) => IpAddr::V6(inner.parse().ok()?),
            None => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(ip.to_canonical())
}

/// The `for` parameter of an element, once: an address in quotes or without.
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    });
    let (node, another) = (nodes.next()?, nodes.next());
    let bare = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    if another.is_some() { None } else { plain(bare) }
}

#[cfg(test)]
mod tests;
