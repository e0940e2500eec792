//! `httvps demo` as a newcomer runs it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::deployment::metric;
use crate::support::destination::{Behavior, Destination, pattern_bytes};
use crate::support::environment::env;
use crate::support::process::Process;
use crate::support::socks;

const FREE: [&str; 5] = ["demo", "--socks", "127.0.0.1:0", "--http", "127.0.0.1:0"];

#[tokio::test(flavor = "multi_thread")]
async fn carries_traffic_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut temp = env(&[]);
    temp.push(("TMPDIR".into(), folder.path().to_string_lossy().into_owned()));
    let demo = Process::start(&[&FREE[..], &["--allow-private"]].concat(), &temp).await;
    for line in
        ["control", "gateway", "ca", "ops-control", "ops-gateway", "admin-key", "device-id", "token", "region", "http"]
    {
        assert!(!demo.line(line).is_empty(), "{line}");
    }
    let source = Destination::start(Behavior::Source);
    let mut socket = socks::connect(demo.line("socks"), source.address).await.unwrap();
    socket.write_all(&5_000_000u64.to_be_bytes()).await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert!(got == pattern_bytes(5_000_000));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let down = "httvps_bytes_total{direction=\"down\"}";
    assert_eq!(metric(&http, demo.line("ops-gateway"), down).await, 5_000_000);
    let sessions = format!("{}/api/v1/admin/sessions", demo.line("control"));
    let listed = http.get(&sessions).bearer_auth(demo.line("admin-key")).send().await.unwrap();
    assert!(listed.text().await.unwrap().contains(demo.line("device-id")));
    demo.signal("-INT");
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_private_targets_by_default_and_keeps_a_data_dir() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().to_str().unwrap().to_owned();
    let args = [&FREE[..], &["--data-dir", &kept]].concat();
    let first = Process::start(&args, &env(&[])).await;
    let greeter = Destination::start(Behavior::Greeter);
    let mut socket = socks::connect(first.line("socks"), greeter.address).await.unwrap();
    assert!(matches!(socket.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(greeter.connections(), 0);
    let (device, key) = (first.line("device-id").to_owned(), first.line("admin-key").to_owned());
    assert_eq!(first.stop().await.code, Some(0));
    let second = Process::start(&args, &env(&[])).await;
    assert_eq!((second.line("device-id"), second.line("admin-key")), (device.as_str(), key.as_str()));
    assert_eq!(second.stop().await.code, Some(0));
}
