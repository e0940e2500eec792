//! Full disks under the gateway's journal and under SQLite.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::scale;
use super::site::{Site, seconds};
use crate::database::Kind;

const SIZE: &str = "size=16m";

/// A small disk over a folder, with what the folder had.
struct Disk {
    path: PathBuf,
}

fn done(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Disk {
    /// None without the right to mount.
    fn over(path: &Path) -> Option<Self> {
        let aside = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            assert!(done(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)));
        };
        copy(path, aside.path());
        if !done(Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(path)) {
            return None;
        }
        copy(aside.path(), path);
        Some(Self { path: path.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        done(Command::new("umount").arg("-l").arg(&self.path));
    }
}

/// Fills a disk under load and frees it again; nobody is to notice.
async fn filled(site: Site, disk: Disk) {
    let mut crowd = site.crowd().await;
    disk.fill();
    let full = Instant::now();
    let served = crowd.served_since(full).await;
    tokio::time::sleep(scale().phase * 2).await;
    crowd.served_since(Instant::now()).await;
    disk.free();
    crowd.served_since(Instant::now()).await;
    assert_eq!(crowd.lost(), 0, "nobody is dropped");
    let tally = crowd.leave().await;
    assert_eq!(tally.failures, 0, "{tally:?}");
    site.exact().await;
    site.ends_clean(&format!("served meanwhile within {}, slowest {}", seconds(served), seconds(tally.slowest))).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_disk_is_full() {
    let mut site = Site::build("gateway's disk full", Kind::Postgres, &[]).await;
    site.world.gateway.take().unwrap().stop().await;
    let Some(disk) = Disk::over(site.world.state.path()) else {
        return println!("drill gateway's disk full: left out, only root may mount");
    };
    site.world.start_gateway().await;
    filled(site, disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_disk_is_full() {
    let mut site = Site::build("SQLite's disk full", Kind::Sqlite, &[]).await;
    site.world.control.kill().await;
    let Some(disk) = Disk::over(site.world.control.folder.path()) else {
        return println!("drill SQLite's disk full: left out, only root may mount");
    };
    site.world.control.resume().await;
    filled(site, disk).await;
}
