use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::listener;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::environment::{Env, free_port};
use crate::support::node::AEAD_2022;
use crate::support::wait::eventually;

/// A file of `deploy/behind`.
pub(super) fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/behind").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces parts of a text, each of which must be there.
pub(super) fn with(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no {from:?} in {text}");
        text.replace(from, to)
    })
}

/// The section `[behind]` of a file as variables, with the test's addresses in place of the file's.
pub(super) fn behind(name: &str, changes: &[(&str, &str)]) -> Env {
    let table: toml::Table = toml::from_str(&with(&file(name), changes)).unwrap();
    let section = table["behind"].as_table().unwrap();
    let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    section.iter().map(|(key, value)| (format!("BEHIND__{}", key.to_uppercase()), text(value))).collect()
}

/// A running nginx or `HAProxy`.
pub(super) struct Proxy {
    child: Child,
    pub(super) address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts nginx with a file of `deploy/behind` on a free port, in front of what the file calls `upstream`.
    pub(super) async fn nginx(
        deployment: &Deployment,
        name: &str,
        upstream: (&str, SocketAddr),
        more: &[(&str, &str)],
    ) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let text = with(
            &file(name),
            &[
                ("listen 443", &format!("listen 127.0.0.1:{port}")),
                ("listen [::]:443", &format!("listen [::1]:{port}")),
                (upstream.0, &upstream.1.to_string()),
            ],
        );
        let mut text = with(&text, more);
        if text.contains("ssl_certificate_key") {
            text = certified(&text, deployment);
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};", folder.path().join(name).display()))
            .concat();
        let text = text.replace("http {", &format!("http {{ {temporary}"));
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let main = format!("daemon off; user root; pid {};", folder.path().join("pid").display());
        let mut command = Command::new(program("NGINX"));
        command.arg("-e").arg("stderr").arg("-c").arg(&config).arg("-g").arg(main);
        Self::start(command, port, folder).await
    }

    /// Starts `HAProxy` with a file of `deploy/behind`.
    pub(super) async fn haproxy(deployment: &Deployment, name: &str, upstream: (&str, SocketAddr)) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let mut text =
            with(&file(name), &[(":::443 v4v6", &format!("127.0.0.1:{port}")), (upstream.0, &upstream.1.to_string())]);
        if text.contains("ssl crt") {
            let both = folder.path().join("both.pem");
            let read = |name: &str| std::fs::read_to_string(deployment.state.path().join(name)).unwrap();
            std::fs::write(&both, read("cert.pem") + &read("key.pem")).unwrap();
            text = with(&text, &[("/etc/ssl/vpn.example.com/both.pem", &both.display().to_string())]);
        }
        let config = folder.path().join("haproxy.cfg");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program("HAPROXY"));
        command.arg("-db").arg("-f").arg(&config);
        Self::start(command, port, folder).await
    }

    async fn start(mut command: Command, port: u16, folder: tempfile::TempDir) -> Self {
        let log = folder.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        let proxy = Self { child, address: ([127, 0, 0, 1], port).into(), folder };
        eventually(|| async {
            let connected = tokio::net::TcpStream::connect(proxy.address).await;
            connected.map(|_| ()).map_err(|error| format!("{error}: {}", proxy.log()))
        })
        .await;
        proxy
    }

    /// The URL for the reference client.
    pub(super) fn url(&self) -> String {
        format!("wss://localhost:{}{}", self.address.port(), crate::support::deployment::PATH)
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

fn certified(text: &str, deployment: &Deployment) -> String {
    let begins = |line: &str, word: &str| line.trim_start().starts_with(word);
    let path = |name: &str| deployment.state.path().join(name).display().to_string();
    let lines = text.lines().map(|line| match line {
        line if begins(line, "ssl_certificate ") => format!("ssl_certificate {};\n", path("cert.pem")),
        line if begins(line, "ssl_certificate_key ") => format!("ssl_certificate_key {};\n", path("key.pem")),
        line => format!("{line}\n"),
    });
    lines.collect()
}

fn program(name: &str) -> PathBuf {
    std::env::var(format!("HTTVPS_TEST_{name}")).expect("`make test` says where it is").into()
}

/// A deployment whose gateway uses the section `[behind]` of a file of `deploy/behind`, with another address.
pub(crate) async fn deployment_behind(name: &str, address: Option<&str>, more: &[(&str, &str)]) -> Deployment {
    let here = format!("127.0.0.1:{}", free_port());
    let changes: Vec<_> = address.map(|address| (address, here.as_str())).into_iter().collect();
    let section = behind(name, &changes);
    let section = section.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let all: Vec<_> = section.chain(more.iter().copied()).collect();
    Deployment::build(Kind::Sqlite, &[AEAD_2022], json!({}), &all).await
}

/// nginx as a CDN, with TLS on both sides.
pub(crate) async fn cdn(deployment: &Deployment) -> Proxy {
    let ca = deployment.ca();
    let upstream = ("origin.example.com:443", listener(deployment, "gateway"));
    let more = [("/etc/ssl/certs/ca-certificates.crt", ca.as_str()), ("origin.example.com", "localhost")];
    Proxy::nginx(deployment, "nginx-cdn.conf", upstream, &more).await
}
