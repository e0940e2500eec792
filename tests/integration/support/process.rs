//! The `httvps` binary as a child process.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::wait::TIMEOUT;

const LINES_SHOWN: usize = 60;

/// A running `httvps` that has printed `ready`.
pub(crate) struct Process {
    child: Child,
    lines: HashMap<String, String>,
    log: Arc<Mutex<String>>,
    logging: tokio::task::JoinHandle<()>,
}

pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

pub(crate) fn command(args: &[&str], env: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_httvps"));
    command.args(args).env_clear().envs(env.iter().cloned()).kill_on_drop(true);
    if let Ok(level) = std::env::var("HTTVPS_TEST_LOG") {
        command.env("HTTVPS_LOG__LEVEL", level);
    }
    command.env("PATH", std::env::var("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end; returns its exit code, standard output and standard error.
pub(crate) async fn run(args: &[&str], env: &[(String, String)]) -> (Option<i32>, String, String) {
    let output = timeout(TIMEOUT, command(args, env).output()).await.expect("the command ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

impl Process {
    /// Starts a process and waits for `ready`; panics with its log if it ends.
    pub(crate) async fn start(args: &[&str], env: &[(String, String)]) -> Self {
        match Self::try_start(args, env).await {
            Ok(process) => process,
            Err(ended) => panic!("{args:?} ended with {:?}: {}", ended.code, ended.stderr),
        }
    }

    pub(crate) async fn try_start(args: &[&str], env: &[(String, String)]) -> Result<Self, Ended> {
        Self::spawned(command(args, env)).await
    }

    /// Starts with a signal ignored, and waits for `ready`.
    pub(crate) async fn start_ignoring(signal: &str, args: &[&str], env: &[(String, String)]) -> Self {
        let script = format!("trap '' {signal}; exec \"$0\" \"$@\"");
        let known = [&["-c", &script, env!("CARGO_BIN_EXE_httvps")], args].concat();
        Self::try_start_by("sh", &known, env).await.unwrap_or_else(|ended| panic!("{args:?} ended: {}", ended.stderr))
    }

    /// Starts through a program that replaces itself with `httvps`.
    pub(crate) async fn try_start_by(program: &str, args: &[&str], env: &[(String, String)]) -> Result<Self, Ended> {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(env.iter().cloned()).kill_on_drop(true);
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawned(command).await
    }

    async fn spawned(mut command: Command) -> Result<Self, Ended> {
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let log: Arc<Mutex<String>> = Arc::default();
        let text = Arc::clone(&log);
        let logging = tokio::spawn(async move {
            while let Some(line) = stderr.next_line().await.unwrap() {
                let mut text = text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = HashMap::new();
        loop {
            match timeout(TIMEOUT, stdout.next_line()).await.expect("ready in time").unwrap() {
                Some(line) if line == "ready" => break,
                Some(line) => {
                    let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
                    lines.insert(key.to_owned(), value.to_owned());
                }
                None => {
                    let code = child.wait().await.unwrap().code();
                    logging.await.unwrap();
                    let stderr = std::mem::take(&mut *log.lock().unwrap());
                    return Err(Ended { code, stderr });
                }
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = stdout.next_line().await {} });
        Ok(Self { child, lines, log, logging })
    }

    /// The value of a line that it printed.
    pub(crate) fn line(&self, key: &str) -> &str {
        self.lines.get(key).unwrap_or_else(|| panic!("no line {key}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) async fn ended(mut self) -> Ended {
        let status = timeout(TIMEOUT, self.child.wait()).await.expect("the process ends").unwrap();
        (&mut self.logging).await.unwrap();
        let stderr = std::mem::take(&mut *self.log.lock().unwrap());
        Ended { code: status.code(), stderr }
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(self) -> Ended {
        self.signal("-TERM");
        self.ended().await
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(self) {
        self.signal("-KILL");
        self.ended().await;
    }
}

impl Drop for Process {
    /// A failing test shows the last log lines of its processes.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            let first = log.lines().count().saturating_sub(LINES_SHOWN);
            log.lines().skip(first).for_each(|line| println!("{line}"));
        }
    }
}
