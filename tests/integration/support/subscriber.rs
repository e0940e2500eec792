//! A user with a plan, a subscription and a device.

use serde_json::{Value, json};

use crate::support::control::{Control, id};

/// A user with a plan, a subscription and a device.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) user: String,
    pub(crate) plan: String,
    pub(crate) subscription: String,
    pub(crate) device: String,
    pub(crate) token: String,
}

impl Subscriber {
    pub(crate) async fn create(control: &Control, plan: Value) -> Self {
        let name = uuid::Uuid::new_v4().to_string();
        let mut fields = json!({ "name": name });
        fields.as_object_mut().unwrap().extend(plan.as_object().unwrap().clone());
        let plan = id(&control.create("plans", fields).await);
        let user = id(&control.create("users", json!({ "identifier": format!("{name}@example.com") })).await);
        let subscription = json!({ "user_id": user, "plan_id": plan, "days": 30 });
        let subscription = id(&control.create("subscriptions", subscription).await);
        let device = control.create("devices", json!({ "user_id": user, "platform": "test" })).await;
        let token = device["access_token"].as_str().unwrap().to_owned();
        Self { user, plan, subscription, device: id(&device), token }
    }
}
