//! Mistakes of new users end with one line that names them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::database::{self, BOTH, Kind};
use crate::support::environment::{Env, env, with, without};
use crate::support::process::run;

async fn fails(args: &[&str], env: &Env, code: i32, expected: &str) {
    let (actual, stdout, stderr) = run(args, env).await;
    assert_eq!(actual, Some(code), "{stderr}");
    assert_eq!(stdout, "");
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains(expected), "{stderr}");
}

fn control(url: &str) -> Env {
    env(&[
        ("DATABASE__URL", url),
        ("CONTROL__LISTEN", "127.0.0.1:0"),
        ("CONTROL__SIGNING_KEY", &BASE64_STANDARD.encode([1; 32])),
        ("CONTROL__ENCRYPTION_KEY", &BASE64_STANDARD.encode([2; 32])),
        ("OPS__CONTROL_LISTEN", "127.0.0.1:0"),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_names_missing_settings() {
    let folder = tempfile::tempdir().unwrap();
    for kind in BOTH {
        let url = database::fresh(kind, folder.path()).await;
        let env = control(&url);
        fails(&["migrate"], &without(&env, "DATABASE__URL"), 2, "error: database.url: must be set").await;
        fails(&["serve-control"], &without(&env, "DATABASE__URL"), 2, "error: database.url: must be set").await;
        fails(&["serve-control"], &without(&env, "CONTROL__SIGNING_KEY"), 2, "control.signing_key: must be set").await;
        fails(&["serve-control"], &without(&env, "CONTROL__ENCRYPTION_KEY"), 2, "control.encryption_key: must be")
            .await;
        let short = with(&env, "CONTROL__SIGNING_KEY", "AAAA");
        fails(&["serve-control"], &short, 2, "control.signing_key: must be 32 bytes in base64").await;
        fails(&["serve-control"], &short, 2, "(HTTVPS_CONTROL__SIGNING_KEY)").await;
        fails(
            &["serve-control"],
            &env,
            3,
            "the schema lacks 2026-11-22-000000_initial, 2026-11-23-000000_subscriber, \
             2026-11-27-000000_sessions_by_device",
        )
        .await;
    }
    let typo = control("postgres://httvps@127.0.0.1/httvps?sslmode=maybe");
    fails(&["migrate"], &typo, 2, "database.url: not a PostgreSQL URL").await;
    let ca = with(&control("postgres://httvps@127.0.0.1/httvps"), "DATABASE__CA", "/nonexistent.pem");
    fails(&["migrate"], &ca, 2, "database.ca: /nonexistent.pem: No such file").await;
    let loud = with(&control("sqlite://x.db"), "LOG__LEVEL", "verbose");
    fails(&["serve-control"], &loud, 2, "log.level: \"verbose\" is no level").await;
    let mysql = control("mysql://localhost");
    fails(&["migrate"], &mysql, 2, "database.url: must begin with postgres:// or sqlite://").await;
    let (code, _, stderr) = run(&["migrate"], &control("postgres://nobody@127.0.0.1:1/none")).await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: database: ") && !stderr.contains("nobody"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_ports() {
    let folder = tempfile::tempdir().unwrap();
    let url = database::fresh(Kind::Sqlite, folder.path()).await;
    let env = control(&url);
    assert_eq!(run(&["migrate"], &env).await.0, Some(0));
    let file = folder.path().join("bad.toml");
    let path = file.to_str().unwrap();
    let serve = ["serve-control", "--config", path];
    std::fs::write(&file, "[control]\nlisten = = 1\n").unwrap();
    fails(&serve, &env, 2, &format!("({path}:2)")).await;
    std::fs::write(&file, "[control]\n\nlisen = \"x\"\n").unwrap();
    fails(&serve, &env, 2, &format!("control.lisen: unknown key ({path}:3)")).await;
    std::fs::write(&file, "[control]\nreport_batch_max = \"many\"\n").unwrap();
    fails(&serve, &env, 2, "control.report_batch_max: ").await;
    std::fs::write(&file, "[control]\nreport_batch_max = 0\n").unwrap();
    fails(&serve, &env, 2, &format!("control.report_batch_max: must be 1 to 1000 ({path}:2)")).await;
    fails(&["serve-control", "--config", "/nonexistent.toml"], &env, 2, "(/nonexistent.toml)").await;
    let secret = with(&env, "CONTROL__SIGNING_KEY", "file:/nonexistent");
    fails(&["serve-control"], &secret, 2, "control.signing_key: /nonexistent: No such file").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = with(&env, "CONTROL__LISTEN", &address);
    fails(&["serve-control"], &busy, 2, &format!("control.listen: cannot listen on {address}")).await;
    let busy = with(&env, "OPS__CONTROL_LISTEN", &address);
    fails(&["serve-control"], &busy, 2, &format!("ops.control_listen: cannot listen on {address}")).await;
    fails(&["migrate"], &with(&env, "DATABASE__ULR", "x"), 2, "database.ulr: unknown key (HTTVPS_DATABASE__ULR)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_names_missing_settings() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let env = env(&[
        ("GATEWAY__LISTEN", "127.0.0.1:0"),
        ("GATEWAY__CONTROL_URL", "http://127.0.0.1:9"),
        ("GATEWAY__TOKEN", "t"),
        ("GATEWAY__STATE_DIR", state.to_str().unwrap()),
        ("TUNNEL__PATH", "/p"),
        ("TLS__SELF_SIGNED", "true"),
        ("OPS__GATEWAY_LISTEN", ""),
    ]);
    let serve = ["serve-gateway"];
    fails(&serve, &without(&env, "GATEWAY__CONTROL_URL"), 2, "gateway.control_url: must be set").await;
    fails(&serve, &without(&env, "GATEWAY__TOKEN"), 2, "gateway.token: must be set").await;
    fails(&serve, &without(&env, "TUNNEL__PATH"), 2, "tunnel.path: must be set").await;
    fails(&serve, &without(&env, "TLS__SELF_SIGNED"), 2, "tls.cert: must be set").await;
    let clear = with(&env, "GATEWAY__CONTROL_URL", "http://control.example");
    fails(&serve, &clear, 2, "gateway.control_url: http:// would send tokens in clear text").await;
    let cert = without(&env, "TLS__SELF_SIGNED");
    let cert = with(&with(&cert, "TLS__CERT", "/nonexistent.pem"), "TLS__KEY", "/nonexistent.pem");
    fails(&serve, &cert, 2, "tls.cert: /nonexistent.pem: No such file").await;
    let held = crate::support::process::Process::start(&serve, &env).await;
    fails(&serve, &with(&env, "GATEWAY__TOKEN", "u"), 2, "is in use by another gateway, process ").await;
    assert_eq!(held.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line() {
    let (code, stdout, _) = run(&["--help"], &Env::new()).await;
    assert_eq!(code, Some(0));
    let at = |command: &str| stdout.find(&format!("\n  {command} ")).unwrap_or_else(|| panic!("no {command}"));
    let order = ["serve-control", "serve-gateway", "migrate", "demo", "connect", "admin", "healthcheck"].map(at);
    assert!(order.is_sorted(), "{stdout}");
    assert_eq!(run(&["serve-nothing"], &Env::new()).await.0, Some(2));
    fails(
        &["admin", "pans", "list"],
        &Env::new(),
        2,
        "unrecognized subcommand 'pans'; a similar subcommand exists: 'plans'",
    )
    .await;
    fails(&["admin", "plans", "list"], &Env::new(), 2, "admin.key: must be set").await;
    let key = env(&[("ADMIN__KEY", "k")]);
    fails(&["admin", "users", "delete", "../regions/x"], &key, 2, "'../regions/x' for '<ID>': not an ID").await;
    fails(&["connect"], &Env::new(), 2, "client.gateway: must be set").await;
    let (code, stdout, _) = run(&["serve-control", "--check"], &control("sqlite://hush.db")).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("[control]") && stdout.contains("url = \"<redacted>\"") && !stdout.contains("hush"));
    let shared = with(&control("sqlite://x.db"), "ADMIN__URL", "http://control.example");
    for role in ["serve-control", "serve-gateway", "connect"] {
        let (code, _, stderr) = run(&[role, "--check"], &shared).await;
        assert_eq!(code, Some(0), "{role} sends no administrator's key: {stderr}");
    }
    let (code, stdout, _) = run(&["admin", "keygen"], &Env::new()).await;
    assert_eq!(code, Some(0));
    let keys: Env =
        stdout.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect();
    let (code, checked, _) = run(&["serve-control", "--check"], &keys).await;
    assert_eq!(code, Some(0));
    assert!(checked.contains("path = \"/") && keys.len() == 4);
}
