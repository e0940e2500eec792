//! One more gateway of a deployment.

use crate::support::control::register_gateway;
use crate::support::deployment::World;
use crate::support::environment::{Env, env, free_port};
use crate::support::process::Process;
use crate::support::wait::eventually;

/// One more gateway of a world.
pub(crate) struct Branch {
    pub(crate) id: String,
    pub(crate) env: Env,
    pub(crate) process: Option<Process>,
    state: tempfile::TempDir,
}

impl Branch {
    pub(crate) async fn start(world: &World, name: &str, more: &[(&str, &str)]) -> Self {
        let (id, token) = register_gateway(&world.control, name).await;
        let state = tempfile::tempdir().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let mut env = world.gateway_env.clone();
        env.extend(self::env(&[
            ("GATEWAY__LISTEN", &listen),
            ("GATEWAY__TOKEN", &token),
            ("GATEWAY__STATE_DIR", &state.path().to_string_lossy()),
        ]));
        env.extend(self::env(more));
        let mut branch = Self { id, env, process: None, state };
        branch.resume(world).await;
        branch
    }

    /// Starts the process, again at the same address.
    pub(crate) async fn resume(&mut self, world: &World) {
        let process = Process::start(&["serve-gateway"], &self.env).await;
        let ready = format!("{}/readyz", process.line("ops-gateway"));
        eventually(|| async {
            let response = world.control.http.get(&ready).send().await.map_err(|error| error.to_string())?;
            if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap()) }
        })
        .await;
        self.process = Some(process);
    }

    /// What a client of this gateway is started with.
    pub(crate) fn client_env(&self, world: &World) -> Env {
        let url = self.process.as_ref().unwrap().line("gateway");
        let mut env = world.client_env("v2");
        env.extend(self::env(&[("CLIENT__GATEWAY", &format!("{url}{}", crate::support::deployment::PATH))]));
        env
    }
}
