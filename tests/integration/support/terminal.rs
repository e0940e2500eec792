//! A terminal for commands.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::environment::Env;
use crate::support::wait::TIMEOUT;

/// Runs a command on a terminal of its own, on which an answer is typed; returns its exit code and what was shown.
pub(crate) async fn on_a_terminal(command: &str, answer: &str, env: &Env) -> (Option<i32>, String) {
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_httvps"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).envs(env.iter().cloned()).kill_on_drop(true);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).await.unwrap();
    let output = timeout(TIMEOUT, child.wait_with_output()).await.expect("the command ends").unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}
