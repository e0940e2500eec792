//! `docs/schemas/` match the vectors and what the gateway and the control plane send.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use httvps::api::{Enroll, Problem, Refresh, Tokens};
use httvps::token::Claims;
use jsonschema::{Registry, Validator};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::configuration::configuration;
use crate::support::control::id;
use crate::support::database::Kind;
use crate::support::deployment::{Deployment, PATH};
use crate::support::node::CHACHA;
use crate::support::test_vectors::{assert_roles, from_hex, has_role, items, read_file};

/// All schemas by name.
struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    fn load() -> Self {
        let folder = format!("{}/docs/schemas", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let schemas = files.map(|path| {
            let schema: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{}", path.display());
            jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.file_stem().unwrap().to_string_lossy().into_owned(), schema)
        });
        let schemas: Vec<_> = schemas.collect();
        let named = schemas.iter().fold(Registry::new(), |all, (name, schema)| {
            all.add(format!("json-schema:///{name}.json"), schema.clone()).unwrap()
        });
        let named = named.prepare().unwrap();
        let validator = |schema| jsonschema::options().with_registry(&named).build(schema).unwrap();
        Self(schemas.iter().map(|(name, schema)| (name.clone(), validator(schema))).collect())
    }

    fn get(&self, name: &str) -> &Validator {
        self.0.get(name).unwrap_or_else(|| panic!("no schema {name}"))
    }

    #[track_caller]
    fn holds(&self, name: &str, object: &Value) {
        if let Err(error) = self.get(name).validate(object) {
            panic!("{name}: {error} at {} in {object}", error.instance_path());
        }
    }
}

/// The schema of a v1 message.
fn name_of(message: &Value) -> Option<String> {
    let kind = message["type"].as_str()?;
    let known = ["hello", "hello_ok", "error", "notice", "stream_open", "stream_data", "stream_window", "stream_close"];
    known.contains(&kind).then(|| kind.replace('_', "-"))
}

#[test]
fn messages_of_v1() {
    let (schemas, file) = (Schemas::load(), read_file("v1-messages.json"));
    for vector in items(&file, "messages").iter().chain(items(&file, "decode_only")) {
        let message: Value = serde_json::from_str(vector["text"].as_str().unwrap()).unwrap();
        schemas.holds(&name_of(&message).unwrap(), &message);
    }
    let mut refused = 0;
    for vector in items(&file, "malformed") {
        let Ok(message) = serde_json::from_str::<Value>(vector["text"].as_str().unwrap()) else { continue };
        let Some(name) = name_of(&message) else { continue };
        let is_of_a_feature = vector["name"] == "a window without the feature";
        assert_eq!(schemas.get(&name).is_valid(&message), is_of_a_feature, "{}", vector["name"]);
        refused += 1;
    }
    assert!(refused > 8, "{refused}");
}

#[test]
fn objects_of_v2() {
    let (schemas, file) = (Schemas::load(), read_file("v2-frames.json"));
    let named = |kind: u8| [(1, "hello"), (2, "hello-ok"), (8, "notice")].into_iter().find(|(of, _)| *of == kind);
    let mut seen = 0;
    for (key, valid) in [("frames", true), ("decode_only", true), ("malformed", false)] {
        for vector in items(&file, key) {
            let bytes = from_hex(&vector["bytes"]);
            let Some((_, name)) = named(bytes[0]) else { continue };
            let Ok(object) = serde_json::from_slice::<Value>(&bytes[8..]) else { continue };
            assert_eq!(schemas.get(name).is_valid(&object), valid, "{}", vector["name"]);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Whether the crate's type for the schema accepts an object, if there is one.
fn reads(schema: &str, object: &Value) -> Option<bool> {
    let object = object.clone();
    match schema {
        "enroll" => Some(serde_json::from_value::<Enroll>(object).is_ok()),
        "refresh" => Some(serde_json::from_value::<Refresh>(object).is_ok()),
        "tokens" => Some(serde_json::from_value::<Tokens>(object).is_ok()),
        "problem" => Some(serde_json::from_value::<Problem>(object).is_ok()),
        "access-token" => Some(serde_json::from_value::<Claims>(object).is_ok()),
        _ => None,
    }
}

#[test]
fn objects_of_the_account() {
    let (schemas, file) = (Schemas::load(), read_file("account.json"));
    let mut used = BTreeSet::new();
    for vector in items(&file, "objects") {
        assert_roles(vector);
        let (name, schema) = (&vector["name"], vector["schema"].as_str().unwrap());
        let valid = !has_role(vector, "client", "rejects") && !has_role(vector, "gateway", "rejects");
        assert_eq!(schemas.get(schema).is_valid(&vector["object"]), valid, "{name}");
        if valid || schema != "access-token" {
            assert_eq!(reads(schema, &vector["object"]).unwrap_or(valid), valid, "{name}");
        }
        used.insert(schema.to_owned());
    }
    let of_tunnels = [
        "hello",
        "hello-ok",
        "stream-state",
        "error",
        "notice",
        "stream-open",
        "stream-data",
        "stream-window",
        "stream-close",
    ];
    used.extend(of_tunnels.map(str::to_owned));
    let all: BTreeSet<_> = schemas.0.keys().cloned().collect();
    assert_eq!(used, all, "every schema has vectors");
}

/// The header and claims of a compact JWS.
fn parts(jws: &str) -> [Value; 2] {
    let mut parts = jws.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap());
    [(); 2].map(|()| serde_json::from_slice(&parts.next().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_on_the_wire_match_the_schemas() {
    let schemas = Schemas::load();
    let deployment =
        Deployment::build(Kind::Sqlite, &[CHACHA], json!({ "max_devices": 2, "traffic_limit_gb": 1 }), &[]).await;
    let (control, own) = (&deployment.control, &deployment.subscriber);
    let gateway = id(&control.list("gateways").await[0]);
    control.create("endpoints", json!({ "gateway_id": gateway, "host": "gw.example.com", "path": PATH })).await;
    let ask = async |method: Method, path: &str, body: Option<&Value>| {
        control.ask(method, &format!("/api/v1/{path}"), &own.token, body).await.1
    };
    let (jws, claims) = configuration(control, &own.token).await;
    schemas.holds("configuration-jws", &json!(jws));
    schemas.holds("configuration-header", &parts(&jws)[0]);
    schemas.holds("configuration", &claims);
    assert!(!claims["gateways"][0]["endpoints"].as_array().unwrap().is_empty(), "{claims}");
    let (_, keys) = control.ask(Method::GET, "/.well-known/jwks.json", "", None).await;
    schemas.holds("jwks", &keys);
    let account = ask(Method::GET, "client/account", None).await;
    schemas.holds("account", &account);
    let device = ask(Method::PATCH, &format!("client/devices/{}", own.device), Some(&json!({ "name": "x" }))).await;
    schemas.holds("device", &device);
    let code = control.create("codes", json!({ "user_id": own.user, "hours": 1 })).await["code"].clone();
    let enroll = |uuid: &str| json!({ "code": code, "device_uuid": uuid, "platform": "test", "name": null });
    schemas.holds("enroll", &enroll("a"));
    let tokens = ask(Method::POST, "auth/enroll", Some(&enroll("a"))).await;
    schemas.holds("tokens", &tokens);
    let [header, claims] = parts(tokens["access_token"].as_str().unwrap());
    schemas.holds("access-token-header", &header);
    schemas.holds("access-token", &claims);
    let refresh = json!({ "refresh_token": tokens["refresh_token"], "device_uuid": "a" });
    schemas.holds("refresh", &refresh);
    schemas.holds("tokens", &ask(Method::POST, "auth/refresh", Some(&refresh)).await);
    let another = control.create("codes", json!({ "user_id": own.user, "hours": 1 })).await["code"].clone();
    let too_many = json!({ "code": another, "device_uuid": "b", "platform": "test" });
    let problem = ask(Method::POST, "auth/enroll", Some(&too_many)).await;
    assert_eq!(problem["code"], "DEVICE_LIMIT");
    schemas.holds("problem", &problem);
    control.update("users", &own.user, json!({ "status": "banned" })).await;
    let banned = ask(Method::GET, "client/account", None).await;
    assert_eq!(banned["code"], "USER_BANNED");
    schemas.holds("problem", &banned);
}
