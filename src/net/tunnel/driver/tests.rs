use std::sync::Arc;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::frame::{Features, Frame, Hello, HelloOk, Padding, Resumable, Resume, Token, binary};
use crate::mux::tests::{hello, limits};
use crate::mux::{Event, Limits, MemoryBudget, Role};

/// Less than an answer to `hello`.
const NARROW: usize = 64;

fn tunnel(role: Role) -> Tunnel {
    let kept = Arc::new(MemoryBudget::new(1 << 20));
    Tunnel::new(role, Encoding::V2, Arc::new(Limits { kept, kept_per_session: 1 << 20, ..limits() }))
}

fn driver(tunnel: &Tunnel, side: Side, socket: DuplexStream) -> Driver<DuplexStream> {
    let transport = Transport {
        framing: Framing::WebSocket(side),
        encoding: Encoding::V2,
        message_max: 1 << 16,
        hello_max: 1 << 16,
        fragments_max: 1,
        close_timeout: Duration::from_millis(50),
    };
    Driver::new(socket, Bytes::new(), tunnel.clone(), transport)
}

fn asking() -> Hello {
    Hello { features: Features::ALL, ..hello() }
}

fn ticket() -> Token {
    Token::from("t".repeat(NARROW))
}

/// What a client may go on with.
pub(crate) fn resumable() -> Resumable {
    Resumable { ticket: ticket(), hold: 30, resumed: false, opened: 0, streams: Vec::new() }
}

fn consent(is_resumable: bool) -> HelloOk {
    HelloOk { features: Features::ALL, resume: is_resumable.then(resumable), ..HelloOk::default() }
}

fn framed(opcode: OpCode, body: &[u8]) -> Bytes {
    let mut message = Message::from(body);
    write_header(&mut message, opcode, Side::Client);
    message.concat()
}

/// A gateway's session with a driver at work on a narrow line, which the answer to `hello` fills.
async fn session(is_resumable: bool) -> (Tunnel, tokio::task::JoinHandle<Ended>, DuplexStream) {
    let (mut near, far) = tokio::io::duplex(NARROW);
    let gateway = tunnel(Role::Gateway);
    let driving = tokio::spawn(driver(&gateway, Side::Server, far).run());
    let mut said = BytesMut::new();
    binary::encode(&Frame::Hello(Box::new(asking())), &mut said);
    near.write_all(&framed(OpCode::Binary, &said)).await.unwrap();
    assert!(matches!(gateway.next_event().await, Some(Event::Hello(_))));
    gateway.accept(consent(is_resumable));
    tokio::task::yield_now().await;
    (gateway, driving, near)
}

#[tokio::test]
async fn what_still_comes_by_a_line_that_was_left_does_not_end_the_session() {
    let (gateway, driving, mut near) = session(true).await;
    near.write_all(&framed(OpCode::Close, &1000u16.to_be_bytes())).await.unwrap();
    gateway.state().replace_driver();
    driving.await.unwrap();
    assert!(gateway.is_open());
}

#[tokio::test]
async fn a_session_whose_driver_is_dropped_is_held_or_over() {
    for is_resumable in [true, false] {
        let (gateway, driving, _near) = session(is_resumable).await;
        driving.abort();
        assert!(driving.await.is_err());
        assert_eq!((gateway.is_held(), gateway.is_gone()), (is_resumable, !is_resumable));
    }
}

#[tokio::test]
async fn a_session_that_was_taken_up_is_held_if_its_new_driver_is_dropped() {
    let (gateway, _driving, _near) = session(true).await;
    let (other, (_near, far)) = (tunnel(Role::Gateway), tokio::io::duplex(NARROW));
    let driver = driver(&other, Side::Server, far);
    let theirs = Resume { ticket: ticket(), opened: 0, streams: Vec::new() };
    assert!(other.take_up(&gateway, &theirs, consent(true)));
    drop(driver);
    assert!(gateway.is_held() && other.is_gone());
}

/// A client whose session can be resumed, and its gateway.
pub(crate) async fn connected() -> (Tunnel, Tunnel) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, gateway) = (tunnel(Role::Client), tunnel(Role::Gateway));
    tokio::spawn(driver(&client, Side::Client, near).run());
    tokio::spawn(driver(&gateway, Side::Server, far).run());
    client.hello(asking(), &Padding::default());
    assert!(matches!(gateway.next_event().await, Some(Event::Hello(_))));
    gateway.accept(consent(true));
    assert!(matches!(client.next_event().await, Some(Event::Accepted(_))));
    (client, gateway)
}

#[tokio::test]
async fn who_leaves_a_line_is_not_told_that_it_is_lost() {
    let (client, _gateway) = connected().await;
    client.leave();
    assert!(client.is_held() && client.next_event().now_or_never().is_none());
    client.give_up();
    assert!(client.is_gone());
}
