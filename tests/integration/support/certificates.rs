//! Certificates that tests make.

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) pem: String,
}

/// A certificate for these names, in files.
pub(crate) fn pair(folder: &TempDir, file: &str, names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let pem = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    let path = |kind: &str| folder.path().join(format!("{file}.{kind}")).to_str().unwrap().to_owned();
    let (cert, key_file) = (path("cert"), path("key"));
    std::fs::write(&cert, &pem).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    Pair { cert, key: key_file, pem }
}
