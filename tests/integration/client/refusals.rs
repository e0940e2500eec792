//! Clients that may not connect are told why, and `connect` exits with code 4.

use bytes::Bytes;
use httvps::clock::Clock;
use httvps::frame::{Frame, Hello, SessionCode, StreamId, Target, Token};
use httvps::net::websocket::Incoming;
use httvps::token::Issuer;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::control::{Control, REGION, SEED};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::{Env, free_port, with};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::raw::{self, RawClient};
use crate::support::subscriber::Subscriber;
use crate::support::wait::{TIMEOUT, eventually};

async fn refused(env: &Env) -> String {
    let ended = Process::try_start(&["connect"], env).await.err().expect("it is refused");
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix("error: ")).expect("a line with the code");
    line.split(':').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_regions() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let device: uuid::Uuid = deployment.subscriber.device.parse().unwrap();
    let user: uuid::Uuid = deployment.subscriber.user.parse().unwrap();
    let other = Subscriber::create(&deployment.control, json!({})).await;
    let now = Clock::system().now().unix_timestamp();
    let ours = Issuer::new(&SEED).unwrap();
    let expired = ours.issue(device, user, now - 7200, 3600).unwrap();
    let foreign = Issuer::new(&[9; 32]).unwrap().issue(device, user, now, 3600).unwrap();
    let stranger = ours.issue(uuid::Uuid::now_v7(), user, now, 3600).unwrap();
    let mixed = ours.issue(device, other.user.parse().unwrap(), now, 3600).unwrap();
    for encoding in ["v1", "v2"] {
        let env = deployment.client_env(encoding);
        let token = |token: &str| with(&env, "CLIENT__TOKEN", token);
        assert_eq!(refused(&token("nonsense")).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&format!("{}x", deployment.subscriber.token))).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&expired)).await, "TOKEN_EXPIRED");
        assert_eq!(refused(&token(&foreign)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&stranger)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&other.token)).await, "INVALID_TOKEN");
        assert_eq!(refused(&token(&mixed)).await, "INVALID_TOKEN");
        assert_eq!(refused(&with(&env, "CLIENT__DEVICE_ID", "nobody")).await, "INVALID_TOKEN");
        assert_eq!(refused(&with(&env, "CLIENT__REGION", "nowhere-1")).await, "UNKNOWN_REGION");
    }
    let asked = deployment.metric("httvps_refused_total{reason=\"INVALID_TOKEN\"}").await;
    assert_eq!(asked, 14);
    deployment.control.create("regions", json!({ "code": "us-1" })).await;
    let elsewhere = with(&deployment.client_env("v2"), "CLIENT__REGION", "us-1");
    assert_eq!(refused(&elsewhere).await, "UNKNOWN_REGION", "not an exit region of this gateway");
    assert_eq!(deployment.control.list("sessions").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_user_device_and_subscription() {
    let deployment = Deployment::start(Kind::Postgres, CHACHA).await;
    let env = deployment.client_env("v2");
    let Subscriber { user, subscription, plan, device, .. } = deployment.subscriber.clone();
    let control = &deployment.control;
    control.update("users", &user, json!({ "status": "pending" })).await;
    assert_eq!(refused(&env).await, "USER_PENDING");
    control.update("users", &user, json!({ "status": "banned" })).await;
    assert_eq!(refused(&env).await, "USER_BANNED");
    control.update("users", &user, json!({ "status": "active" })).await;
    control.update("devices", &device, json!({ "status": "revoked" })).await;
    assert_eq!(refused(&env).await, "DEVICE_BANNED");
    control.update("devices", &device, json!({ "status": "active" })).await;
    control.update("subscriptions", &subscription, json!({ "status": "cancelled" })).await;
    assert_eq!(refused(&env).await, "NO_SUBSCRIPTION");
    control.update("subscriptions", &subscription, json!({ "status": "active" })).await;
    control.create("devices", json!({ "user_id": user })).await;
    let newer = control.create("devices", json!({ "user_id": user })).await;
    control.update("plans", &plan, json!({ "max_devices": 2 })).await;
    let newest = with(&env, "CLIENT__DEVICE_ID", newer["id"].as_str().unwrap());
    let newest = with(&newest, "CLIENT__TOKEN", newer["access_token"].as_str().unwrap());
    assert_eq!(refused(&newest).await, "DEVICE_LIMIT");
    control
        .update("nodes", control.list("nodes").await[0]["id"].as_str().unwrap(), json!({ "state": "maintenance" }))
        .await;
    let mut unlucky = crate::support::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async {
        match deployment.metric("httvps_refused_total{reason=\"NO_NODE_AVAILABLE\"}").await {
            0 | 1 => Err("not refused twice yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    unlucky.kill().await.unwrap();
    control.update("nodes", control.list("nodes").await[0]["id"].as_str().unwrap(), json!({ "state": "active" })).await;
    control.update("plans", &plan, json!({ "max_sessions": 1 })).await;
    let first = deployment.connect("v2").await;
    let mut second = crate::support::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async {
        match deployment.metric("httvps_refused_total{reason=\"TOO_MANY_SESSIONS\"}").await {
            0 => Err("not refused yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    second.kill().await.unwrap();
    assert_eq!(first.stop().await.code, Some(0));
    assert_eq!(REGION, "eu-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_refused_while_there_is_no_tunnel() {
    let socks = format!("127.0.0.1:{}", free_port());
    let env = crate::support::environment::env(&[
        ("CLIENT__GATEWAY", "wss://127.0.0.1:1/tunnel"),
        ("CLIENT__DEVICE_ID", "device"),
        ("CLIENT__TOKEN", "token"),
        ("CLIENT__REGION", REGION),
        ("CLIENT__SOCKS", &socks),
        ("CLIENT__HTTP", ""),
        ("CLIENT__CONNECT_TIMEOUT", "100ms"),
    ]);
    let client = crate::support::process::command(&["connect"], &env).spawn().unwrap();
    eventually(|| async { TcpStream::connect(&socks).await.map(drop).map_err(|error| error.to_string()) }).await;
    let asked = timeout(TIMEOUT, crate::support::socks::connect(&socks, "127.0.0.1:9".parse().unwrap())).await;
    let refused = asked.expect("an answer in time").expect_err("no tunnel");
    assert_eq!(refused.to_string(), "SOCKS5 reply 1");
    drop(client);
}

/// Sends a hello and returns the answer.
async fn asks(deployment: &Deployment, of: &Subscriber, change: impl FnOnce(&mut Hello)) -> Frame {
    let mut raw = RawClient::open(deployment, "httvps.v2").await;
    let mut hello = raw::hello(deployment);
    hello.device_id.clone_from(&of.device);
    hello.access_token = Token::from(of.token.clone());
    change(&mut hello);
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    raw.next_frame().await
}

fn support_id(answer: &Frame) -> String {
    let Frame::Error { message, .. } = answer else { panic!("{answer:?}") };
    message.split_once("(support id ").unwrap().1.trim_end_matches(')').to_owned()
}

async fn noted(deployment: &Deployment, answer: &Frame) -> usize {
    deployment.control.list(&format!("refusals?support_id={}", support_id(answer))).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_of_a_device_are_rate_limited_at_the_gateway() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("TUNNEL__HELLOS_PER_MINUTE", "3")]).await;
    let own = &deployment.subscriber;
    let other = Subscriber::create(&deployment.control, json!({})).await;
    let nowhere = |hello: &mut Hello| hello.region = "nowhere".into();
    assert!(matches!(asks(&deployment, own, |_| ()).await, Frame::HelloOk(_)));
    let refused = asks(&deployment, own, nowhere).await;
    assert!(matches!(refused, Frame::Error { code: SessionCode::UnknownRegion, .. }));
    let (device, user) = (own.device.parse().unwrap(), own.user.parse().unwrap());
    let long_ago = Clock::system().now().unix_timestamp() - 7200;
    let expired = Issuer::new(&SEED).unwrap().issue(device, user, long_ago, 3600).unwrap();
    for _ in 0..3 {
        let late = asks(&deployment, own, |hello| hello.access_token = Token::from(expired.clone())).await;
        assert!(matches!(late, Frame::Error { code: SessionCode::TokenExpired, .. }));
    }
    let third = asks(&deployment, own, nowhere).await;
    assert!(
        matches!(third, Frame::Error { code: SessionCode::UnknownRegion, .. }),
        "who has an old token uses up another"
    );
    for region in [REGION, "nowhere"] {
        let more = asks(&deployment, own, |hello| hello.region = region.into()).await;
        assert!(matches!(more, Frame::Error { code: SessionCode::Overloaded, .. }), "{more:?}");
        assert_eq!(noted(&deployment, &more).await, 0);
    }
    let late = asks(&deployment, own, |hello| hello.access_token = Token::from(expired)).await;
    assert!(matches!(late, Frame::Error { code: SessionCode::Overloaded, .. }), "{late:?}");
    assert!(matches!(asks(&deployment, &other, |_| ()).await, Frame::HelloOk(_)), "others have their own");
    let foreign = asks(&deployment, own, |hello| hello.access_token = Token::from("x".to_owned())).await;
    assert!(matches!(foreign, Frame::Error { code: SessionCode::InvalidToken, .. }), "nobody uses up another's");
    assert_eq!(noted(&deployment, &refused).await, 1);
    assert_eq!(deployment.control.list("sessions").await.len(), 2);
    let mut raw = RawClient::open(&deployment, "httvps.v1").await;
    let hello = json!({
        "type": "hello", "device_id": own.device, "access_token": own.token, "region": REGION, "features": ["error"],
    });
    raw.text(&hello.to_string()).await;
    let Some(Incoming::Text(answer)) = raw.next().await else { panic!("no answer") };
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["code"], "OVERLOADED");
    assert!(answer["retry_after_ms"].as_u64().is_some_and(|wait| wait >= 2500), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_hellos_leave_no_rows_for_long() {
    for kind in BOTH {
        let short = [
            ("SESSIONS__EMPTY_RETENTION", "1s"),
            ("SESSIONS__REFUSAL_RETENTION", "1s"),
            ("SESSIONS__SWEEP_INTERVAL", "100ms"),
            ("SESSIONS__STARTUP_GRACE", "0s"),
        ];
        let deployment = Deployment::around(Control::start_with(kind, &short).await, &[CHACHA], json!({}), &[]).await;
        let echo = Destination::start(Behavior::Echo);
        let mut used = RawClient::session(&deployment).await;
        let target = Some(Target::Ip(echo.address));
        let payload = Bytes::from_static(b"hello");
        used.frames(&[Frame::Open { id: StreamId(1), target, payload, fin: false, udp: false }]).await;
        assert!(matches!(used.next_frame().await, Frame::Data { .. }));
        drop(used);
        let mut refused = Vec::new();
        for _ in 0..3 {
            assert!(matches!(asks(&deployment, &deployment.subscriber, |_| ()).await, Frame::HelloOk(_)));
            refused.push(asks(&deployment, &deployment.subscriber, |hello| hello.region = "nowhere".into()).await);
        }
        eventually(|| async {
            let sessions = deployment.control.list("sessions").await;
            let moved: Vec<_> = sessions.iter().map(|session| session["bytes_down"].as_u64().unwrap()).collect();
            let mut refusals = 0;
            for answer in &refused {
                refusals += noted(&deployment, answer).await;
            }
            if (moved.as_slice(), refusals) == (&[5], 0) { Ok(()) } else { Err(format!("{moved:?} {refusals}")) }
        })
        .await;
    }
}
