//! Sessions of the raw client.

use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Frame, Hello, SessionCode, StreamId, Target};

use crate::support::deployment::Deployment;
use crate::support::destination::Destination;
use crate::support::raw::{self, RawClient, dial_to, hello_of, upgrade_request};
use crate::support::subscriber::Subscriber;

/// Opens a session; returns the answer to its hello.
pub(crate) async fn say_hello(deployment: &Deployment, subscriber: &Subscriber) -> (RawClient, Frame) {
    let mut raw = RawClient::open(deployment, "httvps.v2").await;
    raw.frames(&[Frame::Hello(Box::new(hello_of(subscriber)))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

pub(crate) async fn open_stream(raw: &mut RawClient, id: u32, destination: &Destination, payload: Vec<u8>) {
    let (id, target) = (StreamId(id), Some(Target::Ip(destination.address)));
    let open = Frame::Open { id, target, payload: Bytes::from(payload), fin: false, udp: false };
    raw.frames(&[open, Frame::Window { id, consumed: 0, limit: u64::MAX }]).await;
}

/// Reads a stream until it or the session ends; returns the number of bytes and the session's code.
pub(crate) async fn read_stream(raw: &mut RawClient) -> (u64, Option<SessionCode>) {
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

pub(crate) async fn fetch_on(raw: &mut RawClient, id: u32, source: &Destination, bytes: u64) -> Duration {
    let started = Instant::now();
    open_stream(raw, id, source, bytes.to_be_bytes().to_vec()).await;
    assert_eq!(read_stream(raw).await, (bytes, None));
    started.elapsed()
}

/// Sends a hello to an address, replacing a session if one is named.
pub(crate) async fn say_hello_at(
    deployment: &Deployment,
    address: &str,
    subscriber: &Subscriber,
    replaces: Option<&str>,
) -> (RawClient, Frame) {
    let mut socket = dial_to(address, &deployment.ca()).await;
    let head = raw::request(&mut socket, &upgrade_request("httvps.v2")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut raw = RawClient::new(socket);
    let hello = Hello { replaces: replaces.map(str::to_owned), ..hello_of(subscriber) };
    raw.frames(&[Frame::Hello(Box::new(hello))]).await;
    let answer = raw.next_frame().await;
    (raw, answer)
}

pub(crate) fn session_id(answer: &Frame) -> String {
    let Frame::HelloOk(ok) = answer else { panic!("not let in: {answer:?}") };
    ok.session_id.clone()
}
