use std::io;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;

use crate::digest::sha256_hex;
use crate::gateway::atomic_file::AtomicFile;

/// Characters of the directory's hash in the names of its files.
const TELLING: usize = 8;

/// What is kept of one directory: the account with its key, and the certificate with its key.
pub(super) struct Files {
    account: PathBuf,
    pub(super) certificate: PathBuf,
}

impl Files {
    pub(super) fn new(state_dir: &Path, directory: &str) -> Self {
        let hash = sha256_hex(directory.as_bytes());
        let stem = format!("acme-{}", hash.get(..TELLING).unwrap_or_default());
        let path = |kind: &str| state_dir.join(format!("{stem}.{kind}"));
        Self { account: path("json"), certificate: path("pem") }
    }

    /// None if there is none, or a damaged one.
    pub(super) fn account(&self) -> io::Result<Option<AccountCredentials>> {
        let text = match std::fs::read(&self.account) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = serde_json::from_slice(&text);
        if let Err(error) = &read {
            tracing::warn!(file = %self.account.display(), %error, "the ACME account file is damaged; creating a new account");
        }
        Ok(read.ok())
    }

    pub(super) fn keep_account(&self, credentials: &AccountCredentials) -> io::Result<()> {
        AtomicFile::open(&self.account)?.keep(&serde_json::to_vec(credentials)?)
    }

    pub(super) fn forget_account(&self) -> io::Result<()> {
        std::fs::remove_file(&self.account)
    }

    /// Both in one file, so that they never part.
    pub(super) fn keep_certificate(&self, key: &str, chain: &str) -> io::Result<()> {
        AtomicFile::open(&self.certificate)?.keep([key, chain].concat().as_bytes())
    }
}
