//! The contract: every operation's example is played, and what is answered is what the contract says.

use std::collections::HashMap;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::contract::{Operation, operations, resolved, served};
use crate::support::control::{ADMIN_KEY, Control, REGION, id};
use crate::support::database::{BOTH, Kind};

const USER: &str = "01997b5e-7c00-7000-8000-000000000001";
const DEVICE: &str = "01997b5e-7c00-7000-8000-000000000002";
const SESSION: &str = "01997b5e-7c00-7000-8000-000000000003";
const NODE: &str = "01997b5e-7c00-7000-8000-000000000005";

/// What has to be made before the rest can be asked for, in this order.
const MADE_FIRST: [&str; 12] = [
    "create_region",
    "create_plan",
    "create_user",
    "create_subscription",
    "create_device",
    "create_code",
    "enroll_device",
    "create_gateway",
    "create_node",
    "create_endpoint",
    "validate_device",
    "assign_node",
];
/// What ends what others need, in this order.
const DONE_LAST: [&str; 17] = [
    "kill_session",
    "cancel_subscription",
    "delete_endpoint",
    "invite_gateway",
    "invite_gateway_again",
    "enroll_gateway",
    "renew_gateway_token",
    "revoke_gateway",
    "delete_gateway",
    "delete_node",
    "delete_code",
    "revoke_own_device",
    "delete_device",
    "delete_subscription",
    "delete_user",
    "delete_plan",
    "delete_region",
];

/// What stands in the place of the names of examples.
struct Play {
    control: Control,
    contract: Value,
    texts: HashMap<String, String>,
    /// Ids by the first word of a path below `/api/v1/admin`.
    ids: HashMap<String, String>,
    gateway: String,
    device: String,
}

impl Play {
    async fn start(kind: Kind) -> Self {
        let control = Control::start(kind).await;
        let contract = served(&control).await;
        let (texts, ids) = (HashMap::new(), HashMap::new());
        Self { control, contract, texts, ids, gateway: String::new(), device: String::new() }
    }

    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.texts.get(text).cloned().map_or_else(|| value.clone(), Value::String),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, field)| (name.clone(), self.filled(field))).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn path(&self, operation: &Operation) -> String {
        let resource = operation.path.split('/').nth(4).unwrap_or_default();
        let query = match operation.name.as_str() {
            "list_refusals" => "?support_id=7KQ2-M9XD",
            "list_users" => "?count=true&sort=-identifier",
            _ => "",
        };
        let id = self.ids.get(resource).map_or(USER, String::as_str);
        format!("{}{}{query}", self.control.url, operation.path.replace("{id}", id))
    }

    async fn play(&mut self, operation: &Operation) {
        let name = operation.name.as_str();
        let key = match operation.credential.as_deref() {
            Some("administrator") => ADMIN_KEY,
            Some("gateway") => &self.gateway,
            Some("device") => &self.device,
            _ => "",
        };
        let mut request = self.control.http.request(operation.method.clone(), self.path(operation));
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        if let Some(body) = &operation.body {
            request = request.json(&self.filled(body));
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        if kind.as_deref() == Some("text/event-stream") {
            assert!(operation.responses.contains_key("200"), "{name}");
            return;
        }
        let text = response.text().await.unwrap();
        assert!((200..300).contains(&status), "{name}: {status} {text}");
        let answer = self.checked(operation, status, kind.as_deref(), &text);
        self.learn(name, &answer);
    }

    /// The answer, which is as the contract says.
    fn checked(&self, operation: &Operation, status: u16, kind: Option<&str>, text: &str) -> Value {
        let name = &operation.name;
        let response = operation.responses.get(&status.to_string());
        let response = resolved(&self.contract, response.unwrap_or_else(|| panic!("{name}: {status} is not said")));
        let Some(content) = response["content"].as_object().filter(|content| !content.is_empty()) else {
            assert_eq!(text, "", "{name} says nothing");
            return Value::Null;
        };
        let said = kind.map(|kind| kind.split(';').next().unwrap().trim()).unwrap();
        let media = content.get(said).unwrap_or_else(|| panic!("{name}: {said} is not said"));
        if said != "application/json" {
            return Value::Null;
        }
        let answer: Value = serde_json::from_str(text).unwrap();
        let mut schema = media["schema"].clone();
        schema.as_object_mut().unwrap().insert("components".into(), self.contract["components"].clone());
        let validator: Validator = jsonschema::validator_for(&schema).unwrap();
        let faults: Vec<String> =
            validator.iter_errors(&answer).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert!(faults.is_empty(), "{name}: {faults:?} in {answer}");
        answer
    }

    fn learn(&mut self, name: &str, answer: &Value) {
        let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
        let made = [
            ("create_region", "regions"),
            ("create_plan", "plans"),
            ("create_user", "users"),
            ("create_subscription", "subscriptions"),
            ("create_device", "devices"),
            ("create_code", "codes"),
            ("create_gateway", "gateways"),
            ("create_node", "nodes"),
            ("create_endpoint", "endpoints"),
        ];
        if let Some((_, resource)) = made.iter().find(|(operation, _)| *operation == name) {
            self.ids.insert((*resource).to_owned(), id(answer));
        }
        let mut means = |example: &str, value: String| self.texts.insert(example.to_owned(), value);
        match name {
            "create_user" => drop(means(USER, id(answer))),
            "create_device" => {
                means(DEVICE, id(answer));
                means("a device's access token", text("access_token"));
                self.device = text("access_token");
            }
            "create_code" => drop(means("7KQ2-M9XD-4T6W-1RCF", text("code"))),
            "enroll_device" => drop(means("a refresh token", text("refresh_token"))),
            "create_node" => drop(means(NODE, id(answer))),
            "create_gateway" => self.gateway = text("token"),
            "invite_gateway_again" => drop(means("a one-time token", text("enroll_token"))),
            "validate_device" => {
                assert_eq!(answer["ok"], true, "{answer}");
                self.ids.insert("sessions".into(), SESSION.into());
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_does_what_its_example_asks() {
    for kind in BOTH {
        let mut play = Play::start(kind).await;
        let all = operations(&play.contract);
        let named = |name: &str| all.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name}")).clone();
        let is_placed =
            |one: &Operation| MADE_FIRST.contains(&one.name.as_str()) || DONE_LAST.contains(&one.name.as_str());
        for name in MADE_FIRST {
            play.play(&named(name)).await;
        }
        let epoch = epoch_of(&play).await;
        play.texts.insert("the database's epoch".into(), epoch);
        play.texts.insert("fra-1".into(), "fra-2".into());
        for operation in all.iter().filter(|one| !is_placed(one)) {
            let is_ban = operation.name == "update_user" || operation.name == "update_device";
            play.play(operation).await;
            if is_ban {
                let back = json!({ "status": "active" });
                let path = play.path(operation);
                let undone = play.control.http.patch(path).bearer_auth(ADMIN_KEY).json(&back).send().await.unwrap();
                assert!(undone.status().is_success(), "{}", operation.name);
            }
        }
        for name in DONE_LAST {
            if name == "delete_region" {
                for resource in ["nodes", "gateways"] {
                    for row in play.control.list(resource).await {
                        play.control.admin(Method::DELETE, &format!("{resource}/{}", id(&row)), Value::Null).await;
                    }
                }
            }
            play.play(&named(name)).await;
        }
        assert_eq!(play.control.list("regions").await, [] as [Value; 0], "{REGION}");
    }
}

/// The epoch that the event stream begins with.
async fn epoch_of(play: &Play) -> String {
    let url = format!("{}/api/v1/gateway/events", play.control.url);
    let mut response = play.control.http.get(url).bearer_auth(&play.gateway).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("\n\n") {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    event["epoch"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_shown_to_a_browser_only_if_that_is_wanted() {
    for (wanted, status) in [("false", 404), ("true", 200)] {
        let control = Control::start_with(Kind::Sqlite, &[("CONTROL__API_DOCS", wanted)]).await;
        let page = control.http.get(format!("{}/api/docs/", control.url)).send().await.unwrap();
        assert_eq!(page.status().as_u16(), status);
        let contract = served(&control).await;
        assert_eq!(contract["openapi"], "3.1.0");
        jsonschema::meta::validate(&contract["components"]["schemas"]["NewUser"]).unwrap();
    }
}
