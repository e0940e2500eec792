//! PostgreSQL clusters that a test may stop, promote and make read-only, and programs that run as the same user.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::database::connect;
use crate::support::environment::{free_port, is_root};

/// A command that runs as a user who may run PostgreSQL.
pub(crate) fn as_user(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// A folder owned by that user.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if is_root() {
        assert!(Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap().success());
    }
    folder
}

pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let cluster = Self { folder: folder(), port: free_port() };
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-U", "httvps", "--auth=trust", "-E", "UTF8"]);
        cluster.resume();
        cluster
    }

    /// A standby that follows another cluster.
    pub(crate) fn standby(of: &Self) -> Self {
        let cluster = Self { folder: folder(), port: free_port() };
        let (data, source) = (cluster.data(), format!("postgres://httvps@127.0.0.1:{}/postgres", of.port));
        cluster.run("pg_basebackup", &["-D", &data, "-d", &source, "-R", "-X", "stream", "-c", "fast"]);
        cluster.resume();
        cluster
    }

    fn data(&self) -> String {
        self.folder.path().join("db").to_string_lossy().into_owned()
    }

    fn run(&self, program: &str, args: &[&str]) {
        let bin = PathBuf::from(std::env::var("HTTVPS_TEST_POSTGRES_BIN").expect("`make test` says where it is"));
        let output = as_user(&bin.join(program)).args(args).output().unwrap();
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{program}: {}{log}", String::from_utf8_lossy(&output.stderr));
    }

    fn ctl(&self, args: &[&str]) {
        let (data, log) = (self.data(), self.folder.path().join("log"));
        let mut all = vec!["-D", &data, "-w", "-s", "-l", log.to_str().unwrap()];
        all.extend(args);
        self.run("pg_ctl", &all);
    }

    pub(crate) fn resume(&self) {
        let (port, folder) = (self.port, self.folder.path().display());
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off \
             -c max_connections=100 -c wal_level=replica -c hot_standby=on"
        );
        self.ctl(&["-o", &options, "start"]);
    }

    /// Stops at once, as if the machine had failed.
    pub(crate) fn crash(&self) {
        self.ctl(&["-m", "immediate", "stop"]);
    }

    pub(crate) fn promote(&self) {
        self.ctl(&["promote"]);
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://httvps@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    pub(crate) async fn sql(&self, statements: &[&str]) {
        let client = connect(&self.url()).await;
        for statement in statements {
            client.batch_execute(statement).await.unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(bin) = std::env::var("HTTVPS_TEST_POSTGRES_BIN") {
            let data = self.data();
            let _ = as_user(&PathBuf::from(bin).join("pg_ctl"))
                .args(["-D", &data, "-m", "immediate", "-s", "stop"])
                .output();
        }
    }
}
