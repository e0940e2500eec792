//! A new billing period brings a fresh quota at once.

use bytes::Bytes;
use httvps::clock::Clock;
use httvps::frame::{Frame, SessionCode, StreamId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::database::Kind;
use crate::support::delivery::PROMPTLY;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::quota::use_up_quota;
use crate::support::raw_session::{open_stream, read_stream, say_hello};
use crate::support::times::{days, parse_rfc3339};
use crate::support::wait::eventually;

const LIMIT: u64 = 2_000_000;
/// What one stream may have in flight when the quota is used up.
const IN_FLIGHT: u64 = 65_536;

async fn deployment_with_daily_quota() -> Deployment {
    let plan = json!({ "traffic_limit_gb": LIMIT as f64 * 1e-9, "period": "days", "period_days": 1 });
    Deployment::build(Kind::Postgres, &[CHACHA], plan, &[]).await
}

/// Moves the subscription back in time so that its first period ends soon; returns that moment.
async fn nearly_over(deployment: &Deployment) -> OffsetDateTime {
    let begun = "now() - interval '1 day' + interval '8 s'";
    let rewritten = format!(
        "UPDATE sessions SET lease_period = {begun} WHERE lease_period IS NOT NULL; \
         UPDATE usage_periods SET period_start = {begun}; UPDATE subscriptions SET starts_at = {begun}"
    );
    deployment.control.rewrite(&rewritten).await;
    let subscription = deployment.control.get("subscriptions", &deployment.subscriber.subscription).await;
    parse_rfc3339(&subscription["starts_at"]) + days(1)
}

async fn quota(deployment: &Deployment) -> Value {
    deployment.control.get("devices", &format!("{}/why", deployment.subscriber.device)).await["quota"].clone()
}

/// Uses up a fresh quota with one stream; returns the usage beyond `before`.
async fn use_up(deployment: &Deployment, raw: &mut crate::support::raw::RawClient, before: u64) -> u64 {
    let endless = Destination::start(Behavior::Endless);
    open_stream(raw, 5, &endless, b"x".to_vec()).await;
    let (got, code) = read_stream(raw).await;
    assert_eq!(code, Some(SessionCode::LimitReached), "{got}");
    let used = deployment.ended_total().await - before;
    assert!(got < used && (LIMIT..=LIMIT + IN_FLIGHT).contains(&used), "{got} of {used}");
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_readmits_a_user_at_once() {
    let deployment = deployment_with_daily_quota().await;
    let endless = Destination::start(Behavior::Endless);
    use_up_quota(vec![deployment.connect("v2").await], &endless).await;
    let before = deployment.ended_total().await;
    let end = nearly_over(&deployment).await;
    assert_eq!(quota(&deployment).await["used_bytes"], before);
    let (_, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::Error { code: SessionCode::LimitReached, .. }), "{answer:?}");
    let mut raw = eventually(|| async {
        match say_hello(&deployment, &deployment.subscriber).await {
            (raw, Frame::HelloOk(_)) => Ok(raw),
            (_, Frame::Error { code: SessionCode::LimitReached, .. }) => Err("LIMIT_REACHED".to_owned()),
            (_, other) => panic!("{other:?}"),
        }
    })
    .await;
    let late = Clock::system().now() - end;
    assert!(late.is_positive() && late < PROMPTLY, "{late} after the end of the period");
    let used = use_up(&deployment, &mut raw, before).await;
    let quota = quota(&deployment).await;
    assert_eq!((parse_rfc3339(&quota["period_start"]), &quota["used_bytes"]), (end, &json!(used)), "{quota}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_continues_into_a_new_period_with_a_fresh_quota() {
    let deployment = deployment_with_daily_quota().await;
    let source = Destination::start(Behavior::Source);
    let echo = Destination::start(Behavior::Echo);
    let (mut raw, answer) = say_hello(&deployment, &deployment.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    let nearly = LIMIT - 100_000;
    open_stream(&mut raw, 1, &source, nearly.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(&mut raw).await, (nearly, None));
    deployment.totals_are(8, nearly).await;
    let end = nearly_over(&deployment).await;
    open_stream(&mut raw, 3, &echo, b"old".to_vec()).await;
    let Frame::Data { payload, .. } = raw.next_frame().await else { panic!("no echo") };
    assert_eq!(payload, "old");
    deployment.totals_are(8 + 3, nearly + 3).await;
    assert_eq!(quota(&deployment).await["used_bytes"], json!(8 + nearly + 6));
    eventually(|| async {
        let quota = quota(&deployment).await;
        if parse_rfc3339(&quota["period_start"]) == end { Ok(()) } else { Err(quota.to_string()) }
    })
    .await;
    let new = Frame::Data { id: StreamId(3), payload: Bytes::from("new"), fin: false };
    raw.frames(std::slice::from_ref(&new)).await;
    assert_eq!(raw.next_frame().await, new, "the stream goes on, too");
    let used = use_up(&deployment, &mut raw, 8 + nearly + 6).await;
    assert_eq!(quota(&deployment).await["used_bytes"], json!(used));
    assert_eq!(deployment.control.list("sessions").await.len(), 1);
}
