//! Streams of datagrams.

use super::*;
use crate::frame::Datagram;

fn record(mark: u8, len: usize) -> Payload {
    let mut frame = Payload::with_capacity(len);
    Datagram::encode(&target(), &vec![mark; len], frame.append());
    frame
}

fn association(encoding: Encoding) -> (Pair, StreamKey, StreamKey) {
    let mut pair = Pair::featured(encoding, Features::ALL, limits());
    let ours = pair.client.open_udp(pair.now).unwrap();
    pair.exchange();
    let theirs = std::iter::from_fn(|| pair.gateway.poll_event())
        .find_map(|event| match event {
            Event::Opened { key, target: None } => Some(key),
            _ => None,
        })
        .unwrap();
    (pair, ours, theirs)
}

fn marks(session: &mut Session, key: StreamKey) -> Vec<u8> {
    let mut marks = Vec::new();
    while let Received::Data(mut bytes) = session.receive(key) {
        while let Some(datagram) = Datagram::decode(&mut bytes).unwrap() {
            assert_eq!(datagram.peer, target());
            marks.push(datagram.payload[0]);
        }
    }
    marks
}

#[test]
fn records_both_ways_in_both_encodings() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let (mut pair, ours, theirs) = association(encoding);
        pair.client.send_datagrams(ours, record(1, 10));
        pair.client.send_datagrams(ours, record(2, 20_000));
        pair.exchange();
        assert_eq!(marks(&mut pair.gateway, theirs), [1, 2]);
        pair.gateway.send_datagrams(theirs, record(3, 1));
        pair.exchange();
        assert_eq!(marks(&mut pair.client, ours), [3]);
        pair.gateway.reset(theirs, StreamCode::Timeout);
        pair.exchange();
        assert!(matches!(pair.client.receive(ours), Received::Reset(_) | Received::Finished));
        assert_eq!(pair.gateway.stream_count(), 0);
    }
}

#[test]
fn the_oldest_are_dropped_at_the_sender_and_at_the_receiver_and_no_window_is_needed() {
    let (mut pair, ours, theirs) = association(Encoding::V2);
    for mark in 0..10 {
        pair.client.send_datagrams(ours, record(mark, 20_000));
    }
    pair.carry_up().unwrap();
    assert_eq!(marks(&mut pair.gateway, theirs), [7, 8, 9], "64 KiB hold three of them");
    for mark in 0..10 {
        pair.client.send_datagrams(ours, record(mark, 20_000));
        pair.carry_up().unwrap();
    }
    assert_eq!(marks(&mut pair.gateway, theirs), [7, 8, 9]);
    assert_eq!(pair.gateway.buffered, 0);
    for _ in 0..20 {
        pair.client.send_datagrams(ours, record(1, 20_000));
        pair.carry_up().unwrap();
        assert_eq!(marks(&mut pair.gateway, theirs), [1], "far more than a window in all");
    }
    assert_eq!(pair.gateway.limits.memory.held(), 0);
}
