//! Small disks that can be filled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk mounted over a folder, with the folder's contents.
pub(crate) struct Disk {
    path: PathBuf,
}

fn done(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Disk {
    /// `None` without the right to mount; the test must say that it is skipped.
    pub(crate) fn over(path: &Path, mib: u32) -> Option<Self> {
        let aside = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            assert!(done(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)));
        };
        copy(path, aside.path());
        if !done(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(path)) {
            return None;
        }
        copy(aside.path(), path);
        Some(Self { path: path.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        done(Command::new("umount").arg("-l").arg(&self.path));
    }
}
