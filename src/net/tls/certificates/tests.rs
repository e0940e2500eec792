use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::clock::Clock;
use crate::config::Source;
use crate::net::tls::Identity;

fn certificate(names: &[&str]) -> Arc<Certificate> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let identity = Identity { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() };
    Certificate::of(&identity, &Source::with::<&str, &str>([]).unwrap().section().unwrap()).unwrap()
}

fn several(of: &[&[&str]]) -> (Arc<Certificates>, Metrics) {
    let metrics = Metrics::new("test");
    let mut all = of.iter().map(|names| certificate(names));
    let net = Source::with::<&str, &str>([]).unwrap().section().unwrap();
    (Certificates::new(all.next().unwrap(), all.collect(), &net, &metrics), metrics)
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let (certificates, _) = several(&[
        &["vpn.example.com", "127.0.0.1"],
        &["*.example.com", "example.com"],
        &["deep.example.com", "Other.example"],
    ]);
    let of = |name| certificates.of(name).unwrap();
    let chosen = |name| certificates.all().position(|one| Arc::ptr_eq(&one.served().unwrap().key, &of(name))).unwrap();
    assert_eq!(chosen(None), 0, "no name");
    assert_eq!(chosen(Some("vpn.example.com")), 0, "by name, before a wildcard");
    assert_eq!(chosen(Some("www.example.com")), 1, "by a wildcard");
    assert_eq!(chosen(Some("deep.example.com")), 2, "by name, behind a wildcard");
    assert_eq!(chosen(Some("other.example")), 2, "however it is written in the certificate");
    for unknown in ["a.b.example.com", "com", "evil.test", "xexample.com"] {
        assert_eq!(chosen(Some(unknown)), 0, "{unknown}");
    }
}

#[test]
fn each_is_shown_by_its_name() {
    let (certificates, metrics) = several(&[&["a.example"], &["b.example"]]);
    certificates.show(Clock::system().now());
    let text = metrics.render();
    for name in ["a.example", "b.example"] {
        assert!(text.contains(&format!("httvps_certificate_expiry_seconds{{name=\"{name}\"}} ")), "{text}");
        assert!(text.contains(&format!("httvps_certificate_unusable{{name=\"{name}\"}} 0")), "{text}");
    }
}

#[test]
fn one_that_is_awaited_is_shown_as_unusable_while_its_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, metrics) = (folder.path().join("both.pem"), Metrics::new("test"));
    let net: config::Net = Source::with::<&str, &str>([]).unwrap().section().unwrap();
    let certificate = Certificate::awaited(&path, Some("vpn.example.com".to_owned()), &net);
    let certificates = Certificates::new(Arc::clone(&certificate), Vec::new(), &net, &metrics);
    let shown = || {
        certificates.show(Clock::system().now());
        metrics.render()
    };
    assert!(shown().contains("httvps_certificate_unusable{name=\"vpn.example.com\"} 0"), "{}", shown());
    std::fs::write(&path, "nonsense").unwrap();
    certificate.look(true);
    let text = shown();
    assert!(text.contains("httvps_certificate_unusable{name=\"vpn.example.com\"} 1"), "{text}");
    assert!(!text.contains("httvps_certificate_expiry_seconds{"), "{text}");
    let nobody = Certificates::new(Certificate::none(&net), Vec::new(), &net, &Metrics::new("other"));
    nobody.show(Clock::system().now());
    assert_eq!((nobody.validity(), nobody.complaints(Clock::system().now()).len()), (None, 0));
}
