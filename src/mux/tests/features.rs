//! Early data, v1's additions, padding, notices, keepalive.

use super::*;
use crate::frame::json;

fn say(session: &mut Session, text: &str, now: Instant) -> Result<(), SessionError> {
    session.handle_message(Bytes::copy_from_slice(text.as_bytes()), now)
}

/// Everything a session has to say in v1.
fn said(session: &mut Session) -> Vec<String> {
    let messages = std::iter::from_fn(|| session.poll_transmit());
    let body = |transmit| match transmit {
        Transmit::Message(message) => Some(String::from_utf8(message.concat().to_vec()).unwrap()),
        Transmit::Ping | Transmit::Close(_) => None,
    };
    messages.filter_map(body).collect()
}

#[test]
fn streams_right_behind_hello_wait_for_the_decision_within_bounds() {
    let mut pair = Pair::greeting(Encoding::V2, limits());
    pair.client.hello(hello());
    let keys: Vec<_> =
        (0..4).map(|_| pair.client.open(&target(), Bytes::from_static(b"early"), pair.now).unwrap()).collect();
    assert_eq!(pair.client.open(&target(), Bytes::new(), pair.now), Err(OpenError::NotOpen), "four are early");
    pair.carry_up().unwrap();
    assert!(pair.gateway.is_paused(), "as many streams as may be early");
    assert!(matches!(pair.gateway.poll_event(), Some(Event::Hello(_))));
    pair.gateway.accept(consent());
    assert!(!pair.gateway.is_paused());
    for _ in &keys {
        let key = opened(&mut pair.gateway).unwrap();
        assert_eq!(receive_all(&mut pair.gateway, key, pair.now).0, b"early");
    }
}

#[test]
fn early_bytes_are_bounded() {
    let mut pair = Pair::greeting(Encoding::V2, limits());
    pair.client.hello(hello());
    let key = pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
    pair.carry_up().unwrap();
    assert!(!pair.gateway.is_paused());
    assert_eq!(send_all(&mut pair.client, key, &[0; 100_000]), 65_536);
    pair.carry_up().unwrap();
    assert!(pair.gateway.is_paused());
    assert!(pair.gateway.poll_timeout().is_none(), "nobody is dead who is not read");
}

#[test]
fn an_early_stream_is_dropped_with_its_session() {
    let mut pair = Pair::greeting(Encoding::V2, limits());
    pair.client.hello(hello());
    let key = pair.client.open(&target(), Bytes::from_static(b"early"), pair.now).unwrap();
    pair.carry_up().unwrap();
    pair.gateway.close(Some(SessionCode::NoSubscription), "", None);
    carry(&mut pair.gateway, &mut pair.client, pair.now).unwrap();
    assert!(matches!(pair.client.receive(key), Received::Reset(_)));
    assert_eq!(pair.gateway.limits.memory.held(), 0);
}

#[test]
fn a_v1_client_with_windows_and_half_close_is_a_v2_client_in_json() {
    let mut pair = Pair::featured(Encoding::V1, Features::ALL, limits());
    let (ours, theirs) = pair.stream();
    let bytes = vec![7; 300_000];
    assert_eq!(send_all(&mut pair.client, ours, &bytes), 65_536, "credit");
    pair.exchange();
    assert!(!pair.gateway.is_paused(), "windows bound it");
    assert_eq!(receive_all(&mut pair.gateway, theirs, pair.now).0.len(), 65_536);
    pair.exchange();
    assert!(matches!(pair.client.capacity(ours), Capacity::Bytes(_)));
    pair.client.finish(ours);
    pair.exchange();
    assert_eq!(receive_all(&mut pair.gateway, theirs, pair.now).1, Received::Finished);
    assert_eq!(send_all(&mut pair.gateway, theirs, b"answer"), 6);
    pair.gateway.finish(theirs);
    pair.exchange();
    assert_eq!(receive_all(&mut pair.client, ours, pair.now), (b"answer".to_vec(), Received::Finished));
    assert_eq!((pair.client.stream_count(), pair.gateway.stream_count()), (0, 0));
}

#[test]
fn a_v1_client_hears_why_if_it_asked() {
    let refused = |features| {
        let mut pair = Pair::featured(Encoding::V1, features, limits());
        let (_, theirs) = pair.stream();
        pair.gateway.reset(theirs, StreamCode::Blocked);
        said(&mut pair.gateway)
    };
    assert_eq!(refused(Features::NONE), [r#"{"type":"stream_close","stream_id":1}"#]);
    assert_eq!(
        refused(Features::NONE.with(Feature::Code)),
        [r#"{"type":"stream_close","stream_id":1,"code":"BLOCKED"}"#]
    );
    assert_eq!(
        refused(Features::NONE.with(Feature::Error)),
        [
            r#"{"type":"error","code":"BLOCKED","stream_id":1,"message":"BLOCKED"}"#,
            r#"{"type":"stream_close","stream_id":1}"#
        ]
    );
}

#[test]
fn a_refusal_says_when_to_come_back_if_the_client_asked() {
    for (features, text) in [
        (Features::NONE, r#"{"type":"error","code":"OVERLOADED"}"#),
        (Features::ALL, r#"{"type":"error","code":"OVERLOADED","message":"OVERLOADED","retry_after_ms":1500}"#),
    ] {
        let mut pair = Pair::greeting(Encoding::V1, limits());
        pair.client.hello(Hello { features, ..hello() });
        pair.carry_up().unwrap();
        let code = SessionCode::Overloaded;
        let wait = Duration::from_millis(1500);
        pair.gateway.close(Some(code), code.as_str(), Some(wait));
        let told = said(&mut pair.gateway);
        assert_eq!(told, [text]);
        say(&mut pair.client, &told[0], pair.now).unwrap();
        let retry_after = (!features.is_empty()).then_some(wait);
        let ended = std::iter::from_fn(|| pair.client.poll_event()).last();
        let message = code.as_str().to_owned();
        assert_eq!(ended, Some(Event::Ended { code, message, retry_after }));
    }
}

#[test]
fn news_reach_those_who_understand_them() {
    let notice = Notice::Quota { percent: 80, remaining_bytes: 5 };
    for (encoding, features, heard) in [
        (Encoding::V1, Features::NONE, false),
        (Encoding::V1, Features::NONE.with(Feature::Notice), true),
        (Encoding::V2, Features::NONE, true),
    ] {
        let mut pair = Pair::featured(encoding, features, limits());
        pair.gateway.notice(notice.clone());
        pair.exchange();
        assert_eq!(pair.client.poll_event(), heard.then(|| Event::Notice(notice.clone())), "{encoding:?} {features:?}");
    }
}

#[test]
fn a_ping_is_overdue_only_once_it_has_left_at_the_latest() {
    let mut pair = Pair::open_with(Encoding::V2, limits());
    let heard = pair.now;
    let earliest = heard + Duration::from_secs(16);
    let due = pair.gateway.poll_timeout().unwrap();
    let latest = heard + Duration::from_secs(24);
    assert!((earliest..=latest).contains(&due), "{:?}", due - heard);
    assert_eq!(pair.gateway.overdue(latest), Duration::ZERO);
    assert_eq!(pair.gateway.overdue(latest + Duration::from_secs(1)), Duration::from_secs(1));
    pair.gateway.heard(latest);
    assert_eq!(pair.gateway.overdue(latest + Duration::from_secs(1)), Duration::ZERO);
}

#[test]
fn a_phone_may_sleep_longer() {
    let keepalive_of = |keepalive| {
        let mut pair = Pair::greeting(Encoding::V2, limits());
        pair.client.hello(Hello { keepalive, ..hello() });
        pair.carry_up().unwrap();
        let (ping_after, dead_after) = pair.gateway.keepalive();
        [ping_after.as_secs(), dead_after.as_secs()]
    };
    assert_eq!(keepalive_of(None), [20, 45]);
    assert_eq!(keepalive_of(Some(60)), [60, 85]);
    assert_eq!(keepalive_of(Some(5)), [20, 45], "not less than the gateway wants");
    assert_eq!(keepalive_of(Some(86_400)), [300, 325], "not more than the limit");
}

/// Bytes of the next messages of a side, and of the padding in them.
fn padded(session: &mut Session, messages: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    for _ in 0..messages {
        let Some(Transmit::Message(message)) = session.poll_transmit() else { break };
        let mut body = message.concat();
        let frames = std::iter::from_fn(|| binary::decode(&mut body).unwrap());
        let padding = frames.map(|frame| if let Frame::Padding(len) = frame { len.into() } else { 0 });
        sizes.push(padding.sum());
    }
    sizes
}

#[test]
fn the_first_messages_are_padded_by_the_scheme() {
    let scheme = Padding::new(vec![(100, 200), (0, 0), (7, 7)]);
    let mut pair = Pair::greeting(Encoding::V2, Limits { padding: scheme.clone(), ..limits() });
    pair.client.pad(&scheme);
    pair.client.hello(hello());
    let sizes = padded(&mut pair.client, 1);
    assert!((100..=200).contains(&sizes[0]), "{sizes:?}");
    for (expected, _) in [(0, "second"), (7, "third"), (0, "fourth")] {
        pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
        assert_eq!(padded(&mut pair.client, 1), [expected]);
    }
    raw(&mut pair.gateway, &[Frame::Hello(Box::new(hello())), Frame::Padding(300)], pair.now).unwrap();
    pair.gateway.accept(consent());
    assert!((100..=200).contains(&padded(&mut pair.gateway, 1)[0]), "the gateway pads, too");
    let mut plain = Pair::greeting(Encoding::V1, Limits { padding: scheme, ..limits() });
    say(&mut plain.gateway, r#"{"type":"hello","device_id":"d","access_token":"t","region":"r"}"#, plain.now).unwrap();
    plain.gateway.accept(consent());
    assert_eq!(said(&mut plain.gateway), [r#"{"type":"hello_ok","session_id":"s"}"#], "v1 has no padding");
}

#[test]
fn a_padded_message_stays_within_the_largest() {
    let scheme = Padding::new(vec![(0, 0), (16_000, 16_000), (16_000, 16_000)]);
    let mut pair = Pair::open_with(Encoding::V2, Limits { padding: scheme, ..limits() });
    let (_, theirs) = pair.stream();
    let Capacity::Bytes(room) = pair.gateway.capacity(theirs) else { panic!("blocked") };
    pair.gateway.send(theirs, payload(&vec![1; room]));
    let Some(Transmit::Message(message)) = pair.gateway.poll_transmit() else { panic!("nothing") };
    assert!(message.len() <= binary::MAX_MESSAGE);
}

#[test]
fn a_name_that_is_no_text_travels_in_the_payload() {
    let mut pair = Pair::featured(Encoding::V1, Features::ALL, limits());
    for name in ["::1", "a:b", "127.0.0.1", ""] {
        let odd = Target::Name(name.into(), 443);
        pair.client.open(&odd, Bytes::from_static(b"x"), pair.now).unwrap();
        assert!(pair.carry_up().is_ok(), "{name}");
    }
}

#[test]
fn features_of_another_session_do_not_leak_into_a_plain_one() {
    let mut pair = Pair::open(Encoding::V1);
    assert_eq!(pair.client.open_udp(pair.now), Err(OpenError::Unsupported));
    let text = r#"{"type":"stream_window","stream_id":1,"consumed":0,"limit":1}"#;
    assert!(json::decode(text.as_bytes(), Features::ALL).is_ok());
    assert!(matches!(say(&mut pair.gateway, text, pair.now), Err(SessionError::Decode(_))));
}
