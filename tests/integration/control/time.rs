//! What the control plane decides by the time, at the very moments: its clock is set by the test.

use std::time::Duration;

use httvps::clock::ManualClock;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::control::Control;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;
use crate::support::times::days;
use crate::support::wait::eventually;

const BEGIN: OffsetDateTime = datetime!(2031-03-30 0:00 UTC);
const MICROSECOND: Duration = Duration::from_micros(1);

async fn start(more: &[(&str, &str)]) -> (ManualClock, GatewayApi) {
    let manual = ManualClock::at(BEGIN);
    let control = Control::start_by(manual.clock(), more).await;
    (manual, GatewayApi::on(control, &[10]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_begins_and_ends_to_the_microsecond() {
    let (manual, api) = start(&[("CONTROL__TOKEN_TTL", "60d")]).await;
    let subscriber = Subscriber::create(&api.control, json!({ "grace_hours": 1 })).await;
    let (ends, grace_ends) = (BEGIN + days(30), BEGIN + days(30) + Duration::from_hours(1));
    for (at, state, code) in [
        (ends - MICROSECOND, "active", Value::Null),
        (ends, "grace", Value::Null),
        (grace_ends - MICROSECOND, "grace", Value::Null),
        (grace_ends, "expired", json!("SUBSCRIPTION_EXPIRED")),
    ] {
        manual.set(at);
        assert_eq!(api.control.get("subscriptions", &subscriber.subscription).await["state"], state, "{at}");
        assert_eq!(api.validate(&subscriber, json!({})).await["code"], code, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_a_minute_after_its_life() {
    let (manual, api) = start(&[("CONTROL__TOKEN_TTL", "1h")]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    manual.advance(Duration::from_mins(61));
    assert_eq!(api.validate(&subscriber, json!({})).await["ok"], true);
    manual.advance(Duration::from_secs(1));
    assert_eq!(api.validate(&subscriber, json!({})).await["code"], "TOKEN_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_is_reaped_when_its_time_is_over() {
    let (manual, api) = start(&[]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    let session = api.begin(&subscriber).await;
    assert_eq!(api.tell(GatewayApi::report(&subscriber, &session, 1, 1)).await["continue"], true);
    manual.advance(Duration::from_secs(90));
    assert_eq!(api.tell(GatewayApi::report(&subscriber, &session, 2, 2)).await["continue"], true);
    manual.advance(Duration::from_secs(91));
    eventually(|| async {
        let row = api.control.get("sessions", &session).await;
        if row["state"] == "reaped" { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    assert_eq!(api.counts().await, [0]);
}
