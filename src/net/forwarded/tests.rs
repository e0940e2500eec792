use hyper::header::HeaderValue;

use super::*;
use crate::config::{Behind, Source};

fn trusted() -> Networks {
    let source = Source::with([("HTTVPS_BEHIND__TRUSTED", "[\"10.0.0.0/8\", \"2001:db8:ffff::/48\"]")]);
    source.unwrap().section::<Behind>().unwrap().trusted
}

fn asked(name: &str, values: &[&str]) -> Option<String> {
    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    client(&headers, &name, &trusted()).map(|ip| ip.to_string())
}

#[test]
fn addresses_are_walked_from_the_right_over_trusted_ones() {
    for (values, expected) in [
        (&["192.0.2.1"][..], Some("192.0.2.1")),
        (&["192.0.2.66, 192.0.2.1"], Some("192.0.2.1")),
        (&["192.0.2.66, 192.0.2.1, 10.1.1.1,10.2.2.2"], Some("192.0.2.1")),
        (&["192.0.2.66", "192.0.2.1", "10.1.1.1"], Some("192.0.2.1")),
        (&["10.1.1.1, 10.2.2.2"], Some("10.1.1.1")),
        (&["::ffff:192.0.2.1, ::ffff:10.0.0.1"], Some("192.0.2.1")),
        (&["192.0.2.1:5555"], Some("192.0.2.1")),
        (&["[2001:db8::1]:5555, [2001:db8:ffff::1]"], Some("2001:db8::1")),
        (&["2001:db8::1"], Some("2001:db8::1")),
        (&["192.0.2.1, , 10.0.0.1,"], Some("192.0.2.1")),
        (&["192.0.2.1, unknown, 10.1.1.1"], Some("10.1.1.1")),
        (&["\u{fc}, \", 192.0.2.1, 10.1.1.1"], Some("192.0.2.1")),
        (&["192.0.2.1, 10.1.1.1.1"], None),
        (&["fe80::1%eth0"], None),
        (&["192.0.2.1, \"10.1.1.1"], None),
        (&[""], None),
        (&[], None),
    ] {
        assert_eq!(asked("x-forwarded-for", values).as_deref(), expected, "{values:?}");
    }
    assert_eq!(asked("cf-connecting-ip", &["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
}

#[test]
fn forwarded_is_read_as_rfc_7239_has_it() {
    for (values, expected) in [
        (&["for=192.0.2.43"][..], Some("192.0.2.43")),
        (&["For=\"[2001:db8:cafe::17]:4711\""], Some("2001:db8:cafe::17")),
        (&["for=192.0.2.60;proto=http;by=203.0.113.43"], Some("192.0.2.60")),
        (&["for=192.0.2.43, for=198.51.100.17"], Some("198.51.100.17")),
        (&["for=192.0.2.43; proto=https", "by=10.0.0.9;for=\"10.0.0.1:80\""], Some("192.0.2.43")),
        (&["for=192.0.2.43, for=unknown, for=10.0.0.1"], Some("10.0.0.1")),
        (&["for=192.0.2.43, for=_hidden"], None),
        (&["for=192.0.2.43;for=192.0.2.44"], None),
        (&["proto=https"], None),
        (&["for=\"192.0.2.66, for=192.0.2.1"], Some("192.0.2.1")),
        (&["for=\"a,b\";proto=\"c\", for=10.0.0.1"], Some("10.0.0.1")),
    ] {
        assert_eq!(asked("forwarded", values).as_deref(), expected, "{values:?}");
    }
}
