mod charges;
mod datagrams;
mod exactness;
mod features;
mod line;
mod memory;
mod resume;
mod silence;
mod states;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stream::Stream;
use super::*;
use crate::frame::{Encoding, Feature, Features, Frame, Hello, HelloLimits, Token, binary};
use bytes::{Bytes, BytesMut};

pub(crate) fn limits() -> Limits {
    Limits {
        streams: 8,
        window: 1 << 20,
        window_pool: 1 << 20,
        memory: Arc::new(MemoryBudget::new(1 << 30)),
        udp_queue: 64 * 1024,
        early_bytes: 64 * 1024,
        early_streams: 4,
        padding: Padding::default(),
        send_queue: 128 * 1024,
        send_pool: 4 << 20,
        v1_buffer: 64 * 1024,
        v1_stall_timeout: Duration::from_secs(30),
        quantum: 16 * 1024,
        opens_per_second: 20,
        resets_per_second: 10,
        pings_per_second: 5,
        tiny_frames_per_second: 100,
        idle_frames_per_second: 1_000_000,
        ping_after: Duration::from_secs(20),
        dead_after: Duration::from_secs(45),
        ping_after_busy: Duration::from_secs(3),
        dead_after_busy: Duration::from_secs(10),
        ping_jitter: 0.2,
        control_frames: 256,
        control_frames_per_message: 2048,
        keepalive_max: Duration::from_mins(5),
        kept: Arc::new(MemoryBudget::new(0)),
        kept_per_session: 0,
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        device_id: "d".into(),
        access_token: Token::from("t".to_owned()),
        region: "eu-1".into(),
        client_version: String::new(),
        platform: String::new(),
        features: Features::NONE,
        keepalive: None,
        resume: None,
        replaces: None,
    }
}

fn consent() -> HelloOk {
    HelloOk { session_id: "s".into(), ..HelloOk::default() }
}

fn target() -> Target {
    Target::Name("example.com".into(), 443)
}

/// Two cores and a clock that stands still unless told.
struct Pair {
    client: Session,
    gateway: Session,
    now: Instant,
}

impl Pair {
    fn greeting(encoding: Encoding, limits: Limits) -> Self {
        let now = Instant::now();
        let limits = Arc::new(limits);
        Self {
            client: Session::new(Role::Client, encoding, Arc::clone(&limits), 1, now),
            gateway: Session::new(Role::Gateway, encoding, limits, 2, now),
            now,
        }
    }

    fn open_with(encoding: Encoding, limits: Limits) -> Self {
        Self::featured(encoding, Features::NONE, limits)
    }

    fn featured(encoding: Encoding, features: Features, limits: Limits) -> Self {
        let mut pair = Self::greeting(encoding, limits);
        let hello = Hello { features, ..hello() };
        pair.client.hello(hello.clone());
        pair.exchange();
        assert_eq!(pair.gateway.poll_event(), Some(Event::Hello(Box::new(hello))));
        let consent = HelloOk { features, ..consent() };
        pair.gateway.accept(consent.clone());
        pair.exchange();
        assert_eq!(pair.client.poll_event(), Some(Event::Accepted(consent)));
        pair
    }

    fn open(encoding: Encoding) -> Self {
        Self::open_with(encoding, limits())
    }

    fn carry_up(&mut self) -> Result<(), SessionError> {
        carry(&mut self.client, &mut self.gateway, self.now)
    }

    fn exchange(&mut self) {
        for _ in 0..4 {
            self.carry_up().unwrap();
            carry(&mut self.gateway, &mut self.client, self.now).unwrap();
        }
    }

    fn stream(&mut self) -> (StreamKey, StreamKey) {
        let ours = self.client.open(&target(), Bytes::new(), self.now).unwrap();
        self.exchange();
        (ours, opened(&mut self.gateway).unwrap())
    }
}

fn opened(session: &mut Session) -> Option<StreamKey> {
    std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Opened { key, target: Some(to) } if to == target() => Some(key),
        _ => None,
    })
}

fn carry(from: &mut Session, to: &mut Session, now: Instant) -> Result<(), SessionError> {
    while let Some(transmit) = from.poll_transmit() {
        if let Transmit::Message(message) = transmit {
            to.handle_message(message.concat(), now)?;
        }
    }
    Ok(())
}

fn payload(bytes: &[u8]) -> Payload {
    Payload::from(bytes)
}

fn send_all(session: &mut Session, key: StreamKey, mut bytes: &[u8]) -> usize {
    let mut sent = 0;
    while !bytes.is_empty() {
        let Capacity::Bytes(room) = session.capacity(key) else { break };
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        session.send(key, payload(now));
        sent += now.len();
        bytes = later;
    }
    sent
}

fn receive_all(session: &mut Session, key: StreamKey, now: Instant) -> (Vec<u8>, Received) {
    let mut bytes = Vec::new();
    loop {
        match session.receive(key) {
            Received::Data(data) => {
                bytes.extend_from_slice(&data);
                session.consumed(key, data.len(), now);
            }
            end => return (bytes, end),
        }
    }
}

fn raw(session: &mut Session, frames: &[Frame], now: Instant) -> Result<(), SessionError> {
    let mut message = BytesMut::new();
    for frame in frames {
        binary::encode(frame, &mut message);
    }
    session.handle_message(message.freeze(), now)
}

#[test]
fn a_stream_both_ways_with_half_close() {
    let mut pair = Pair::open(Encoding::V2);
    let (ours, theirs) = pair.stream();
    assert_eq!(send_all(&mut pair.client, ours, b"request"), 7);
    pair.client.finish(ours);
    assert_eq!(pair.client.capacity(ours), Capacity::Closed);
    pair.exchange();
    assert_eq!(receive_all(&mut pair.gateway, theirs, pair.now), (b"request".to_vec(), Received::Finished));
    assert_eq!(send_all(&mut pair.gateway, theirs, b"answer"), 6);
    pair.gateway.finish(theirs);
    pair.exchange();
    assert_eq!(receive_all(&mut pair.client, ours, pair.now), (b"answer".to_vec(), Received::Finished));
    assert_eq!((pair.client.stream_count(), pair.gateway.stream_count()), (0, 0));
}

#[test]
fn the_fin_waits_for_what_is_queued_when_the_owner_is_gone() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut pair = Pair::open(encoding);
        let (ours, theirs) = pair.stream();
        if encoding == Encoding::V2 {
            pair.client.finish(ours);
            pair.exchange();
            assert_eq!(pair.gateway.receive(theirs), Received::Finished);
        }
        assert_eq!(send_all(&mut pair.gateway, theirs, &[7; 40_000]), 40_000);
        pair.gateway.finish(theirs);
        pair.gateway.forget(theirs);
        pair.exchange();
        let (bytes, end) = receive_all(&mut pair.client, ours, pair.now);
        assert_eq!((bytes.len(), end), (40_000, Received::Finished), "{encoding:?}");
        assert_eq!((pair.client.stream_count(), pair.gateway.stream_count()), (0, 0));
    }
}

#[test]
fn credit_is_what_the_other_side_took() {
    let mut pair = Pair::open(Encoding::V2);
    let (ours, theirs) = pair.stream();
    let bytes = vec![1; 300_000];
    assert_eq!(send_all(&mut pair.client, ours, &bytes), 65_536);
    pair.exchange();
    assert_eq!(pair.client.capacity(ours), Capacity::Blocked);
    let Received::Data(data) = pair.gateway.receive(theirs) else { panic!("no data") };
    pair.exchange();
    assert_eq!(pair.client.capacity(ours), Capacity::Blocked, "taken from the core is not consumed");
    pair.gateway.consumed(theirs, data.len(), pair.now);
    pair.exchange();
    assert!(std::iter::from_fn(|| pair.client.poll_event()).any(|event| event == Event::Wake(ours)));
    assert!(matches!(pair.client.capacity(ours), Capacity::Bytes(_)));
}

#[test]
fn windows_grow_while_used_quickly_and_stay_within_the_pool() {
    let mut pair = Pair::open(Encoding::V2);
    let (ours, theirs) = pair.stream();
    let mut sent = 0;
    let mut largest = 0;
    for _ in 0..200 {
        let round = send_all(&mut pair.client, ours, &[0; 4 << 20]);
        sent += round;
        largest = largest.max(round);
        pair.exchange();
        receive_all(&mut pair.gateway, theirs, pair.now);
        pair.exchange();
        pair.now += Duration::from_millis(1);
    }
    assert!(sent > 1 << 20);
    assert!(pair.gateway.pool_left <= (1 << 20) - (largest as u64).saturating_sub(INITIAL_WINDOW).min(1 << 19));
    pair.client.reset(ours, StreamCode::Cancelled);
    pair.exchange();
    assert_eq!(pair.gateway.receive(theirs), Received::Reset(StreamCode::Cancelled));
    assert_eq!(pair.gateway.pool_left, 1 << 20, "growth returns to the pool");
}

#[test]
fn more_than_was_granted_ends_the_session() {
    let mut pair = Pair::open(Encoding::V2);
    pair.stream();
    let data = Frame::Data { id: StreamId(1), payload: vec![0; 60_000].into(), fin: false };
    raw(&mut pair.gateway, std::slice::from_ref(&data), pair.now).unwrap();
    assert_eq!(raw(&mut pair.gateway, &[data], pair.now), Err(SessionError::FlowControl(StreamId(1))));
}

#[test]
fn protocol_errors_name_what_was_wrong() {
    let now = Instant::now();
    let data = |id| Frame::Data { id: StreamId(id), payload: Bytes::from_static(b"x"), fin: false };
    let open =
        |id| Frame::Open { id: StreamId(id), target: Some(target()), payload: Bytes::new(), fin: false, udp: false };
    let mut early = Pair::greeting(Encoding::V2, limits());
    assert_eq!(raw(&mut early.gateway, &[open(1)], now), Err(SessionError::Unexpected("a frame before `hello`")));
    let cases = [
        (vec![open(2)], SessionError::StreamId(StreamId(2))),
        (vec![open(3), open(1)], SessionError::StreamId(StreamId(1))),
        (vec![open(3), open(3)], SessionError::StreamId(StreamId(3))),
        (vec![data(9)], SessionError::StreamId(StreamId(9))),
        (vec![Frame::Hello(Box::new(hello()))], SessionError::Unexpected("hello")),
        (vec![Frame::HelloOk(consent())], SessionError::Unexpected("hello_ok")),
    ];
    for (frames, error) in cases {
        let mut pair = Pair::open(Encoding::V2);
        assert_eq!(raw(&mut pair.gateway, &frames, pair.now), Err(error));
    }
}

#[test]
fn a_reset_behind_a_fin_ends_the_other_direction_only() {
    for features in [Features::NONE, Features::ALL] {
        let encoding = if features.is_empty() { Encoding::V2 } else { Encoding::V1 };
        let mut pair = Pair::featured(encoding, features, limits());
        let (ours, theirs) = pair.stream();
        assert_eq!(send_all(&mut pair.gateway, theirs, &[7; 40_000]), 40_000);
        pair.gateway.finish(theirs);
        pair.gateway.forget(theirs);
        pair.exchange();
        assert_eq!(pair.gateway.stream_count(), 0, "the slot is free");
        let (bytes, end) = receive_all(&mut pair.client, ours, pair.now);
        assert_eq!((bytes.len(), end), (40_000, Received::Finished), "{encoding:?}");
        assert_eq!(pair.client.capacity(ours), Capacity::Closed, "nobody listens");
        assert_eq!(pair.client.stream_count(), 0);
    }
}

#[test]
fn answers_without_end_are_a_flood() {
    let mut pair = Pair::open(Encoding::V2);
    let open =
        |id| Frame::Open { id: StreamId(id), target: Some(target()), payload: Bytes::new(), fin: false, udp: false };
    let opens: Vec<_> = (0..4_000).map(|at| open(at * 2 + 1)).collect();
    let flooded = raw(&mut pair.gateway, &opens, pair.now);
    assert_eq!(flooded, Err(SessionError::Flood("frames that are answered")));
}

#[test]
fn frames_of_streams_that_are_over_are_ignored() {
    let mut pair = Pair::open(Encoding::V2);
    let (_, theirs) = pair.stream();
    pair.gateway.reset(theirs, StreamCode::Refused);
    let late = [
        Frame::Data { id: StreamId(1), payload: Bytes::from_static(b"x"), fin: true },
        Frame::Window { id: StreamId(1), consumed: 0, limit: u64::MAX },
        Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled },
    ];
    raw(&mut pair.gateway, &late, pair.now).unwrap();
    let fin = Frame::Data { id: StreamId(3), payload: Bytes::new(), fin: true };
    let open = Frame::Open { id: StreamId(3), target: Some(target()), payload: Bytes::new(), fin: false, udp: false };
    raw(&mut pair.gateway, &[open, fin.clone(), fin], pair.now).unwrap();
    assert_eq!(pair.gateway.receive(StreamKey(3)), Received::Reset(StreamCode::Cancelled), "DATA after FIN");
}

#[test]
fn too_many_streams_are_reset_and_the_session_lives() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut pair = Pair::open(encoding);
        pair.client.streams_max = 100;
        let keys: Vec<_> = (0..9).map(|_| pair.client.open(&target(), Bytes::new(), pair.now).unwrap()).collect();
        pair.exchange();
        assert_eq!(pair.gateway.stream_count(), 8);
        let refused = pair.client.receive(keys[8]);
        assert!(matches!(refused, Received::Reset(StreamCode::Limit) | Received::Finished), "{refused:?}");
        assert_eq!(pair.client.receive(keys[0]), Received::Nothing);
    }
}

fn open_frame(id: u32) -> Frame {
    Frame::Open { id: StreamId(id), target: Some(target()), payload: Bytes::new(), fin: false, udp: false }
}

fn opened_all(session: &mut Session) -> usize {
    std::iter::from_fn(|| session.poll_event()).filter(|event| matches!(event, Event::Opened { .. })).count()
}

#[test]
fn opens_beyond_the_rate_wait_for_their_turn() {
    let mut pair = Pair::open_with(Encoding::V2, Limits { streams: 64, resets_per_second: 100, ..limits() });
    let opens: Vec<_> = (0..30).map(|at| open_frame(at * 2 + 1)).collect();
    assert_eq!(raw(&mut pair.gateway, &opens, pair.now), Ok(()));
    assert_eq!(opened_all(&mut pair.gateway), 20);
    let gone = Frame::Reset { id: StreamId(41), code: StreamCode::Cancelled };
    assert_eq!(raw(&mut pair.gateway, &[gone], pair.now), Ok(()));
    let next = pair.gateway.poll_timeout().unwrap();
    assert!(next > pair.now && next <= pair.now + Duration::from_millis(51), "{:?}", next - pair.now);
    let mut came = 0;
    for tick in 1..=9 {
        let now = pair.now + Duration::from_millis(50) * tick;
        pair.gateway.handle_timeout(now).unwrap();
        came += opened_all(&mut pair.gateway);
        assert_eq!(came, usize::try_from(tick).unwrap(), "one after the other");
    }
    assert_eq!(pair.gateway.stream_count(), 29, "none was refused; the one that is gone took no turn");
    assert!(pair.gateway.next_turn().is_none());
}

#[test]
fn a_client_opens_no_faster_than_it_was_told() {
    let mut pair = Pair::greeting(Encoding::V2, Limits { streams: 64, ..limits() });
    pair.client.hello(hello());
    pair.exchange();
    let limits = HelloLimits { streams: 5, message: 0, opens_per_second: 4, keepalive: 0, dead_after: 0, udp_idle: 0 };
    pair.gateway.accept(HelloOk { limits: Some(limits), ..consent() });
    pair.exchange();
    let open = |pair: &mut Pair| pair.client.open(&target(), Bytes::new(), pair.now);
    assert!((0..4).all(|_| open(&mut pair).is_ok()));
    let Err(OpenError::Later(until)) = open(&mut pair) else { panic!("too fast") };
    assert!(until > pair.now && until <= pair.now + Duration::from_millis(251));
    pair.now = until;
    assert!(open(&mut pair).is_ok());
    pair.now += Duration::from_secs(1);
    assert_eq!(open(&mut pair), Err(OpenError::Limit), "five at once");
}

#[test]
fn floods_of_resets_and_pings_end_the_session() {
    let mut pair = Pair::open(Encoding::V2);
    pair.stream();
    let reset = Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled };
    assert_eq!(raw(&mut pair.gateway, &vec![reset.clone(); 10], pair.now), Ok(()));
    assert_eq!(raw(&mut pair.gateway, &[reset], pair.now), Err(SessionError::Flood("reset")));
    let ping = Frame::Ping([0; 8]);
    assert_eq!(raw(&mut pair.gateway, &vec![ping.clone(); 5], pair.now), Ok(()));
    assert_eq!(raw(&mut pair.gateway, &[ping], pair.now), Err(SessionError::Flood("ping")));
}

#[test]
fn tiny_frames_pause_reading_until_there_is_budget() {
    let mut pair = Pair::open(Encoding::V2);
    pair.stream();
    let tiny = Frame::Data { id: StreamId(1), payload: Bytes::from_static(b"x"), fin: false };
    raw(&mut pair.gateway, &vec![tiny.clone(); 100], pair.now).unwrap();
    assert!(!pair.gateway.is_paused());
    raw(&mut pair.gateway, &[tiny], pair.now).unwrap();
    assert!(pair.gateway.is_paused());
    let until = pair.gateway.poll_timeout().unwrap();
    pair.gateway.handle_timeout(until).unwrap();
    assert!(!pair.gateway.is_paused());
}

#[test]
fn silence_is_pinged_and_then_ends() {
    let mut pair = Pair::open(Encoding::V2);
    let ping_at = pair.gateway.poll_timeout().unwrap();
    let after = ping_at - pair.now;
    assert!((Duration::from_secs(16)..=Duration::from_secs(24)).contains(&after), "{after:?}");
    pair.now = ping_at;
    pair.gateway.handle_timeout(pair.now).unwrap();
    pair.exchange();
    let ping_at = pair.gateway.poll_timeout().unwrap();
    pair.gateway.handle_timeout(ping_at).unwrap();
    let dead_at = pair.gateway.poll_timeout().unwrap();
    assert_eq!(dead_at, pair.now + Duration::from_secs(45));
    assert_eq!(pair.gateway.handle_timeout(dead_at), Err(SessionError::Silent(Duration::from_secs(45))));
}

#[test]
fn v1_pings_with_the_transports_own_frame() {
    let mut pair = Pair::open(Encoding::V1);
    let at = pair.gateway.poll_timeout().unwrap();
    pair.gateway.handle_timeout(at).unwrap();
    assert!(matches!(pair.gateway.poll_transmit(), Some(Transmit::Ping)));
}

#[test]
fn v1_ids_are_free_after_close_and_the_target_may_span_payloads() {
    let mut pair = Pair::open(Encoding::V1);
    let mut head = Vec::new();
    target().encode(&mut head);
    head.extend_from_slice(b"first");
    let say = |gateway: &mut Session, text: String, now| gateway.handle_message(text.into_bytes().into(), now);
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let mut keys = Vec::new();
    for _ in 0..2 {
        say(&mut pair.gateway, r#"{"type":"stream_open","stream_id":4}"#.into(), pair.now).unwrap();
        for byte in &head {
            let text = format!(r#"{{"type":"stream_data","stream_id":4,"payload":"{}"}}"#, base64(&[*byte]));
            say(&mut pair.gateway, text, pair.now).unwrap();
        }
        keys.push(opened(&mut pair.gateway).unwrap());
        say(&mut pair.gateway, r#"{"type":"stream_close","stream_id":4}"#.into(), pair.now).unwrap();
        say(&mut pair.gateway, r#"{"type":"stream_data","stream_id":4,"payload":"eA=="}"#.into(), pair.now).unwrap();
    }
    for key in keys {
        assert_eq!(receive_all(&mut pair.gateway, key, pair.now), (b"first".to_vec(), Received::Finished));
    }
    assert_eq!(pair.gateway.stream_count(), 0);
}

#[test]
fn v1_what_a_client_writes_behind_the_gateways_end_does_not_cut_the_answer() {
    let mut pair = Pair::open(Encoding::V1);
    let (client, gateway) = pair.stream();
    send_all(&mut pair.gateway, gateway, &[7; 3000]);
    pair.gateway.finish(gateway);
    pair.gateway.forget(gateway);
    send_all(&mut pair.client, client, b"still talking");
    pair.carry_up().unwrap();
    pair.exchange();
    let (got, end) = receive_all(&mut pair.client, client, pair.now);
    assert_eq!((got.len(), end), (3000, Received::Finished));
    assert_eq!(pair.gateway.stream_count(), 0);
}

#[test]
fn v1_stops_reading_when_full_and_closes_a_stalled_stream() {
    let mut pair = Pair::open(Encoding::V1);
    let (ours, theirs) = pair.stream();
    assert_eq!(send_all(&mut pair.client, ours, &[1; 100_000]), 100_000);
    pair.exchange();
    assert!(pair.gateway.is_paused());
    let at = pair.gateway.poll_timeout().unwrap();
    assert_eq!(at, pair.now + Duration::from_secs(30), "the dead-peer timer stands still meanwhile");
    pair.gateway.handle_timeout(at).unwrap();
    pair.exchange();
    assert!(!pair.gateway.is_paused());
    assert!(matches!(pair.gateway.receive(theirs), Received::Reset(_)));
    assert_eq!(pair.client.receive(ours), Received::Finished);
}

#[test]
fn draining_tells_the_client_and_refuses_new_streams() {
    let mut pair = Pair::open(Encoding::V2);
    let (ours, theirs) = pair.stream();
    pair.gateway.drain(Duration::from_secs(1));
    pair.exchange();
    let going = |last, reconnect_in| Event::GoingAway { last: StreamId(last), reconnect_in };
    let first = going(u32::MAX, Duration::from_secs(1));
    assert!(std::iter::from_fn(|| pair.client.poll_event()).any(|event| event == first));
    let (moving, _) = pair.stream();
    assert_eq!(pair.client.receive(moving), Received::Nothing, "streams are still taken");
    pair.gateway.refuse_streams();
    let late = pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
    assert_eq!(send_all(&mut pair.gateway, theirs, b"still"), 5);
    pair.exchange();
    let last = going(3, Duration::ZERO);
    assert!(std::iter::from_fn(|| pair.client.poll_event()).any(|event| event == last));
    assert_eq!(pair.client.receive(late), Received::Reset(StreamCode::Cancelled));
    assert!(!pair.client.may_open());
    assert_eq!(receive_all(&mut pair.client, ours, pair.now).0, b"still");
    assert_eq!(pair.client.receive(moving), Received::Nothing);
}

#[test]
fn closing_tells_the_code_once_and_cancels_streams() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut pair = Pair::open(encoding);
        let (ours, theirs) = pair.stream();
        send_all(&mut pair.gateway, theirs, &[0; 1000]);
        pair.gateway.close(Some(SessionCode::LimitReached), "", None);
        pair.gateway.close(Some(SessionCode::Internal), "", None);
        assert!(matches!(pair.gateway.receive(theirs), Received::Reset(_)));
        let Some(Transmit::Message(message)) = pair.gateway.poll_transmit() else { panic!("no error frame") };
        pair.client.handle_message(message.concat(), pair.now).unwrap();
        assert!(matches!(pair.gateway.poll_transmit(), Some(Transmit::Close(Some(SessionCode::LimitReached)))));
        assert!(pair.gateway.poll_transmit().is_none());
        let ended = |event| matches!(event, Event::Ended { code: SessionCode::LimitReached, retry_after: None, .. });
        assert!(std::iter::from_fn(|| pair.client.poll_event()).any(ended));
        assert!(matches!(pair.client.receive(ours), Received::Reset(_)));
    }
}

#[test]
fn streams_take_turns_by_bytes() {
    let mut pair = Pair::open(Encoding::V2);
    let (_, first) = pair.stream();
    let (_, second) = pair.stream();
    for _ in 0..4 {
        pair.gateway.send(first, payload(&[1; 16_000]));
    }
    for _ in 0..16 {
        pair.gateway.send(second, payload(&[2; 1_000]));
    }
    let mut order = Vec::new();
    while let Some(Transmit::Message(message)) = pair.gateway.poll_transmit() {
        let message = message.concat();
        order.push((message[binary::HEADER_LEN], message.len() - binary::HEADER_LEN));
    }
    let before_second: usize = order.iter().take_while(|(mark, _)| *mark == 1).map(|(_, len)| len).sum();
    assert!(before_second <= 32_000, "{order:?}");
    let first_done = order.iter().rposition(|(mark, _)| *mark == 1);
    let second_done = order.iter().rposition(|(mark, _)| *mark == 2);
    assert!(second_done < first_done);
}
