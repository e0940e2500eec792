//! A gateway process takes over from another: nobody notices, and no usage is lost or billed twice.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, GREETING, pattern};
use crate::support::environment::{Env, env};
use crate::support::node::CHACHA;
use crate::support::process::{Ended, Process, run};
use crate::support::socks;
use crate::support::transfer::read_until_closed;
use crate::support::wait::{TIMEOUT, eventually};

const UPGRADES: usize = 5;
const DOWNLOAD: u64 = 40_000_000;
/// A drain longer than any test.
const LONG: (&str, &str) = ("GATEWAY__DRAIN_TIMEOUT", "120s");

/// Starts a process that takes over from the deployment's gateway; returns the old one.
async fn upgrade(deployment: &mut Deployment) -> Process {
    let old = deployment.gateway.take().unwrap();
    deployment.start_gateway().await;
    old
}

/// Opens a stream, exchanges a greeting and closes it.
async fn greet(proxy: &str, greeter: &Destination) -> Result<(), String> {
    let visit = async {
        let mut socket = socks::connect(proxy, greeter.address).await?;
        socket.write_all(b"hello").await?;
        let mut answer = vec![0; GREETING.len() + 5];
        socket.read_exact(&mut answer).await?;
        if answer == [GREETING, b"hello"].concat() { Ok(()) } else { Err(std::io::Error::other("something else")) }
    };
    timeout(TIMEOUT, visit).await.map_err(|_| "it hangs".to_owned())?.map_err(|error: std::io::Error| error.to_string())
}

/// Keeps opening streams and connections until told to stop; returns the number of streams.
async fn crowd(proxy: String, listener: String, greeter: Arc<Destination>, stop: Arc<AtomicBool>) -> u64 {
    let (mut streams, mut opened) = (JoinSet::new(), 0);
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    while !stop.load(Ordering::SeqCst) {
        pause.tick().await;
        let (proxy, greeter, listener) = (proxy.clone(), Arc::clone(&greeter), listener.clone());
        opened += 1;
        streams.spawn(async move {
            greet(&proxy, &greeter).await.unwrap_or_else(|reason| panic!("stream {opened}: {reason}"));
            TcpStream::connect(&listener).await.unwrap_or_else(|error| panic!("connection {opened}: {error}"));
        });
        while let Some(done) = streams.try_join_next() {
            done.unwrap();
        }
    }
    streams.join_all().await;
    opened
}

/// Reads a long download, slowly until told to hurry, and checks every byte.
async fn download(proxy: String, source: Arc<Destination>, hurry: Arc<AtomicBool>, got: Arc<AtomicU64>) {
    let mut socket = socks::connect(&proxy, source.address).await.unwrap();
    socket.write_all(&DOWNLOAD.to_be_bytes()).await.unwrap();
    let (mut buffer, mut at) = (vec![0; 16 * 1024], 0);
    loop {
        let read = socket.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        assert!(buffer[..read].iter().zip(at..).all(|(byte, at)| *byte == pattern(at)), "another byte behind {at}");
        at += read as u64;
        got.store(at, Ordering::SeqCst);
        if !hurry.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(at, DOWNLOAD);
}

async fn five_upgrades(transport: &str, encoding: &str) {
    let more = [LONG, ("GATEWAY__DRAIN_JITTER", "300ms"), ("GATEWAY__DRAIN_MOVE", "5s")];
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 20 }), &more).await;
    let client = deployment.connect_by(transport, encoding).await;
    let (greeter, source) = (Destination::start(Behavior::Greeter), Destination::start(Behavior::Source));
    let (greeter, source) = (Arc::new(greeter), Arc::new(source));
    let (stop, hurry, got) = (Arc::default(), Arc::default(), Arc::new(AtomicU64::new(0)));
    let proxy = client.line("socks").to_owned();
    let listener = deployment.address().to_owned();
    let downloading = tokio::spawn(download(proxy.clone(), source, Arc::clone(&hurry), Arc::clone(&got)));
    let crowding = tokio::spawn(crowd(proxy, listener, Arc::clone(&greeter), Arc::clone(&stop)));
    eventually(|| async { if got.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("no download".into()) } }).await;
    let mut old = Vec::new();
    for _ in 0..UPGRADES {
        old.push(upgrade(&mut deployment).await);
        deployment.session_count_is(1).await;
        let before = greeter.connections();
        eventually(|| async { if greeter.connections() > before + 20 { Ok(()) } else { Err("no streams".into()) } })
            .await;
    }
    assert!(got.load(Ordering::SeqCst) < DOWNLOAD, "it is still running");
    stop.store(true, Ordering::SeqCst);
    let streams = crowding.await.unwrap();
    hurry.store(true, Ordering::SeqCst);
    downloading.await.unwrap();
    for process in old {
        let Ended { code, stderr } = process.ended().await;
        assert!(code == Some(0) && stderr.contains("another process serves: draining"), "{code:?} {stderr}");
    }
    assert_eq!(client.stop().await.code, Some(0));
    assert_eq!(deployment.gateway.take().unwrap().stop().await.code, Some(0));
    assert_eq!(streams, greeter.connections() as u64);
    deployment.totals_are(8 + streams * 5, DOWNLOAD + streams * (GREETING.len() as u64 + 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_upgrades_under_load_go_unnoticed() {
    five_upgrades("ws", "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_upgrades_over_http2_go_unnoticed() {
    five_upgrades("h2", "v2").await;
}

/// Sends lines to a gateway's takeover socket and returns the last answer.
async fn converse(deployment: &Deployment, lines: &[&str]) -> String {
    let path = deployment.state.path().join("takeover.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
    let mut answer = String::new();
    for line in lines {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        answer.clear();
        timeout(TIMEOUT, stream.read_line(&mut answer)).await.unwrap().unwrap();
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_leaves_the_old_process_alone() {
    let more = [("GATEWAY__TAKEOVER_TIMEOUT", "1s")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = deployment.address();
    let both = format!("{own},{}", taken.local_addr().unwrap());
    let serves = async |after: &str| {
        greet(client.line("socks"), &greeter).await.unwrap();
        assert_eq!(deployment.readiness().await, (200, "ready\n".into()), "{after}");
        TcpStream::connect(deployment.address()).await.unwrap();
    };
    for (key, value, reason) in [
        ("TLS__CERT", "/nonexistent.pem", "tls.cert: /nonexistent.pem: No such file"),
        ("GATEWAY__LISTEN", &both, "gateway.listen: cannot listen on"),
    ] {
        let broken = [deployment.gateway_env.clone(), env(&[(key, value)])].concat();
        let (code, _, stderr) = run(&["serve-gateway"], &broken).await;
        assert!(code == Some(2) && stderr.contains(reason), "{code:?} {stderr}");
        serves(key).await;
    }
    let ask = r#"{"take_over":{"versions":[1,2]}}"#;
    let refused = converse(&deployment, &[r#"{"take_over":{"versions":[9]}}"#]).await;
    assert!(refused.contains("refused") && refused.contains("version 1"), "{refused}");
    assert!(converse(&deployment, &["nonsense"]).await.contains("refused"));
    assert!(converse(&deployment, &[ask]).await.contains("gateway.listen"));
    serves("the offer").await;
    assert_eq!(converse(&deployment, &[ask, "\"state\""]).await, "\"released\"\n");
    serves("the state").await;
    deployment.control.update("devices", &deployment.subscriber.device, json!({ "name": "another" })).await;
    let nodes = deployment.control.list("nodes").await;
    for state in ["draining", "active"] {
        let told = deployment
            .control
            .update("nodes", &crate::support::control::id(&nodes[0]), json!({ "state": state }))
            .await;
        assert_eq!(told["delivery"]["acked"], 1, "{told}");
    }
    let stranger = [
        deployment.gateway_env.clone(),
        env(&[("GATEWAY__TOKEN", "other"), ("GATEWAY__LISTEN", "127.0.0.1:0"), ("OPS__GATEWAY_LISTEN", "")]),
    ]
    .concat();
    let (code, _, stderr) = run(&["serve-gateway"], &stranger).await;
    assert!(code == Some(2) && stderr.contains("is in use by another gateway, process "), "{code:?} {stderr}");
    deployment.gateway().signal("-STOP");
    let (code, _, stderr) = run(&["serve-gateway"], &deployment.gateway_env).await;
    deployment.gateway().signal("-CONT");
    assert!(code == Some(2) && stderr.contains("does not hand over: timed out"), "{code:?} {stderr}");
    serves("a process that was not answered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_reports_the_usage_of_a_killed_draining_process() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[LONG]).await;
    let client = deployment.connect("v2").await;
    let (greeter, source) = (Destination::start(Behavior::Greeter), Destination::start(Behavior::Source));
    greet(client.line("socks"), &greeter).await.unwrap();
    deployment.totals_are(5, GREETING.len() as u64 + 5).await;
    let _open = socks::connect(client.line("socks"), greeter.address).await.unwrap();
    eventually(|| async { if greeter.connections() == 2 { Ok(()) } else { Err("not open".into()) } }).await;
    deployment.control.kill().await;
    let mut socket = socks::connect(client.line("socks"), source.address).await.unwrap();
    socket.write_all(&2_000_000u64.to_be_bytes()).await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 2_000_000);
    let moved = 2_000_008 + GREETING.len() as u64;
    eventually(|| async {
        match (
            deployment.metric("httvps_usage_unflushed_bytes").await,
            deployment.metric("httvps_usage_unreported_bytes").await,
        ) {
            (0, unreported) if unreported == moved => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let total = moved + GREETING.len() as u64 + 5 + 5;
    let old = upgrade(&mut deployment).await;
    assert_eq!(deployment.metric("httvps_usage_unreported_bytes").await, 0, "its owner lives");
    old.kill().await;
    deployment.metric_is("httvps_usage_unreported_bytes", total).await;
    deployment.control.resume().await;
    deployment.totals_are(5 + 8, 2_000_000 + 2 * GREETING.len() as u64 + 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_the_sessions_of_a_draining_process() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[LONG]).await;
    let client = deployment.connect("v2").await;
    let endless = Destination::start(Behavior::Endless);
    let socket = socks::connect(client.line("socks"), endless.address).await.unwrap();
    let reading = tokio::spawn(read_until_closed(socket));
    eventually(|| async { if endless.gave() > 0 { Ok(()) } else { Err("nothing yet".into()) } }).await;
    let old = upgrade(&mut deployment).await;
    deployment.session_count_is(1).await;
    deployment.control.update("devices", &deployment.subscriber.device, json!({ "status": "revoked" })).await;
    let told = Instant::now();
    timeout(TIMEOUT, reading).await.unwrap().unwrap();
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert_eq!(client.ended().await.code, Some(4));
    assert_eq!(old.ended().await.code, Some(0), "nobody is left");
    let given = endless.gave();
    eventually(|| async {
        let (_, down) = deployment.totals().await;
        if down > 0 && down <= given { Ok(()) } else { Err(format!("{down} of {given}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_gateway_serves_new_clients_until_its_drain_ends() {
    let more = [("GATEWAY__DRAIN_TIMEOUT", "8s"), ("GATEWAY__DRAIN_JITTER", "200ms")];
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 20 }), &more).await;
    for (encoding, others) in [("v2", "v1"), ("v1", "v1-plain")] {
        let client = deployment.connect(encoding).await;
        let (greeter, endless) = (Destination::start(Behavior::Greeter), Destination::start(Behavior::Endless));
        let mut cut = socks::connect(client.line("socks"), endless.address).await.unwrap();
        let gateway = deployment.gateway.take().unwrap();
        let url = format!("{}{}", gateway.line("gateway"), crate::support::deployment::PATH);
        let ready = format!("{}/readyz", gateway.line("ops-gateway"));
        gateway.signal("-TERM");
        let told = Instant::now();
        eventually(|| async {
            let status = deployment.control.http.get(&ready).send().await.unwrap().status();
            if status == 503 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        let newcomer = Process::start(&["connect"], &deployment.client_env_of(&url, others)).await;
        while told.elapsed() < Duration::from_secs(5) {
            greet(client.line("socks"), &greeter).await.unwrap();
            greet(newcomer.line("socks"), &greeter).await.unwrap();
        }
        let mut buffer = vec![0; 64 * 1024];
        let end = loop {
            match cut.read(&mut buffer).await {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "half a stream does not look whole");
        assert_eq!(gateway.ended().await.code, Some(0));
        assert!((8..24).contains(&told.elapsed().as_secs()), "{:?}", told.elapsed());
        deployment.start_gateway().await;
        eventually(|| greet(client.line("socks"), &greeter)).await;
        for client in [client, newcomer] {
            assert_eq!(client.stop().await.code, Some(0));
        }
    }
    deployment.session_count_is(0).await;
    let told = Instant::now();
    assert_eq!(deployment.gateway.take().unwrap().stop().await.code, Some(0));
    assert!(told.elapsed() < Duration::from_secs(3), "there is nobody: {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_takes_over_from_one_that_is_shutting_down() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[LONG]).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    greet(client.line("socks"), &greeter).await.unwrap();
    deployment.gateway().signal("-TERM");
    let told = Instant::now();
    eventually(|| async {
        let (status, _) = deployment.readiness().await;
        if status == 503 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let old = upgrade(&mut deployment).await;
    assert_eq!(old.ended().await.code, Some(0));
    assert!(told.elapsed() < Duration::from_mins(1), "its clients have gone to the successor: {:?}", told.elapsed());
    greet(client.line("socks"), &greeter).await.unwrap();
    assert_eq!(client.stop().await.code, Some(0));
}

const ACTIVATED: &str = "import os, socket, sys
port, program = int(sys.argv[1]), sys.argv[2:]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', port))
listener.listen(128)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(program[0], program)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_from_a_service_manager_passes_to_a_successor() {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[]).await;
    let listener = deployment.gateway().line("gateway").to_owned();
    let port = listener.rsplit(':').next().unwrap().to_owned();
    deployment.gateway.take().unwrap().stop().await;
    let python = std::env::var("HTTVPS_TEST_PYTHON").expect("`make test` finds a Python");
    let activated = async |env: &Env| {
        let program = ["-c", ACTIVATED, &port, env!("CARGO_BIN_EXE_httvps"), "serve-gateway"];
        Process::try_start_by(&python, &program, env).await
    };
    deployment.gateway = activated(&deployment.gateway_env).await.ok();
    assert_eq!(deployment.gateway().line("gateway"), listener);
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    greet(client.line("socks"), &greeter).await.unwrap();
    let old = upgrade(&mut deployment).await;
    assert_eq!((old.ended().await.code, deployment.gateway().line("gateway")), (Some(0), listener.as_str()));
    greet(client.line("socks"), &greeter).await.unwrap();
    assert_eq!(client.stop().await.code, Some(0));
    deployment.gateway.take().unwrap().stop().await;
    let elsewhere = [deployment.gateway_env.clone(), env(&[("GATEWAY__LISTEN", "127.0.0.1:0")])].concat();
    let gateway = activated(&elsewhere).await.ok().unwrap();
    assert_ne!(gateway.line("gateway"), listener);
    assert!(TcpStream::connect(("127.0.0.1", port.parse().unwrap())).await.is_err(), "nobody wants it");
    assert!(gateway.stop().await.stderr.contains("closing an inherited socket that the configuration does not name"));
}
