//! Certificates made by tests.

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

pub(crate) struct CertificateFiles {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) pem: String,
}

/// Writes a self-signed certificate for these names.
pub(crate) fn write_certificate(folder: &TempDir, file: &str, names: &[&str]) -> CertificateFiles {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let pem = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    let path = |kind: &str| folder.path().join(format!("{file}.{kind}")).to_str().unwrap().to_owned();
    let (cert, key_file) = (path("cert"), path("key"));
    std::fs::write(&cert, &pem).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    CertificateFiles { cert, key: key_file, pem }
}
