//! Sessions of a client that does what it is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Frame, Hello, SessionCode, StreamId, Target, Token};

use crate::support::deployment::World;
use crate::support::destination::Destination;
use crate::support::process::Process;
use crate::support::raw::{self, Raw, dial_to, hello, upgrade_request};
use crate::support::subscriber::Subscriber;

/// A session on which nothing was asked for yet.
pub(crate) async fn enter(world: &World, subscriber: &Subscriber) -> (Raw, Frame) {
    let mut raw = Raw::open(world, "httvps.v2").await;
    let token = Token::from(subscriber.token.clone());
    let hello = Hello { device_id: subscriber.device.clone(), access_token: token, ..hello(world) };
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

pub(crate) async fn open(raw: &mut Raw, id: u32, destination: &Destination, payload: Vec<u8>) {
    let (id, target) = (StreamId(id), Some(Target::Ip(destination.address)));
    let open = Frame::Open { id, target, payload: Bytes::from(payload), fin: false, udp: false };
    raw.frames(&[open, Frame::Window { id, consumed: 0, limit: u64::MAX }]).await;
}

/// Reads a stream's bytes until it or the session ends; gives how many came and the session's code.
pub(crate) async fn read(raw: &mut Raw) -> (u64, Option<SessionCode>) {
    let mut got = 0;
    loop {
        match raw.next_frame().await {
            Frame::Data { payload, fin, .. } => {
                got += payload.len() as u64;
                if fin {
                    return (got, None);
                }
            }
            Frame::Error { code, .. } => return (got, Some(code)),
            _ => {}
        }
    }
}

pub(crate) fn is_ok(answer: &Frame) -> bool {
    matches!(answer, Frame::HelloOk(_))
}

pub(crate) fn is_refused(answer: &Frame, with: SessionCode) -> bool {
    matches!(answer, Frame::Error { code, .. } if *code == with)
}

pub(crate) async fn fetch(raw: &mut Raw, id: u32, source: &Destination, bytes: u64) -> Duration {
    let started = Instant::now();
    open(raw, id, source, bytes.to_be_bytes().to_vec()).await;
    assert_eq!(read(raw).await, (bytes, None));
    started.elapsed()
}

pub(crate) fn address_of(gateway: &Process) -> &str {
    gateway.line("gateway").strip_prefix("wss://").unwrap()
}

/// Says hello over an address, in the place of a session if it is named.
pub(crate) async fn enter_at(
    world: &World,
    address: &str,
    subscriber: &Subscriber,
    replaces: Option<&str>,
) -> (Raw, Frame) {
    let mut socket = dial_to(address, &world.ca()).await;
    let head = raw::request(&mut socket, &upgrade_request("httvps.v2")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = Raw::new(socket);
    let hello = Hello {
        device_id: subscriber.device.clone(),
        access_token: Token::from(subscriber.token.clone()),
        replaces: replaces.map(str::to_owned),
        ..hello(world)
    };
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

pub(crate) fn session_of(answer: &Frame) -> String {
    let Frame::HelloOk(ok) = answer else { panic!("not let in: {answer:?}") };
    ok.session_id.clone()
}
