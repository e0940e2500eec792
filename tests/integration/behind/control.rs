use std::time::Instant;

use serde_json::json;

use super::proxy::Proxy;
use crate::support::database::Kind;
use crate::support::delivery::{RARE_REPORTS, assert_acked, assert_refused_promptly, wait_for_followers};
use crate::support::deployment::{Deployment, metric};
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::transfer::start_streaming;
use crate::support::wait::eventually;

/// A deployment whose gateway reaches its control plane through nginx.
async fn fronted(more: &[(&str, &str)], nginx: &[(&str, &str)]) -> (Deployment, Proxy) {
    let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), more).await;
    deployment.gateway.take().unwrap().stop().await;
    let upstream = deployment.control.url.strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = Proxy::nginx(&deployment, "nginx-control.conf", ("127.0.0.1:8080", upstream), nginx).await;
    let url = format!("https://localhost:{}", proxy.address.port());
    deployment.gateway_env.retain(|(key, _)| key != "HTTVPS_GATEWAY__CONTROL_URL");
    deployment.gateway_env.push(("HTTVPS_GATEWAY__CONTROL_URL".into(), url));
    deployment.gateway_env.push(("HTTVPS_GATEWAY__CONTROL_CA".into(), deployment.ca()));
    deployment.start_gateway().await;
    (deployment, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_nginx_with_its_default_buffering() {
    let (mut deployment, _proxy) = fronted(&RARE_REPORTS, &[]).await;
    wait_for_followers(&deployment.control, 1).await;
    let client = Process::start(&["connect"], &deployment.client_env("v2")).await;
    let endless = Destination::start(Behavior::Endless);
    let stream = start_streaming(&client, &endless).await;
    let since = Instant::now();
    let user = deployment.subscriber.user.clone();
    let banned = deployment.control.update("users", &user, json!({ "status": "banned" })).await;
    assert_acked(&banned, 1);
    assert_refused_promptly(client, &["USER_BANNED"], since).await;
    drop(stream);
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert!(!log.contains("events come late"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buffering_nginx_is_named_and_is_not_an_outage() {
    let deaf = ("proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_ignore_headers X-Accel-Buffering;");
    let (mut deployment, _proxy) = fronted(&[("GATEWAY__CONTROL_TIMEOUT", "1s")], &[deaf]).await;
    let ops = deployment.control.process.as_ref().unwrap().line("ops-control").to_owned();
    let streams = "httvps_http_request_seconds_count{route=\"/api/v1/gateway/events\",status=\"200\"}";
    let before = metric(&deployment.control.http, &ops, streams).await;
    eventually(|| async {
        let more = metric(&deployment.control.http, &ops, streams).await - before;
        if more > 2 { Ok(()) } else { Err(format!("{more} requests for the events")) }
    })
    .await;
    let log = deployment.gateway.take().unwrap().stop().await.stderr;
    assert_eq!(log.matches("events come late: a proxy").count(), 1, "{log}");
    assert!(!log.contains("the control plane does not answer"), "{log}");
}
