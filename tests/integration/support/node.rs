//! Shadowsocks servers: Debian's `ss-server` and the crate's.

use std::net::SocketAddr;
use std::process::Stdio;

use httvps::lifecycle::Shutdown;
use httvps::shadowsocks::{NodeKey, Server};
use tokio::process::{Child, Command};

use crate::support::environment::free_port;
use crate::support::wait::is_listening;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Software {
    /// shadowsocks-libev
    Libev(&'static str),
    /// The crate's server
    Crate(&'static str),
}

pub(crate) const CHACHA: Software = Software::Libev("chacha20-ietf-poly1305");
pub(crate) const AES: Software = Software::Libev("aes-256-gcm");
pub(crate) const AEAD_2022: Software = Software::Crate("2022-blake3-aes-256-gcm");

pub(crate) struct Node {
    pub(crate) key: NodeKey,
    child: Option<Child>,
    shutdown: Shutdown,
}

impl Node {
    pub(crate) async fn start(software: Software) -> Self {
        match software {
            Software::Libev(method) => Self::libev(method).await,
            Software::Crate(method) => Self::ours(method).await,
        }
    }

    async fn libev(method: &str) -> Self {
        let port = free_port();
        let key = NodeKey { host: "127.0.0.1".into(), port, method: method.into(), password: "correct horse".into() };
        let child = Self::ss_server(&key).await;
        Self { key, child: Some(child), shutdown: Shutdown::default() }
    }

    async fn ss_server(key: &NodeKey) -> Child {
        let port = key.port.to_string();
        let args = ["-s", &key.host, "-p", &port, "-k", &key.password, "-m", &key.method, "-t", "600", "-u"];
        let child = Command::new("ss-server")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("ss-server of Debian's shadowsocks-libev");
        let address = SocketAddr::from(([127, 0, 0, 1], key.port));
        is_listening(address).await;
        child
    }

    /// Starts Debian's server again at the same address.
    pub(crate) async fn resume(&mut self) {
        self.child = Some(Self::ss_server(&self.key).await);
    }

    /// Starts Debian's server again with another password.
    pub(crate) async fn resume_with(&mut self, password: &str) {
        password.clone_into(&mut self.key.password);
        self.resume().await;
    }

    /// Sends Debian's server a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    async fn ours(method: &str) -> Self {
        let password = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [7; 32]);
        let mut key = NodeKey { host: "127.0.0.1".into(), port: 0, method: method.into(), password };
        let server = Server::bind(&key, |_| true).await.unwrap();
        key.port = server.address().unwrap().port();
        let shutdown = Shutdown::default();
        tokio::spawn(server.serve(shutdown.clone()));
        Self { key, child: None, shutdown }
    }

    pub(crate) async fn kill(&mut self) {
        self.shutdown.abort();
        if let Some(child) = &mut self.child {
            child.kill().await.unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}
