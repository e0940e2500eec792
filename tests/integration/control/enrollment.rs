//! Activation codes, refresh tokens, device limits and the rotation of signing keys.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use httvps::token::{Issuer, Verifier};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::support::control::{ADMIN_KEY, Control, REGION, SEED, admin_env, id, register_gateway};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::process::{Process, run};
use crate::support::subscriber::Subscriber;
use crate::support::times::now;
use crate::support::transfer::start_streaming;
use crate::support::wait::eventually;

const LINK: &str = "https://vpn.example.com/activate";

async fn customer(control: &Control, plan: Value) -> String {
    let name = Uuid::new_v4().to_string();
    let mut fields = json!({ "name": name });
    fields.as_object_mut().unwrap().extend(plan.as_object().unwrap().clone());
    let plan = id(&control.create("plans", fields).await);
    let user = id(&control.create("users", json!({ "identifier": format!("{name}@example.com") })).await);
    control.create("subscriptions", json!({ "user_id": user, "plan_id": plan, "days": 30 })).await;
    user
}

async fn code(control: &Control, user: &str) -> String {
    let code = control.create("codes", json!({ "user_id": user, "hours": 1 })).await;
    code["code"].as_str().unwrap().to_owned()
}

async fn auth(control: &Control, path: &str, body: Value) -> (u16, Value) {
    let (status, answer) = control.ask(Method::POST, &format!("/api/v1/auth/{path}"), "", Some(&body)).await;
    (status.as_u16(), answer)
}

async fn enroll(control: &Control, code: &str, device: &str) -> (u16, Value) {
    let body = json!({ "code": code, "device_uuid": device, "platform": "test", "name": "a name" });
    auth(control, "enroll", body).await
}

async fn enrolled(control: &Control, user: &str, device: &str) -> Value {
    let code = code(control, user).await;
    let (status, answer) = enroll(control, &code, device).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn refresh(control: &Control, token: &Value, device: &str) -> (u16, Value) {
    auth(control, "refresh", json!({ "refresh_token": token, "device_uuid": device })).await
}

async fn refreshed(control: &Control, token: &Value, device: &str) -> Value {
    let (status, answer) = refresh(control, token, device).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn refusal((status, problem): &(u16, Value)) -> (u16, &str) {
    (*status, problem["code"].as_str().unwrap_or_else(|| panic!("no refusal: {status} {problem}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_makes_one_device() {
    for kind in BOTH {
        let control = Control::start_with(kind, &[("ENROLLMENT__LINK", LINK), ("ENROLLMENT__CODE_TTL", "1ms")]).await;
        let user = customer(&control, json!({})).await;
        let made = control.create("codes", json!({ "user_id": user, "hours": 1 })).await;
        let code = made["code"].as_str().unwrap();
        assert_eq!(made["link"], json!(format!("{LINK}#{code}")));
        let row = control.get("codes", &id(&made)).await;
        assert_eq!((&row["used_at"], &row["code"], &row["code_hash"]), (&Value::Null, &Value::Null, &Value::Null));
        let typed = code.to_lowercase().replace('-', " ").replace('1', "l").replace('0', "o");
        let (status, tokens) = enroll(&control, &typed, "phone").await;
        assert_eq!((status, &tokens["token_type"]), (200, &json!("Bearer")), "{tokens}");
        assert_eq!((&tokens["expires_in"], &tokens["refresh_expires_in"]), (&json!(3600), &json!(60 * 86_400)));
        let device = control.get("devices", tokens["device_id"].as_str().unwrap()).await;
        assert_eq!(
            (&device["user_id"], &device["device_uuid"], &device["platform"], &device["name"], &device["status"]),
            (&json!(user), &json!("phone"), &json!("test"), &json!("a name"), &json!("active"))
        );
        let verifier = Verifier::new(Issuer::new(&SEED).unwrap().key_set());
        let claims = verifier.verify(tokens["access_token"].as_str().unwrap(), now()).unwrap();
        assert_eq!((json!(claims.sub), json!(claims.uid)), (tokens["device_id"].clone(), json!(user)));
        let row = control.get("codes", &id(&made)).await;
        assert_eq!((row["used_at"].is_string(), &row["device_id"]), (true, &tokens["device_id"]));
        let short_lived = control.create("codes", json!({ "user_id": user })).await;
        let withdrawn = control.create("codes", json!({ "user_id": user, "hours": 1 })).await;
        let listed = control.list(&format!("codes?user_id={user}")).await;
        assert_eq!(listed.len(), 3);
        control.admin(Method::DELETE, &format!("codes/{}", id(&withdrawn)), Value::Null).await;
        let dead = [
            code,
            short_lived["code"].as_str().unwrap(),
            withdrawn["code"].as_str().unwrap(),
            "0000-0000-0000-0000-0000-0000-00",
            "nonsense",
        ];
        for dead in dead {
            let (status, mut problem) = enroll(&control, dead, "tablet").await;
            problem["request_id"] = Value::Null;
            let expected = json!({
                "type": "about:blank", "title": "Not Found", "status": 404, "code": "INVALID_CODE", "request_id": null,
            });
            assert_eq!((status, problem), (404, expected), "{kind:?} {dead}");
        }
        assert_eq!(control.list(&format!("devices?user_id={user}")).await.len(), 1);
        for (body, field) in [
            (json!({ "code": code, "device_uuid": "", "platform": "test" }), "device_uuid"),
            (json!({ "code": code, "device_uuid": "x", "platform": "x".repeat(256) }), "platform"),
        ] {
            let answer = auth(&control, "enroll", body).await;
            assert_eq!((refusal(&answer), &answer.1["errors"][0]["field"]), ((422, "INVALID"), &json!(field)));
        }
        let body = json!({ "user_id": user, "hours": 0 });
        let (status, problem) = control.ask(Method::POST, "/api/v1/admin/codes", ADMIN_KEY, Some(&body)).await;
        assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("hours")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_enrollment_response_is_repeated() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let user = customer(&control, json!({ "max_devices": 1 })).await;
        let code = code(&control, &user).await;
        let answers = join_all((0..5).map(|_| enroll(&control, &code, "phone"))).await;
        let same = |field: &str| answers.iter().map(|(_, answer)| answer[field].to_string()).collect::<HashSet<_>>();
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        for field in ["device_id", "access_token", "refresh_token"] {
            assert_eq!(same(field).len(), 1, "{field}");
        }
        assert_eq!(refusal(&enroll(&control, &code, "tablet").await), (404, "INVALID_CODE"));
        refreshed(&control, &answers[0].1["refresh_token"], "phone").await;
        let late = enroll(&control, &code, "phone").await;
        assert_eq!(refusal(&late), (404, "INVALID_CODE"), "the first answer has come");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_responses_expire() {
    let control = Control::start_with(Kind::Sqlite, &[("ENROLLMENT__REPEAT_WITHIN", "5s")]).await;
    let user = customer(&control, json!({})).await;
    let code = code(&control, &user).await;
    let first = enroll(&control, &code, "phone").await.1;
    assert_eq!(enroll(&control, &code, "phone").await.1["refresh_token"], first["refresh_token"]);
    eventually(|| async {
        match enroll(&control, &code, "phone").await {
            (404, _) => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        }
    })
    .await;
    let second = refreshed(&control, &first["refresh_token"], "phone").await;
    let repeated = refreshed(&control, &first["refresh_token"], "phone").await;
    for field in ["device_id", "access_token", "refresh_token"] {
        assert_eq!(repeated[field], second[field], "{field}");
    }
    eventually(|| async {
        match refresh(&control, &first["refresh_token"], "phone").await {
            (401, _) => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        }
    })
    .await;
    let third = refresh(&control, &second["refresh_token"], "phone").await;
    assert_eq!(refusal(&third), (401, "INVALID_TOKEN"), "late repeats are reuse");
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_rotate_and_reuse_revokes_the_family() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let user = customer(&control, json!({})).await;
        let first = enrolled(&control, &user, "phone").await;
        let other = enrolled(&control, &user, "tablet").await;
        let foreign = refresh(&control, &first["refresh_token"], "tablet").await;
        assert_eq!(refusal(&foreign), (401, "INVALID_TOKEN"), "another device's");
        let unknown = refresh(&control, &json!("unknown"), "phone").await;
        assert_eq!(refusal(&unknown), (401, "INVALID_TOKEN"));
        let answers = join_all((0..10).map(|_| refreshed(&control, &first["refresh_token"], "phone"))).await;
        let tokens: HashSet<_> = answers.iter().map(|answer| answer["refresh_token"].to_string()).collect();
        assert_eq!(tokens.len(), 1, "a family does not fork");
        let second = &answers[0];
        assert_ne!(second["refresh_token"], first["refresh_token"]);
        assert_eq!(second["device_id"], first["device_id"]);
        let third = refreshed(&control, &second["refresh_token"], "phone").await;
        let reused = refresh(&control, &first["refresh_token"], "phone").await;
        assert_eq!(refusal(&reused), (401, "INVALID_TOKEN"), "its successor was used");
        let thief = refresh(&control, &third["refresh_token"], "phone").await;
        assert_eq!(refusal(&thief), (401, "INVALID_TOKEN"), "the family is gone");
        refreshed(&control, &other["refresh_token"], "tablet").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revoked_and_the_banned_get_no_tokens() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let user = customer(&control, json!({})).await;
        let (phone, tablet) = (enrolled(&control, &user, "phone").await, enrolled(&control, &user, "tablet").await);
        let device = phone["device_id"].as_str().unwrap();
        control.update("devices", device, json!({ "status": "revoked" })).await;
        let answer = refresh(&control, &phone["refresh_token"], "phone").await;
        assert_eq!(refusal(&answer), (401, "INVALID_TOKEN"));
        control.update("devices", device, json!({ "status": "active" })).await;
        let answer = refresh(&control, &phone["refresh_token"], "phone").await;
        assert_eq!(refusal(&answer), (401, "INVALID_TOKEN"), "for good");
        control.admin(Method::DELETE, &format!("devices/{device}"), Value::Null).await;
        let answer = refresh(&control, &phone["refresh_token"], "phone").await;
        assert_eq!(refusal(&answer), (401, "INVALID_TOKEN"));
        let code = code(&control, &user).await;
        control.update("users", &user, json!({ "status": "banned" })).await;
        let answer = refresh(&control, &tablet["refresh_token"], "tablet").await;
        assert_eq!(refusal(&answer), (403, "USER_BANNED"));
        assert_eq!(refusal(&enroll(&control, &code, "phone").await), (403, "USER_BANNED"));
        control.update("users", &user, json!({ "status": "active" })).await;
        refreshed(&control, &tablet["refresh_token"], "tablet").await;
        assert_eq!(enroll(&control, &code, "phone").await.0, 200, "the code was not spent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_limit_holds_under_fifty_simultaneous_enrollments() {
    for kind in BOTH {
        let control = Control::start_with(kind, &[("DATABASE__ACQUIRE_TIMEOUT", "30s")]).await;
        let user = customer(&control, json!({ "max_devices": 5 })).await;
        let names: Vec<String> = (0..50).map(|number| format!("device-{number}")).collect();
        let mut codes = Vec::new();
        for _ in &names {
            codes.push(code(&control, &user).await);
        }
        let answers = join_all(codes.iter().zip(&names).map(|(code, name)| enroll(&control, code, name))).await;
        let (granted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        assert_eq!((granted.len(), refused.len()), (5, 45), "{kind:?}");
        let ids: HashSet<_> = granted.iter().map(|(_, answer)| answer["device_id"].to_string()).collect();
        for answer in refused {
            assert_eq!(refusal(answer), (409, "DEVICE_LIMIT"));
            let listed = answer.1["devices"].as_array().unwrap();
            let offered: HashSet<_> = listed.iter().map(|device| device["id"].to_string()).collect();
            assert_eq!(offered, ids);
            assert!(listed.iter().all(|device| device["name"] == "a name" && device["created_at"].is_string()));
        }
        let rows = control.list(&format!("codes?user_id={user}")).await;
        assert_eq!(rows.iter().filter(|row| row["used_at"].is_string()).count(), 5, "others are not spent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_replaced_or_taken_over() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let user = customer(&control, json!({ "max_devices": 1 })).await;
        let stranger = customer(&control, json!({})).await;
        let foreign = enrolled(&control, &stranger, "phone").await;
        let phone = enrolled(&control, &user, "phone").await;
        let code = code(&control, &user).await;
        let full = enroll(&control, &code, "tablet").await;
        assert_eq!((refusal(&full), &full.1["devices"][0]["id"]), ((409, "DEVICE_LIMIT"), &phone["device_id"]));
        let replacing = |device: &Value| {
            let body = json!({ "code": code, "device_uuid": "tablet", "platform": "test", "replace": device });
            auth(&control, "enroll", body)
        };
        let answer = replacing(&foreign["device_id"]).await;
        assert_eq!((refusal(&answer), &answer.1["errors"][0]["field"]), ((422, "INVALID"), &json!("replace")));
        let (status, tablet) = replacing(&phone["device_id"]).await;
        assert_eq!(status, 200, "{tablet}");
        assert_eq!(replacing(&phone["device_id"]).await.1["refresh_token"], tablet["refresh_token"], "a repeat");
        let row = control.get("devices", phone["device_id"].as_str().unwrap()).await;
        assert_eq!(row["status"], "revoked");
        let answer = refresh(&control, &phone["refresh_token"], "phone").await;
        assert_eq!(refusal(&answer), (401, "INVALID_TOKEN"));
        let again = enrolled(&control, &user, "tablet").await;
        assert_eq!(again["device_id"], tablet["device_id"], "the same installation is no second device");
        let answer = refresh(&control, &tablet["refresh_token"], "tablet").await;
        assert_eq!(refusal(&answer), (401, "INVALID_TOKEN"), "its older tokens are void");
        refreshed(&control, &again["refresh_token"], "tablet").await;
        control.update("devices", again["device_id"].as_str().unwrap(), json!({ "status": "revoked" })).await;
        let back = enrolled(&control, &user, "phone").await;
        assert_eq!(back["device_id"], phone["device_id"], "a revoked device comes back with a new code");
        assert_eq!(control.get("devices", back["device_id"].as_str().unwrap()).await["status"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_rotate_with_two_valid_at_a_time() {
    let mut control = Control::start(Kind::Sqlite).await;
    control.create("regions", json!({ "code": REGION })).await;
    let (_, gateway) = register_gateway(&control, "gw-1").await;
    let subscriber = Subscriber::create(&control, json!({})).await;
    let validated = async |control: &Control, token: &str| {
        let body = json!({ "device_id": subscriber.device, "access_token": token, "region": REGION });
        control.ask(Method::POST, "/api/v1/auth/validate-device", &gateway, Some(&body)).await.1
    };
    let fresh = async |control: &Control| {
        let answer = control.create(&format!("devices/{}/token", subscriber.device), Value::Null).await;
        answer["access_token"].as_str().unwrap().to_owned()
    };
    assert_eq!(validated(&control, &subscriber.token).await["ok"], true);
    let (old, new) = (BASE64_STANDARD.encode(SEED), BASE64_STANDARD.encode([5; 32]));
    control.kill().await;
    control.env.push(("HTTVPS_CONTROL__SIGNING_KEY".into(), new));
    control.env.push(("HTTVPS_CONTROL__SECOND_SIGNING_KEY".into(), old));
    control.resume().await;
    assert_eq!(validated(&control, &subscriber.token).await["ok"], true, "the last key's token");
    let token = fresh(&control).await;
    assert_eq!(validated(&control, &token).await["ok"], true);
    let (_, keys) = control.ask(Method::GET, "/.well-known/jwks.json", "", None).await;
    let expected = Issuer::new(&[5; 32]).unwrap().with_second(&SEED).unwrap();
    assert_eq!(keys, serde_json::to_value(expected.key_set()).unwrap());
    control.kill().await;
    control.env.push(("HTTVPS_CONTROL__SECOND_SIGNING_KEY".into(), String::new()));
    control.resume().await;
    assert_eq!(validated(&control, &token).await["ok"], true);
    assert_eq!(validated(&control, &subscriber.token).await["code"], "INVALID_TOKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_outlives_its_access_token_but_not_its_device() {
    let mut deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.control.kill().await;
    deployment.control.env.push(("HTTVPS_ENROLLMENT__ACCESS_TTL".into(), "2s".into()));
    deployment.control.resume().await;
    let tokens = enrolled(&deployment.control, &deployment.subscriber.user, "phone").await;
    assert_eq!(tokens["expires_in"], 2);
    let device: Uuid = tokens["device_id"].as_str().unwrap().parse().unwrap();
    let user: Uuid = deployment.subscriber.user.parse().unwrap();
    let leeway_ends_soon = now().unix_timestamp() - 50;
    deployment.subscriber.device = device.to_string();
    deployment.subscriber.token = Issuer::new(&SEED).unwrap().issue(device, user, leeway_ends_soon - 2, 2).unwrap();
    let client = deployment.connect("v2").await;
    let endless = Destination::start(Behavior::Endless);
    let mut old_stream = start_streaming(&client, &endless).await;
    let env = deployment.client_env("v2");
    eventually(|| async {
        match Process::try_start(&["connect"], &env).await {
            Ok(process) => {
                process.kill().await;
                Err("the token is still good".to_owned())
            }
            Err(ended) if ended.stderr.contains("error: TOKEN_EXPIRED") => Ok(()),
            Err(ended) => Err(ended.stderr),
        }
    })
    .await;
    let mut buffer = vec![0; 20_000_000];
    old_stream.read_exact(&mut buffer).await.unwrap();
    let new_stream = start_streaming(&client, &endless).await;
    drop(new_stream);
    let again = refreshed(&deployment.control, &tokens["refresh_token"], "phone").await;
    deployment.subscriber.token = again["access_token"].as_str().unwrap().to_owned();
    assert_eq!(deployment.connect("v2").await.stop().await.code, Some(0), "with a fresh token");
    deployment.control.update("devices", &deployment.subscriber.device, json!({ "status": "revoked" })).await;
    let ended = client.ended().await;
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: DEVICE_BANNED"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_link_and_code_and_draws_them_on_a_terminal() {
    let control = Control::start_with(Kind::Sqlite, &[("ENROLLMENT__LINK", LINK)]).await;
    let user = customer(&control, json!({})).await;
    let env = admin_env(&control);
    let field = format!("user_id={user}");
    let (code, stdout, stderr) = run(&["admin", "codes", "create", &field], &env).await;
    assert_eq!(code, Some(0), "{stderr}");
    let line = |name: &str| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(line("link "), format!("{LINK}#{}", line("code ")));
    assert!(!stdout.contains('█'), "no picture in a pipe");
    assert_eq!(enroll(&control, &line("code "), "phone").await.0, 200);
    let command = format!("{} admin codes create {field}", env!("CARGO_BIN_EXE_httvps"));
    let on_terminal = async |command: &str| {
        let mut script = tokio::process::Command::new("script");
        script.args(["-qec", command, "/dev/null"]).envs(env.iter().cloned()).stdin(std::process::Stdio::null());
        String::from_utf8(script.output().await.unwrap().stdout).unwrap()
    };
    let shown = on_terminal(&command).await;
    assert!(shown.contains(LINK) && shown.contains('█'), "{shown}");
    assert!(!on_terminal(&format!("{command} --json")).await.contains('█'));
}
