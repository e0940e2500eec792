//! HTTP/2 on the tunnel port: who gets a tunnel, who gets the web site, and how connections end.

use std::time::{Duration, Instant};

use httvps::frame::{Encoding, SessionCode};
use httvps::mux::Event;
use httvps::net::http2::MEDIA_TYPE;
use hyper::StatusCode;
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::support::configuration::KEYS;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::destination::{Behavior, Destination};
use crate::support::exact_transfer::exact_by;
use crate::support::http2_peer::{Peer, request, websocket};
use crate::support::in_process::fetch;
use crate::support::node::{AEAD_2022, CHACHA};
use crate::support::transfer::echo;
use crate::support::wait::{TIMEOUT, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn plain_http2_is_exact() {
    exact_by(Kind::Postgres, AEAD_2022, "h2", "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_over_http2_is_exact() {
    exact_by(Kind::Sqlite, AEAD_2022, "h2ws", "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_over_http2_is_exact() {
    exact_by(Kind::Sqlite, CHACHA, "h2ws", "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_tunnels_are_answered_as_over_http1() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let peer = Peer::dial(&deployment).await;
    assert!(peer.takes_websockets());
    let genuine = format!("Bearer {}", deployment.subscriber.token);
    let (genuine, forged) = (("authorization", genuine.as_str()), ("authorization", "Bearer a.b.c"));
    let (ours, version) = (("content-type", MEDIA_TYPE), ("sec-websocket-version", "13"));
    let offer = ("sec-websocket-protocol", "httvps.v2");
    for request in [
        request("GET", "/", &[]),
        request("GET", PATH, &[genuine]),
        request("POST", PATH, &[ours]),
        request("POST", PATH, &[ours, forged]),
        request("POST", PATH, &[genuine]),
        request("POST", PATH, &[("content-type", "application/grpc"), genuine]),
        request("PUT", PATH, &[ours, genuine]),
        request("POST", &format!("{PATH}/"), &[ours, genuine]),
        request("POST", "/elsewhere", &[ours, genuine]),
        websocket("websocket", &[offer]),
        websocket("websocket", &[version, ("sec-websocket-protocol", "chat")]),
        websocket("websocket", &[version, offer, forged]),
        websocket("connect-udp", &[version, offer]),
    ] {
        let text = format!("{request:?}");
        let answer = peer.ask(request, b"").await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{text}");
    }
    let (_, keys) = deployment.control.ask(Method::GET, KEYS, "", None).await;
    let got = peer.ask(request("GET", &format!("{PATH}{KEYS}"), &[genuine]), b"").await.unwrap();
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&got.body).unwrap(), keys);
    let body = vec![b'x'; 20_000];
    let large = peer.ask(request("POST", &format!("{PATH}/api/v1/auth/enroll"), &[]), &body).await.unwrap();
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((deployment.tunnels_by("h2").await, deployment.tunnels_by("h2ws").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_token_is_also_required_over_http2() {
    let more = [("TUNNEL__REQUIRE_BEARER", "true")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let peer = Peer::dial(&deployment).await;
    let headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "httvps.v2")];
    let answer = peer.ask(websocket("websocket", &headers), b"").await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let offered = format!("httvps.v2, httvps.token.{}", deployment.subscriber.token);
    let headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", offered.as_str())];
    let channel = peer.channel(websocket("websocket", &headers), Some("httvps.v2")).await;
    eventually(|| async { if deployment.tunnels_by("h2ws").await == 1 { Ok(()) } else { Err("no tunnel".into()) } })
        .await;
    drop(channel);
}

async fn output(program: &str, args: &[&str]) -> String {
    let command = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, command).await.expect("it ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_nghttp_use_the_portal_and_see_the_site() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let (_, keys) = deployment.control.ask(Method::GET, KEYS, "", None).await;
    let base = deployment.gateway().line("gateway").replace("wss://", "https://").replace("127.0.0.1", "localhost");
    let (ca, url, token) = (
        deployment.ca(),
        format!("{base}{PATH}{KEYS}"),
        format!("Authorization: Bearer {}", deployment.subscriber.token),
    );
    let curl = ["--http2", "--silent", "--show-error", "--cacert", &ca];
    let text =
        output("curl", &[&curl[..], &["-w", "\n%{http_version} %{http_code}", "-H", &token, &url]].concat()).await;
    let (body, end) = text.rsplit_once('\n').unwrap();
    assert_eq!((end, serde_json::from_str::<serde_json::Value>(body).unwrap()), ("2 200", keys));
    let site = [
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code}\n",
        &format!("{base}/"),
        &format!("{base}/index.html"),
    ];
    assert_eq!(output("curl", &[&curl[..], &site].concat()).await, "2 404\n2 404\n");
    let seen = output("nghttp", &["--no-verify-peer", "-nv", &format!("{base}/"), &format!("{base}/two"), &url]).await;
    for told in ["SETTINGS_ENABLE_CONNECT_PROTOCOL(0x08):1", ":status: 404"] {
        assert!(seen.contains(told), "{told}: {seen}");
    }
    assert_eq!(seen.matches(":status: 404").count(), 3, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_ends_its_tunnel_and_not_its_neighbours() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 5 }), &[]).await;
    let peer = Peer::dial(&deployment).await;
    let doomed = peer.plain(&deployment).await;
    let sessions = deployment.control.list("sessions").await;
    let other = peer.websocket(&deployment, Encoding::V2).await;
    let id = sessions[0]["id"].as_str().unwrap();
    deployment.control.admin(Method::DELETE, &format!("sessions/{id}"), json!(null)).await;
    let ended = tokio::time::timeout(TIMEOUT, doomed.next_event()).await.unwrap();
    assert!(matches!(ended, Some(Event::Ended { code: SessionCode::SessionKilled, .. })), "{ended:?}");
    let source = Destination::start(Behavior::Source);
    assert_eq!(fetch(&other, source.address, 1_000_000).await, (1_000_000, Ok(())));
    assert!(!peer.connection.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_closes_connections_gracefully() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    for transport in ["h2", "h2ws"] {
        let client = deployment.connect_by(transport, "v2").await;
        let echoing = Destination::start(Behavior::Echo);
        echo(client.line("socks"), echoing.address, 100_000).await;
        let silent = Peer::dial(&deployment).await;
        let busy = Peer::dial(&deployment).await;
        let tunnel = busy.plain(&deployment).await;
        let gateway = deployment.gateway.take().unwrap();
        let started = Instant::now();
        let ended = gateway.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        let told = tunnel.next_event().await;
        assert!(matches!(told, Some(Event::GoingAway { .. })), "{told:?}");
        for peer in [silent, busy] {
            let closed = tokio::time::timeout(TIMEOUT, peer.connection).await.unwrap().unwrap();
            assert!(closed.is_ok(), "{closed:?}");
        }
        deployment.start_gateway().await;
        echo(client.line("socks"), echoing.address, 100_000).await;
        assert_eq!(client.stop().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_streams_ends() {
    let more = [("HTTP2__IDLE_TIMEOUT", "1s"), ("TUNNEL__HANDSHAKE_TIMEOUT", "2s")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let (silent, asking, tunnelling) =
        (Peer::dial(&deployment).await, Peer::dial(&deployment).await, Peer::dial(&deployment).await);
    let _tunnel = tunnelling.plain(&deployment).await;
    let started = Instant::now();
    asking.ask(request("GET", "/", &[]), b"").await.unwrap();
    for peer in [asking, silent] {
        tokio::time::timeout(TIMEOUT, peer.connection).await.expect("it ends").unwrap().ok();
    }
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    assert!(!tunnelling.connection.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_and_tunnels_without_hello_are_limited() {
    let more = [("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "3"), ("TUNNEL__HANDSHAKE_TIMEOUT", "60s")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_sessions": 10 }), &more).await;
    let peer = Peer::dial(&deployment).await;
    let admitted = [peer.plain(&deployment).await, peer.websocket(&deployment, Encoding::V2).await];
    let headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "httvps.v2")];
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(peer.channel(websocket("websocket", &headers), None).await);
    }
    eventually(|| async { if deployment.tunnels_by("h2ws").await == 4 { Ok(()) } else { Err("not yet".into()) } })
        .await;
    let refused = peer.ask(websocket("websocket", &headers), b"").await.unwrap_err();
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    assert_eq!(deployment.metric("httvps_refused_total{reason=\"pre_hello\"}").await, 1);
    drop(waiting);
    eventually(|| async {
        match peer.ask(websocket("websocket", &headers), b"").await {
            Err(refused) if refused.reason() == Some(h2::Reason::REFUSED_STREAM) => Err("no place".into()),
            _ => Ok(()),
        }
    })
    .await;
    drop(admitted);
}
