//! Notices during a session, and the advice that refused clients get.

use httvps::clock::Clock;
use httvps::frame::{Frame, Hello, Notice, SessionCode, StreamId, Target};
use serde_json::json;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw::{RawClient, hello};

async fn next_notice(raw: &mut RawClient) -> Notice {
    loop {
        if let Frame::Notice(notice) = raw.next_frame().await {
            return notice;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_notices_come_at_their_thresholds() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "traffic_limit_gb": 0.0001 }), &[]).await;
    let source = Destination::start(Behavior::Source);
    let mut raw = RawClient::session(&deployment).await;
    let mut heard = Vec::new();
    for (id, len) in [(1, 85_000u64), (3, 11_000)] {
        let payload = len.to_be_bytes().to_vec().into();
        let target = Some(Target::Ip(source.address));
        let limit = u64::MAX;
        let window = Frame::Window { id: StreamId(id), consumed: 0, limit };
        raw.frames(&[Frame::Open { id: StreamId(id), target, payload, fin: false, udp: false }, window]).await;
        heard.push(next_notice(&mut raw).await);
    }
    let percents: Vec<_> = heard
        .iter()
        .map(|notice| match notice {
            Notice::Quota { percent, remaining_bytes } => {
                assert!(*remaining_bytes <= 100_000 * u64::from(100 - percent) / 100);
                *percent
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(percents, [80, 95]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_subscription_and_a_drain_are_announced() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let soon = Clock::system().now() + time::Duration::hours(30);
    let valid_until = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    deployment
        .control
        .update("subscriptions", &deployment.subscriber.subscription, json!({ "valid_until": valid_until }))
        .await;
    let echo = Destination::start(Behavior::Echo);
    let mut raw = RawClient::session(&deployment).await;
    assert!(matches!(next_notice(&mut raw).await, Notice::Expiry { .. }));
    let target = Some(Target::Ip(echo.address));
    let payload = bytes::Bytes::from_static(b"x");
    raw.frames(&[Frame::Open { id: StreamId(1), target, payload, fin: false, udp: false }]).await;
    assert!(matches!(raw.next_frame().await, Frame::Data { .. }));
    let gateway = deployment.gateway.take().unwrap();
    gateway.signal("-TERM");
    let told = next_notice(&mut raw).await;
    assert!(matches!(told, Notice::Maintenance { within_ms: 1..=5000 }), "what is left of the drain: {told:?}");
    drop(raw);
    assert_eq!(gateway.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_and_full_gateways_get_advice() {
    let more = [("TUNNEL__MIN_CLIENT_VERSION", "1.2"), ("TUNNEL__RETRY_AFTER", "10s"), ("MUX__PROCESS_POOL", "0 B")];
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more).await;
    let mut raw = RawClient::open(&deployment, "httvps.v1").await;
    let text = json!({
        "type": "hello", "device_id": deployment.subscriber.device, "access_token": deployment.subscriber.token,
        "region": "eu-1", "client_version": "1.10", "features": ["error"],
    });
    raw.text(&text.to_string()).await;
    let Some(httvps::net::websocket::Incoming::Text(answer)) = raw.next().await else { panic!("no answer") };
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["code"], "OVERLOADED");
    assert!((5_000..=15_000).contains(&answer["retry_after_ms"].as_u64().unwrap()), "{answer}");
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &more[..2]).await;
    for (version, code) in
        [("1.1.9", Some(SessionCode::UpgradeRequired)), ("", Some(SessionCode::UpgradeRequired)), ("1.10", None)]
    {
        let mut raw = RawClient::open(&deployment, "httvps.v2").await;
        let hello = Hello { client_version: version.into(), ..hello(&deployment) };
        raw.frames(&[Frame::Hello(Box::new(hello))]).await;
        let answer = raw.next_frame().await;
        match code {
            Some(expected) => assert!(matches!(answer, Frame::Error { code, .. } if code == expected), "{answer:?}"),
            None => assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}"),
        }
    }
}
