//! A database that is read-only, dead, hung, in conflict, locked or gone means 503 and a truthful `/readyz`, never 500.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::support::control::{ADMIN_KEY, Control, REGION, id, register_gateway};
use crate::support::database::{Kind, connect};
use crate::support::deployment::metric;
use crate::support::environment::{TO_MOUNT, skip};
use crate::support::freezable_relay::FreezableRelay;
use crate::support::gateway_api::GatewayApi;
use crate::support::postgres::{self, Cluster};
use crate::support::small_disk::Disk;
use crate::support::subscriber::Subscriber;
use crate::support::wait::eventually;

/// Three times what the documents promise.
const SOON: Duration = Duration::from_secs(6);
const RECOVERED: Duration = Duration::from_secs(30);

/// Sends a request as an administrator; the answer must be a success or 503 with `Retry-After`.
async fn ask(control: &Control, method: Method, path: &str, body: Option<Value>) -> bool {
    let url = format!("{}/api/v1/admin/{path}", control.url);
    let mut request = control.http.request(method, url).bearer_auth(ADMIN_KEY);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let (status, retry) = (response.status(), response.headers().contains_key("retry-after"));
    let text = response.text().await.unwrap();
    assert!(status.is_success() || (status == 503 && retry), "{status} {text}");
    assert!(status.is_success() || text.contains("DATABASE_UNAVAILABLE"), "{text}");
    status.is_success()
}

async fn write(control: &Control) -> bool {
    let name = uuid::Uuid::now_v7().to_string();
    ask(control, Method::POST, "plans", Some(json!({ "name": name }))).await
}

async fn read(control: &Control) -> bool {
    ask(control, Method::GET, "plans?limit=1", None).await
}

async fn ready(control: &Control) -> (StatusCode, String) {
    let ops = control.process.as_ref().unwrap().line("ops-control").to_owned();
    let since = Instant::now();
    let response = control.http.get(format!("{ops}/readyz")).send().await.unwrap();
    let answer = (response.status(), response.text().await.unwrap());
    assert!(since.elapsed() < SOON, "{:?} for {answer:?}", since.elapsed());
    answer
}

async fn becomes(control: &Control, wanted: bool, what: &str) {
    let since = Instant::now();
    eventually(|| async {
        let (written, (status, reason)) = (write(control).await, ready(control).await);
        if written == wanted && status.is_success() == wanted { Ok(()) } else { Err(format!("{written} {reason}")) }
    })
    .await;
    assert!(since.elapsed() < RECOVERED, "{what}: {:?}", since.elapsed());
    println!("{what}: {:?}", since.elapsed());
}

async fn on(cluster: &Cluster, more: &[(&str, &str)]) -> Control {
    Control::start_on(&cluster.url(), tempfile::tempdir().unwrap(), more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_primary_is_reported_and_used_again_once_writable() {
    let cluster = Cluster::start();
    let control = on(&cluster, &[]).await;
    assert!(write(&control).await && ready(&control).await.0.is_success());
    cluster.sql(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    becomes(&control, false, "read-only is told").await;
    assert!(read(&control).await, "reads are answered");
    assert!(ready(&control).await.1.contains("read-only"));
    let client = connect(&cluster.url()).await;
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    becomes(&control, true, "writable again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_when_postgresql_dies_get_503() {
    let cluster = Cluster::start();
    let control = on(&cluster, &[]).await;
    let running = watch::Sender::new(true);
    let control = std::sync::Arc::new(control);
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (control, mut running) = (control.clone(), running.subscribe());
            tokio::spawn(async move {
                while *running.borrow_and_update() {
                    let (written, read) = (write(&control).await, read(&control).await);
                    if !written && !read {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    becomes(&control, true, "under load").await;
    for _ in 0..2 {
        cluster.crash();
        becomes(&control, false, "a crash is told").await;
        cluster.resume();
        becomes(&control, true, "back after a crash").await;
    }
    running.send_replace(false);
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_found() {
    let first = Cluster::start();
    let second = Cluster::standby(&first);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port, second.port);
    let url = format!("postgres://httvps@{hosts}/postgres?sslmode=disable");
    let control = Control::start_on(&url, tempfile::tempdir().unwrap(), &[]).await;
    let plan = id(&control.create("plans", json!({ "name": "kept" })).await);
    let primary = connect(&first.url()).await;
    eventually(|| async {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()";
        let count: i64 = primary.query_one(sql, &[]).await.unwrap().get(0);
        if count == 1 { Ok(()) } else { Err("the standby lags".into()) }
    })
    .await;
    first.crash();
    becomes(&control, false, "a primary that is gone is told").await;
    second.promote();
    becomes(&control, true, "the new primary is used").await;
    assert_eq!(control.get("plans", &plan).await["name"], "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn silently_dead_connections_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let url = crate::support::database::fresh(Kind::Postgres, folder.path()).await;
    let (server, name) = url.rsplit_once('/').unwrap();
    let relay = FreezableRelay::start(server.rsplit_once('@').unwrap().1).await;
    let url = format!("postgres://httvps@127.0.0.1:{}/{name}?sslmode=disable", relay.port);
    let control = Control::start_on(&url, folder, &[("DATABASE__POOL_SIZE", "4")]).await;
    assert!(join_all((0..16).map(|_| write(&control))).await.into_iter().all(|written| written));
    relay.freeze();
    let since = Instant::now();
    while !join_all((0..8).map(|_| write(&control))).await.into_iter().all(|written| written) {}
    assert!(since.elapsed() < RECOVERED, "{:?}", since.elapsed());
    assert!(ready(&control).await.0.is_success());
    println!("silently dead connections: {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_statement_times_out_with_its_connection() {
    let more =
        [("DATABASE__STATEMENT_TIMEOUT", "0s"), ("DATABASE__ANSWER_TIMEOUT", "300ms"), ("DATABASE__POOL_SIZE", "2")];
    let control = Control::start_with(Kind::Postgres, &more).await;
    let plan = id(&control.create("plans", json!({ "name": "held" })).await);
    let client = connect(control.database()).await;
    client.batch_execute("BEGIN; LOCK TABLE plans").await.unwrap();
    for _ in 0..4 {
        assert!(!ask(&control, Method::GET, &format!("plans/{plan}"), None).await);
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(ask(&control, Method::GET, &format!("plans/{plan}"), None).await, "two connections had waited");
}

/// Closes the control plane's connections, so that new ones use the database's new settings.
async fn reconnect(client: &tokio_postgres::Client, control: &Control) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.batch_execute(sql).await.unwrap();
    eventually(|| async { if read(control).await { Ok(()) } else { Err("gone".into()) } }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlock_victims_are_retried() {
    let alone = [("DATABASE__POOL_SIZE", "1"), ("SESSIONS__SWEEP_INTERVAL", "1m")];
    let api = GatewayApi::start(Kind::Postgres, &[10], &alone).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    let session = api.begin(&subscriber).await;
    let name = api.control.database().rsplit_once('/').unwrap().1.to_owned();
    let (url, watcher) = (api.control.database().to_owned(), connect(api.control.database()).await);
    watcher.batch_execute(&format!("ALTER DATABASE {name} SET deadlock_timeout = '3s'")).await.unwrap();
    reconnect(&watcher, &api.control).await;
    let other = connect(&url).await;
    other.batch_execute("SET deadlock_timeout = '1h'; BEGIN; SELECT id FROM outline_nodes FOR UPDATE").await.unwrap();
    let mut last = GatewayApi::report(&subscriber, &session, 1, 1);
    last["ended_at"] = json!("2026-11-01T00:01:00Z");
    let crossed = async {
        eventually(|| async {
            let sql = "SELECT count(*) FROM pg_stat_activity AS waiting WHERE datname = current_database() \
                AND wait_event_type = 'Lock' AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = waiting.pid \
                AND relation = 'sessions'::regclass AND mode = 'RowShareLock' AND granted)";
            let waiting: i64 = watcher.query_one(sql, &[]).await.unwrap().get(0);
            if waiting > 0 { Ok(()) } else { Err("nobody who has locked a session waits".into()) }
        })
        .await;
        other.batch_execute("SELECT id FROM sessions FOR UPDATE; COMMIT").await.unwrap();
    };
    let (verdict, ()) = tokio::join!(api.tell(last), crossed);
    assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &Value::Null), "{verdict}");
    assert_eq!(api.control.get("sessions", &session).await["state"], "ended");
    let ops = api.control.process.as_ref().unwrap().line("ops-control").to_owned();
    assert!(metric(&api.control.http, &ops, "httvps_db_retries_total").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn serialization_failures_are_retried() {
    let api = GatewayApi::start(Kind::Postgres, &[100], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({ "traffic_limit_gb": 1 })).await;
    let name = api.control.database().rsplit_once('/').unwrap().1.to_owned();
    let client = connect(api.control.database()).await;
    let sql = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'");
    client.batch_execute(&sql).await.unwrap();
    reconnect(&client, &api.control).await;
    for _ in 0..4 {
        join_all((0..3).map(|_| api.begin(&subscriber))).await;
    }
    let ops = api.control.process.as_ref().unwrap().line("ops-control").to_owned();
    assert!(metric(&api.control.http, &ops, "httvps_db_retries_total").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_reads_during_a_foreign_write_and_writes_wait_a_bounded_time() {
    let control = Control::start(Kind::Sqlite).await;
    control.create("regions", json!({ "code": REGION })).await;
    let (_, token) = register_gateway(&control, "gw-1").await;
    let subscriber = Subscriber::create(&control, json!({})).await;
    let path = control.database().strip_prefix("sqlite://").unwrap().to_owned();
    let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\n\
        print('held',flush=True)\nsys.stdin.read()\nc.execute('ROLLBACK')\n";
    let python = std::env::var("HTTVPS_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut holder = tokio::process::Command::new(python)
        .args(["-c", script, &path])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).await.unwrap();
    let account = async || {
        let (status, _) = control.ask(Method::GET, "/api/v1/client/account", &subscriber.token, None).await;
        status.is_success()
    };
    let since = Instant::now();
    let writes = join_all((0..4).map(|_| write(&control))).await;
    assert!(writes.iter().all(|written| !written), "{writes:?}");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(read(&control).await && account().await, "reads wait for nobody");
    let (status, _) = control.ask(Method::POST, "/api/v1/gateway/heartbeat", &token, Some(&json!({}))).await;
    assert_eq!(status, 503);
    assert!(!ready(&control).await.0.is_success());
    drop(holder.stdin.take());
    holder.wait().await.unwrap();
    becomes(&control, true, "SQLite's lock is released").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_postgresql_is_reported_until_there_is_room() {
    let (cluster, folder) = (Cluster::start(), postgres::folder());
    let Some(disk) = Disk::over(folder.path(), 32) else { return skip("a full disk under PostgreSQL", TO_MOUNT) };
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", folder.path().display());
    cluster.sql(&[&tablespace, "CREATE DATABASE small TABLESPACE small"]).await;
    let url = cluster.url().replace("/postgres?", "/small?");
    let control = Control::start_on(&url, tempfile::tempdir().unwrap(), &[]).await;
    becomes(&control, true, "on a small disk").await;
    disk.fill();
    becomes(&control, false, "a full disk is told").await;
    assert!(ready(&control).await.1.contains("No space left"));
    assert!(read(&control).await, "reads are answered");
    disk.free();
    becomes(&control, true, "room again").await;
}
