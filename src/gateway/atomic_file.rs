//! Files of `state_dir` that nobody else may read, replaced as a whole.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file beside another that takes its place.
pub(super) struct AtomicFile {
    file: File,
    path: PathBuf,
    replaced: PathBuf,
}

impl AtomicFile {
    /// Opens it, with the folder if that is not there.
    pub(super) fn open(replaced: &Path) -> io::Result<Self> {
        if let Some(folder) = replaced.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let path = replaced.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(Self { file, path, replaced: replaced.to_owned() })
    }

    /// Writes it and puts it in place, on disk when this returns.
    pub(super) fn keep(mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.replaced)?;
        match self.replaced.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}
