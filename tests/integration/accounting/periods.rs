//! A new billing period is a fresh quota from its first moment.

use bytes::Bytes;
use httvps::frame::{Frame, SessionCode, StreamId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::database::Kind;
use crate::support::delivery::AT_ONCE;
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::quota::spend;
use crate::support::raw_session::{enter, open, read};
use crate::support::settling::counted;
use crate::support::times::{days, read as read_time};
use crate::support::wait::eventually;

const LIMIT: u64 = 2_000_000;
/// What one stream may have in flight while the last of a quota is used.
const IN_FLIGHT: u64 = 65_536;

async fn world_of_days() -> World {
    let plan = json!({ "traffic_limit_gb": LIMIT as f64 * 1e-9, "period": "days", "period_days": 1 });
    World::build(Kind::Postgres, &[CHACHA], plan, &[]).await
}

/// Moves the only subscription back in time until its first period ends soon; gives when that is.
async fn nearly_over(world: &World) -> OffsetDateTime {
    let begun = "now() - interval '1 day' + interval '8 s'";
    let rewritten = format!(
        "UPDATE sessions SET lease_period = {begun} WHERE lease_period IS NOT NULL; \
         UPDATE usage_periods SET period_start = {begun}; UPDATE subscriptions SET starts_at = {begun}"
    );
    world.control.rewrite(&rewritten).await;
    let subscription = world.control.get("subscriptions", &world.subscriber.subscription).await;
    read_time(&subscription["starts_at"]) + days(1)
}

async fn quota(world: &World) -> Value {
    world.control.get("devices", &format!("{}/why", world.subscriber.device)).await["quota"].clone()
}

/// Uses a fresh quota up with one stream of a session; gives what was counted beyond what was before.
async fn use_up(world: &World, raw: &mut crate::support::raw::Raw, before: u64) -> u64 {
    let endless = Destination::start(Manner::Endless);
    open(raw, 5, &endless, b"x".to_vec()).await;
    let (got, code) = read(raw).await;
    assert_eq!(code, Some(SessionCode::LimitReached), "{got}");
    let used = counted(world).await - before;
    assert!(got < used && (LIMIT..=LIMIT + IN_FLIGHT).contains(&used), "{got} of {used}");
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_lets_a_user_back_in_at_once() {
    let world = world_of_days().await;
    let endless = Destination::start(Manner::Endless);
    spend(vec![world.connect("v2").await], &endless).await;
    let before = counted(&world).await;
    let end = nearly_over(&world).await;
    assert_eq!(quota(&world).await["used_bytes"], before);
    let (_, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::Error { code: SessionCode::LimitReached, .. }), "{answer:?}");
    let mut raw = eventually(|| async {
        match enter(&world, &world.subscriber).await {
            (raw, Frame::HelloOk(_)) => Ok(raw),
            (_, Frame::Error { code: SessionCode::LimitReached, .. }) => Err("LIMIT_REACHED".to_owned()),
            (_, other) => panic!("{other:?}"),
        }
    })
    .await;
    let late = OffsetDateTime::now_utc() - end;
    assert!(late.is_positive() && late < AT_ONCE, "{late} after the end of the period");
    let used = use_up(&world, &mut raw, before).await;
    let quota = quota(&world).await;
    assert_eq!((read_time(&quota["period_start"]), &quota["used_bytes"]), (end, &json!(used)), "{quota}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_goes_on_into_a_new_period_with_a_fresh_quota() {
    let world = world_of_days().await;
    let source = Destination::start(Manner::Source);
    let echo = Destination::start(Manner::Echo);
    let (mut raw, answer) = enter(&world, &world.subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    let nearly = LIMIT - 100_000;
    open(&mut raw, 1, &source, nearly.to_be_bytes().to_vec()).await;
    assert_eq!(read(&mut raw).await, (nearly, None));
    world.settles_at(8, nearly).await;
    let end = nearly_over(&world).await;
    open(&mut raw, 3, &echo, b"old".to_vec()).await;
    let Frame::Data { payload, .. } = raw.next_frame().await else { panic!("no echo") };
    assert_eq!(payload, "old");
    world.settles_at(8 + 3, nearly + 3).await;
    assert_eq!(quota(&world).await["used_bytes"], json!(8 + nearly + 6));
    eventually(|| async {
        let quota = quota(&world).await;
        if read_time(&quota["period_start"]) == end { Ok(()) } else { Err(quota.to_string()) }
    })
    .await;
    let new = Frame::Data { id: StreamId(3), payload: Bytes::from("new"), fin: false };
    raw.frames(std::slice::from_ref(&new)).await;
    assert_eq!(raw.next_frame().await, new, "the stream goes on, too");
    let used = use_up(&world, &mut raw, 8 + nearly + 6).await;
    assert_eq!(quota(&world).await["used_bytes"], json!(used));
    assert_eq!(world.control.list("sessions").await.len(), 1);
}
