use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const AS_POSTGRES: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];
const SETTINGS: [&str; 5] =
    ["listen_addresses=127.0.0.1", "fsync=on", "shared_buffers=512MB", "max_wal_size=4GB", "max_connections=100"];

/// A private server with durable commits; it stops when dropped.
pub(crate) struct Postgres {
    bin: PathBuf,
    folder: TempDir,
    pub(crate) url: String,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let bin = programs();
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap().success());
        }
        let data = folder.path().join("db");
        let initdb = as_user(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "httvps", "--auth=trust", "-E", "UTF8"])
            .status();
        assert!(initdb.unwrap().success(), "initdb failed");
        let port = free_port();
        let own = format!("-c port={port} -c unix_socket_directories={}", folder.path().display());
        let options = own + &SETTINGS.map(|setting| format!(" -c {setting}")).concat();
        let log = folder.path().join("log");
        let mut start = as_user(&bin.join("pg_ctl"));
        start.arg("-D").arg(&data).arg("-w").arg("-l").arg(&log).args(["-o", &options, "start"]);
        let started = start.status().unwrap().success();
        assert!(started, "PostgreSQL did not start: {}", std::fs::read_to_string(&log).unwrap_or_default());
        let socket = folder.path().to_string_lossy().replace('/', "%2F");
        Self { bin, folder, url: format!("postgres://httvps@{socket}:{port}/postgres?sslmode=disable") }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.path().join("db");
        let stopped =
            as_user(&self.bin.join("pg_ctl")).arg("-D").arg(data).args(["-w", "-m", "immediate", "stop"]).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("PostgreSQL was not stopped");
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// PostgreSQL refuses to run as root.
fn as_user(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new(AS_POSTGRES[0]);
        command.args(&AS_POSTGRES[1..]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The folder of the newest `initdb`.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> =
        std::env::split_paths(&path).filter(|folder| folder.join("initdb").is_file()).take(1).collect();
    if found.is_empty() {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).collect();
        found.sort();
    }
    found.pop().expect("initdb of PostgreSQL (Debian package postgresql)")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
