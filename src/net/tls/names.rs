//! Whom a certificate is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The names and addresses that a certificate is for (RFC 5280, 4.2.1.6), in lower case and in its order.
pub(super) fn names_of(certificate: &TbsCertificate) -> Vec<String> {
    let Ok(Some((_, SubjectAltName(names)))) = certificate.get::<SubjectAltName>() else { return Vec::new() };
    names.iter().filter_map(name).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no TLS client asks for mail addresses, URIs and the like")]
fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        GeneralName::IpAddress(address) => address_of(address.as_bytes()).map(|address| address.to_string()),
        _ => None,
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map(IpAddr::from)).ok()
}

/// Whether a name is among those of a certificate by a wildcard for its first label (RFC 6125, 6.4.3).
pub(super) fn is_below(names: &[String], name: &str) -> bool {
    let Some((_, parent)) = name.split_once('.') else { return false };
    names.iter().any(|known| known.strip_prefix("*.") == Some(parent))
}
