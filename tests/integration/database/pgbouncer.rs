//! `PgBouncer` in front of PostgreSQL, in both of its modes.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use serde_json::json;

use crate::support::control::{Control, REGION, register_gateway};
use crate::support::database::{Kind, connect, fresh};
use crate::support::environment::{env, free_port};
use crate::support::gateway_api::GatewayApi;
use crate::support::postgres::{as_user, folder};
use crate::support::process::{Process, run};
use crate::support::subscriber::Subscriber;
use crate::support::wait::is_listening;

struct PgBouncer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl PgBouncer {
    async fn start(server: &str, mode: &str, more: &str) -> Self {
        let (host, port) = server.rsplit_once('@').unwrap().1.split_once(':').unwrap();
        let (folder, listen) = (folder(), free_port());
        let users = folder.path().join("users.txt");
        std::fs::write(&users, "\"httvps\" \"\"\n").unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\n\
             auth_type = trust\nauth_file = {}\npool_mode = {mode}\nunix_socket_dir =\n{more}\n",
            users.display()
        );
        std::fs::write(&config, text).unwrap();
        let program = PathBuf::from(std::env::var("HTTVPS_TEST_PGBOUNCER").expect("`make test` says where it is"));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = as_user(&program).arg(&config).stderr(log).spawn().unwrap();
        let bouncer = Self { child, port: listen, _folder: folder };
        is_listening(([127, 0, 0, 1], listen)).await;
        bouncer
    }

    fn url(&self, direct: &str) -> String {
        format!("postgres://httvps@127.0.0.1:{}/{}?sslmode=disable", self.port, direct.rsplit_once('/').unwrap().1)
    }
}

fn server(url: &str) -> &str {
    url.rsplit_once('/').unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn session_pooling_works_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let direct = fresh(Kind::Postgres, folder.path()).await;
    let bouncer = PgBouncer::start(server(&direct), "session", "").await;
    let control = Control::start_on(&bouncer.url(&direct), folder, &[]).await;
    control.create("regions", json!({ "code": REGION })).await;
    let key = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
    let node = control.create("nodes", key).await["id"].as_str().unwrap().to_owned();
    let (_, token) = register_gateway(&control, "gw-1").await;
    let api = GatewayApi { control, token, nodes: vec![node] };
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    let sessions = futures_util::future::join_all((0..20).map(|_| api.begin(&subscriber))).await;
    for session in &sessions {
        assert_eq!(api.tell(GatewayApi::report(&subscriber, session, 5, 5)).await["continue"], true);
    }
    assert_eq!(api.counts().await, [20]);
    let client = connect(&direct).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let listening: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(listening, 1, "it listens through the pooler");
}

/// The error that the start fails with.
async fn refused(url: &str, listen_url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let key = |byte| {
        use base64::Engine;
        base64::prelude::BASE64_STANDARD.encode([byte; 32])
    };
    let env = env(&[
        ("DATABASE__URL", url),
        ("DATABASE__LISTEN_URL", listen_url),
        ("CONTROL__LISTEN", &listen),
        ("CONTROL__SIGNING_KEY", &key(1)),
        ("CONTROL__ENCRYPTION_KEY", &key(2)),
        ("OPS__CONTROL_LISTEN", ""),
    ]);
    let ended = Process::try_start(&["serve-control"], &env).await.err().expect("it cannot start");
    drop(folder);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    ended.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_transaction_pooling_fails_the_start_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let direct = fresh(Kind::Postgres, folder.path()).await;
    let (code, _, stderr) = run(&["migrate"], &env(&[("DATABASE__URL", &direct)])).await;
    assert_eq!(code, Some(0), "{stderr}");
    let bouncer = PgBouncer::start(server(&direct), "transaction", "").await;
    let reason = refused(&bouncer.url(&direct), &direct).await;
    let line = reason.lines().last().unwrap();
    let keeps_statements = line.contains("database.listen_url");
    assert!(keeps_statements || line.contains("database.url: leads to a connection pooler"), "{reason}");
    assert!(line.contains("pool_mode") && line.starts_with("error: "), "{reason}");
    tokio::time::timeout(Duration::from_secs(30), refused(&bouncer.url(&direct), "")).await.unwrap();
}
