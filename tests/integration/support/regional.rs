//! A control plane with a region and nothing else.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::{ADMIN_KEY, Control, REGION};
use crate::support::database::Kind;
use crate::support::environment::{Env, env};

pub(crate) async fn post(control: &Control, path: &str, token: &str, body: Value) -> (u16, Value) {
    let (status, answer) = control.ask(Method::POST, &format!("/api/v1/{path}"), token, Some(&body)).await;
    (status.as_u16(), answer)
}

pub(crate) async fn regional(kind: Kind, more: &[(&str, &str)]) -> Control {
    let more = [&[("EVENTS__ACK_TIMEOUT", "50ms")][..], more].concat();
    let control = Control::start_with(kind, &more).await;
    control.create("regions", json!({ "code": REGION })).await;
    control
}

pub(crate) fn admin_env(control: &Control) -> Env {
    env(&[("ADMIN__URL", &control.url), ("ADMIN__KEY", ADMIN_KEY)])
}
