//! Another gateway of a deployment.

use crate::support::control::register_gateway;
use crate::support::deployment::Deployment;
use crate::support::environment::{Env, env, free_port};
use crate::support::process::Process;
use crate::support::settling::is_ready;

/// Another gateway of a deployment.
pub(crate) struct SecondGateway {
    pub(crate) id: String,
    pub(crate) env: Env,
    pub(crate) process: Option<Process>,
    state: tempfile::TempDir,
}

impl SecondGateway {
    pub(crate) async fn start(deployment: &Deployment, name: &str, more: &[(&str, &str)]) -> Self {
        let (id, token) = register_gateway(&deployment.control, name).await;
        let state = tempfile::tempdir().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let mut env = deployment.gateway_env.clone();
        env.extend(self::env(&[
            ("GATEWAY__LISTEN", &listen),
            ("GATEWAY__TOKEN", &token),
            ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
        ]));
        env.extend(self::env(more));
        let mut second_gateway = Self { id, env, process: None, state };
        second_gateway.resume(deployment).await;
        second_gateway
    }

    /// Starts the process, always at the same address.
    pub(crate) async fn resume(&mut self, deployment: &Deployment) {
        let process = Process::start(&["serve-gateway"], &self.env).await;
        is_ready(&deployment.control.http, &process).await;
        self.process = Some(process);
    }

    /// The variables of a client of this gateway.
    pub(crate) fn client_env(&self, deployment: &Deployment) -> Env {
        let url = self.process.as_ref().unwrap().line("gateway");
        let mut env = deployment.client_env("v2");
        env.extend(self::env(&[("CLIENT__GATEWAY", &format!("{url}{}", crate::support::deployment::PATH))]));
        env
    }
}
