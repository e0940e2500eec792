//! What a client may send before it is answered, and the round trips that this saves.

use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::OpCode;
use httvps::clock::Clock;
use httvps::frame::{Frame, SessionCode, StreamId, Target};
use httvps::token::Issuer;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::control::SEED;
use crate::support::database::Kind;
use crate::support::delayed_link::DelayedLink;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw::{RawClient, dial, dial_to, encoded, hello, request, upgrade_request};
use crate::support::subscriber::Subscriber;

const DELAY: Duration = Duration::from_millis(100);

fn open(id: u32, echo: &Destination, payload: &'static [u8]) -> Frame {
    let target = Some(Target::Ip(echo.address));
    Frame::Open { id: StreamId(id), target, payload: Bytes::from_static(payload), fin: false, udp: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tunnels_first_byte_takes_three_round_trips() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    let gateway = deployment.address().to_owned();
    let line = DelayedLink::to(gateway, DELAY).await;
    let mut socket = dial_to(&line.address.to_string(), &deployment.ca()).await;
    let head = request(&mut socket, &upgrade_request("httvps.v2")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = RawClient::new(socket);
    raw.frames(&[Frame::Hello(Box::new(hello(&deployment))), open(1, &echo, b"first byte")]).await;
    assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
    let Frame::Data { payload, .. } = raw.next_frame().await else { panic!("no data") };
    assert_eq!(&payload[..], b"first byte");
    assert_eq!(line.round_trips(), 3, "TLS, upgrade, hello with OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_after_a_hello_open_once_it_is_accepted_and_never_if_refused() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    let mut raw = RawClient::open(&deployment, "httvps.v2").await;
    let mut frames = vec![Frame::Hello(Box::new(hello(&deployment)))];
    frames.extend((0..16).map(|at| open(at * 2 + 1, &echo, b"early")));
    raw.frames(&frames).await;
    assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
    for _ in 0..16 {
        let frame = raw.next_frame().await;
        assert!(matches!(frame, Frame::Data { .. }), "{frame:?}");
    }
    assert_eq!(echo.connections(), 16);
    let mut refused = hello(&deployment);
    refused.region = "nowhere".into();
    let mut raw = RawClient::open(&deployment, "httvps.v2").await;
    raw.frames(&[Frame::Hello(Box::new(refused)), open(1, &echo, b"early")]).await;
    assert!(matches!(raw.next_frame().await, Frame::Error { code: SessionCode::UnknownRegion, .. }));
    assert_eq!(raw.closed().await, Some(4014));
    assert_eq!(echo.connections(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flight_after_the_upgrade_request_suffices() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let echo = Destination::start(Behavior::Echo);
    let mut socket = dial(&deployment).await;
    let mut flight = upgrade_request("httvps.v2").into_bytes();
    let body = encoded(&[Frame::Hello(Box::new(hello(&deployment))), open(1, &echo, b"eager")]);
    flight.extend([0x82, 0xfe]);
    flight.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    flight.extend([0; 4]);
    flight.extend(&body);
    socket.write_all(&flight).await.unwrap();
    let head = request(&mut socket, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = RawClient::new(socket);
    assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
    assert!(matches!(raw.next_frame().await, Frame::Data { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_checked_before_the_upgrade_and_must_match_the_hello() {
    let deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &[("TUNNEL__REQUIRE_BEARER", "true")]).await;
    let other = Subscriber::create(&deployment.control, json!({})).await;
    let (device, user) = (other.device.parse().unwrap(), other.user.parse().unwrap());
    let now = Clock::system().now().unix_timestamp();
    let expired = Issuer::new(&SEED).unwrap().issue(device, user, now - 7200, 3600).unwrap();
    let ask = async |header: String| {
        let mut socket = dial(&deployment).await;
        let plain = upgrade_request("httvps.v2");
        let head = plain.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
        let answer = request(&mut socket, if header.is_empty() { &plain } else { &head }).await;
        (answer.split(' ').nth(1).unwrap().to_owned(), RawClient::new(socket))
    };
    assert_eq!(ask(String::new()).await.0, "404", "none");
    assert_eq!(ask(format!("Authorization: Bearer {expired}")).await.0, "404");
    assert_eq!(ask("Authorization: Bearer x.y.z".into()).await.0, "404");
    let (status, mut raw) = ask(format!("authorization: bearer {}", deployment.subscriber.token)).await;
    assert_eq!(status, "101", "a scheme is the same in any case");
    raw.frames(&[Frame::Hello(Box::new(hello(&deployment)))]).await;
    assert!(matches!(raw.next_frame().await, Frame::HelloOk(_)));
    let (_, mut raw) = ask(format!("Authorization: Bearer {}", other.token)).await;
    raw.frames(&[Frame::Hello(Box::new(hello(&deployment)))]).await;
    assert!(matches!(raw.next_frame().await, Frame::Error { code: SessionCode::InvalidToken, .. }));
    raw.say(OpCode::Close, &[]).await;
    assert_eq!(raw.closed().await, Some(4004));
    let mut env = deployment.client_env("v2");
    env.push(("HTTVPS_CLIENT__BEARER".into(), "true".into()));
    let client = crate::support::process::Process::start(&["connect"], &env).await;
    assert_eq!(client.stop().await.code, Some(0));
}
