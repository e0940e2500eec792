//! Processes survive their environment: logs that nobody reads, signals, odd variables.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::support::control::{ADMIN_KEY, Control, REGION, admin_env};
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::environment::{Env, env, free_port};
use crate::support::node::CHACHA;
use crate::support::process::{command, run};
use crate::support::wait::{TIMEOUT, eventually};

/// Starts a role with its log sent elsewhere; returns the addresses that it printed.
async fn start(args: &[&str], env: &Env, log: Stdio) -> (Child, Vec<String>) {
    let mut child = command(args, env).stderr(log).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    while let Some(line) = timeout(TIMEOUT, stdout.next_line()).await.unwrap().unwrap() {
        if line == "ready" {
            return (child, lines);
        }
        lines.push(line);
    }
    panic!("{args:?} ended: {:?}", child.wait().await);
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

async fn drains(mut child: Child) {
    signal(&child, "-TERM");
    let status = timeout(TIMEOUT, child.wait()).await.expect("SIGTERM ends it").unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

/// Logs onto a full disk, to a reader that is gone, and to one that no longer reads.
fn broken_logs() -> [(&'static str, Stdio, Option<std::io::PipeReader>); 3] {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let (reader, stalled) = std::io::pipe().unwrap();
    [
        ("no space", full.into(), None),
        ("reader gone", gone.into(), None),
        ("reader stalled", stalled.into(), Some(reader)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_log_loses_only_the_log() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.gateway.take().unwrap().stop().await;
    deployment.control.process.take().unwrap().stop().await;
    let ask = async |control: &Control, path: &str| control.ask(Method::GET, path, ADMIN_KEY, None).await.0;
    for (name, log, _reader) in broken_logs() {
        let mut env = deployment.control.env.clone();
        env.push(("HTTVPS_LOG__LEVEL".into(), "trace".into()));
        let (control, _) = start(&["serve-control"], &env, log).await;
        for _ in 0..300 {
            assert_eq!(ask(&deployment.control, "/api/v1/admin/plans").await, StatusCode::OK, "{name}");
        }
        drains(control).await;
    }
    deployment.control.resume().await;
    for (name, log, _reader) in broken_logs() {
        let mut env = deployment.gateway_env.clone();
        env.push(("HTTVPS_LOG__LEVEL".into(), "trace".into()));
        let (gateway, lines) = start(&["serve-gateway"], &env, log).await;
        let of = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        let ops = of("ops-gateway ");
        let http = deployment.control.http.clone();
        let ready = async || http.get(format!("{ops}/readyz")).send().await.unwrap().status();
        eventually(async || if ready().await.is_success() { Ok(()) } else { Err("not ready".into()) }).await;
        let mut client =
            deployment.client_env_of(&format!("{}{}", of("gateway "), crate::support::deployment::PATH), "v2");
        client.push(("HTTVPS_LOG__LEVEL".into(), "warn".into()));
        for _ in 0..20 {
            let client = crate::support::process::Process::start(&["connect"], &client).await;
            assert_eq!(client.stop().await.code, Some(0), "{name}");
        }
        assert!(ready().await.is_success(), "{name}");
        if name != "reader stalled" {
            assert!(crate::support::deployment::metric(&http, &ops, "httvps_log_lines_lost_total").await > 0, "{name}");
        }
        drains(gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_error_keeps_its_exit_code() {
    for (name, log, _reader) in broken_logs() {
        let mut child = command(&["serve-control"], &Env::new()).stderr(log).spawn().unwrap();
        let status = timeout(TIMEOUT, child.wait()).await.expect(name).unwrap();
        assert_eq!(status.code(), Some(2), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_no_role() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    for process in [deployment.control.process.as_ref().unwrap(), deployment.gateway()] {
        process.signal("-HUP");
    }
    let client = deployment.connect("v2").await;
    assert_eq!(client.stop().await.code, Some(0));
    let Deployment { mut control, gateway, .. } = deployment;
    for process in [gateway.unwrap(), control.process.take().unwrap()] {
        let ended = process.stop().await;
        assert!(ended.code == Some(0) && ended.stderr.contains("SIGHUP"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_once_without_changing_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let env = env(&[
        ("GATEWAY__LISTEN", &listen),
        ("GATEWAY__CONTROL_URL", "http://127.0.0.1:9"),
        ("GATEWAY__TOKEN", "t"),
        ("GATEWAY__STATE_DIR", folder.path().to_str().unwrap()),
        ("TUNNEL__PATH", "/p"),
        ("TLS__SELF_SIGNED", "true"),
        ("OPS__GATEWAY_LISTEN", ""),
    ]);
    let environment = |child: &Child| {
        let mut text = Vec::new();
        File::open(format!("/proc/{}/environ", child.id().unwrap())).unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let (child, _) = start(&["serve-gateway"], &env, Stdio::null()).await;
    let environment = environment(&child);
    assert!(!environment.contains("GLIBC") && !environment.contains("STARTED_AGAIN"), "it starts once: {environment}");
    drains(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_are_not_unicode() {
    let odd = || OsString::from_vec(b"\xff".to_vec());
    let with = async |name: &str| {
        let mut command = command(&["admin", "keygen"], &Env::new());
        let output = command.env(name, odd()).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(with("FOO").await, (Some(0), String::new()));
    let (code, stderr) = with("HTTVPS_MUX__STREAMS").await;
    assert_eq!((code, stderr.as_str()), (Some(2), "error: the variable is not UTF-8 (HTTVPS_MUX__STREAMS)\n"));
    let name = OsString::from_vec(b"FOO\xff".to_vec());
    let output = command(&["admin", "keygen"], &Env::new()).env(name, odd()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let mut command = command(&["serve-control", "--check"], &env(&[("CONTROL__SIGNING_KEY", "env:FOO")]));
    let output = command.env("FOO", odd()).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && stderr.contains("control.signing_key: variable FOO is not UTF-8"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn blanks_around_secrets_are_trimmed() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.gateway.take().unwrap().stop().await;
    deployment.control.process.take().unwrap().stop().await;
    let padded = |env: &mut Env, keys: &[&str]| {
        for (key, value) in env.iter_mut().filter(|(key, _)| keys.iter().any(|name| key.ends_with(name))) {
            *value = if key.ends_with("PATH") { format!("{value}\n") } else { format!(" {value} \r\n") };
        }
    };
    padded(&mut deployment.control.env, &["BOOTSTRAP_KEY", "DATABASE__URL", "SIGNING_KEY", "ENCRYPTION_KEY"]);
    padded(&mut deployment.gateway_env, &["GATEWAY__TOKEN", "TUNNEL__PATH", "CONTROL_URL"]);
    deployment.control.resume().await;
    deployment.start_gateway().await;
    let mut env = deployment.client_env("v2");
    padded(&mut env, &["CLIENT__TOKEN", "CLIENT__GATEWAY"]);
    let client = crate::support::process::Process::start(&["connect"], &env).await;
    assert_eq!(client.stop().await.code, Some(0));
    let mut admin = admin_env(&deployment.control);
    padded(&mut admin, &["ADMIN__KEY", "ADMIN__URL"]);
    let (code, _, stderr) = run(&["admin", "plans", "list"], &admin).await;
    assert_eq!(code, Some(0), "{stderr}");
    let inside = crate::support::environment::env(&[(
        "CONTROL__BOOTSTRAP_KEY",
        "an administrator's key\nof two lines, and long enough",
    )]);
    let (code, _, stderr) = run(&["serve-control", "--check"], &inside).await;
    assert!(code == Some(2) && stderr.contains("control.bootstrap_key: must not contain line ends"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_escaped_on_terminals() {
    let control = Control::start(Kind::Postgres).await;
    control.create("regions", json!({ "code": REGION })).await;
    let plan = control.create("plans", json!({ "name": "Plan" })).await;
    let id = plan["id"].as_str().unwrap();
    let name = "x\u{9b}2J\u{202e}y";
    control
        .rewrite(&format!(
            "UPDATE plans SET name = 'x' || chr(27) || ']0;t' || chr(7) || chr(10) || 'id 1' || '{name}'"
        ))
        .await;
    let admin = admin_env(&control);
    for args in [&["admin", "plans", "list"][..], &["admin", "plans", "get", id], &["admin", "plans", "list", "--json"]]
    {
        let (code, stdout, stderr) = run(args, &admin).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!stdout.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{stdout:?}");
        assert_eq!(
            stdout.lines().filter(|line| line.starts_with("id ")).count(),
            usize::from(args.contains(&"get")),
            "{stdout}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_level_shows_traffic() {
    for kind in crate::support::database::BOTH {
        let mut control = Control::start_with(kind, &[("LOG__LEVEL", "trace")]).await;
        let subscriber = crate::support::subscriber::Subscriber::create(&control, json!({})).await;
        let user = control.get("users", &subscriber.user).await;
        let identifier = user["identifier"].as_str().unwrap().to_owned();
        let ended = control.process.take().unwrap().stop().await;
        for secret in
            [identifier.as_str(), &subscriber.token, ADMIN_KEY, &httvps::digest::sha256_hex(ADMIN_KEY.as_bytes())]
        {
            assert!(!ended.stderr.contains(secret), "{kind:?} {secret}");
        }
        assert!(ended.stderr.contains("DEBUG httvps"), "its own lines are there");
        let logged = |library: &str| ended.stderr.lines().any(|line| line.contains(&format!("DEBUG {library}")));
        assert!(!logged("tokio_postgres") && !logged("hyper"), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_cannot_match_are_refused() {
    for path in
        ["/x?ed=2048", "/a b", "/путь", "/a#b", "/", "//a", "/a/../b", "/%zz", "/api/v1/client/config", "/a\"b", "a"]
    {
        let (code, _, stderr) = run(&["serve-gateway", "--check"], &env(&[("TUNNEL__PATH", path)])).await;
        assert!(code == Some(2) && stderr.contains("tunnel.path: must be /"), "{path}: {stderr}");
    }
    for path in ["/k3bR9", "/a/b.c/~d", "/a%20b", "/api", "/x;y=1,2@z"] {
        assert_eq!(run(&["serve-gateway", "--check"], &env(&[("TUNNEL__PATH", path)])).await.0, Some(0), "{path}");
    }
    let control = Control::start(Kind::Sqlite).await;
    control.create("regions", json!({ "code": REGION })).await;
    let gateway = control.create("gateways", json!({ "name": "g", "region": REGION })).await;
    for (path, status) in [("/", 422), ("/a b", 422), ("/api/v1/x", 422), ("/a?b", 422), ("/good", 201)] {
        let body = json!({ "gateway_id": gateway["id"], "host": "h.example", "path": path });
        let answer = control.ask(Method::POST, "/api/v1/admin/endpoints", ADMIN_KEY, Some(&body)).await;
        assert_eq!(answer.0.as_u16(), status, "{path}: {}", answer.1);
    }
}
