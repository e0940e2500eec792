use std::time::Instant;

use serde_json::json;

use super::proxy::Proxy;
use crate::support::database::Kind;
use crate::support::delivery::{RARELY, assert_acked, followed_by, refused};
use crate::support::deployment::{World, metric};
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::transfer::streaming;
use crate::support::wait::eventually;

/// A world whose gateway reaches its control plane through nginx.
async fn fronted(more: &[(&str, &str)], nginx: &[(&str, &str)]) -> (World, Proxy) {
    let mut world = World::build(Kind::Sqlite, &[CHACHA], json!({}), more).await;
    world.gateway.take().unwrap().stop().await;
    let upstream = world.control.url.strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = Proxy::nginx(&world, "nginx-control.conf", ("127.0.0.1:8080", upstream), nginx).await;
    let url = format!("https://localhost:{}", proxy.address.port());
    world.gateway_env.retain(|(key, _)| key != "HTTVPS_GATEWAY__CONTROL_URL");
    world.gateway_env.push(("HTTVPS_GATEWAY__CONTROL_URL".into(), url));
    world.gateway_env.push(("HTTVPS_GATEWAY__CONTROL_CA".into(), world.ca()));
    world.start_gateway().await;
    (world, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_nginx_with_its_default_buffering() {
    let (mut world, _proxy) = fronted(&RARELY, &[]).await;
    followed_by(&world.control, 1).await;
    let client = Process::start(&["connect"], &world.client_env("v2")).await;
    let endless = Destination::start(Manner::Endless);
    let stream = streaming(&client, &endless).await;
    let since = Instant::now();
    let user = world.subscriber.user.clone();
    let banned = world.control.update("users", &user, json!({ "status": "banned" })).await;
    assert_acked(&banned, 1);
    refused(client, &["USER_BANNED"], since).await;
    drop(stream);
    let log = world.gateway.take().unwrap().stop().await.stderr;
    assert!(!log.contains("events come late"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nginx_that_was_told_to_buffer_is_named_and_is_no_outage() {
    let deaf = ("proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_ignore_headers X-Accel-Buffering;");
    let (mut world, _proxy) = fronted(&[("GATEWAY__CONTROL_TIMEOUT", "1s")], &[deaf]).await;
    let ops = world.control.process.as_ref().unwrap().line("ops-control").to_owned();
    let streams = "httvps_http_request_seconds_count{route=\"/api/v1/gateway/events\",status=\"200\"}";
    let before = metric(&world.control.http, &ops, streams).await;
    eventually(|| async {
        let more = metric(&world.control.http, &ops, streams).await - before;
        if more > 2 { Ok(()) } else { Err(format!("{more} requests for the events")) }
    })
    .await;
    let log = world.gateway.take().unwrap().stop().await.stderr;
    assert_eq!(log.matches("events come late: a proxy").count(), 1, "{log}");
    assert!(!log.contains("the control plane does not answer"), "{log}");
}
