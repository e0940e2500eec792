//! Bytes arrive exactly, whatever the order of operations and whatever a peer says.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Open,
    Send { stream: usize, up: bool, len: usize },
    Finish { stream: usize, up: bool },
    Take { stream: usize, up: bool },
    Carry,
    Wait(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Open),
        6 => (0..4usize, any::<bool>(), 1..90_000usize).prop_map(|(stream, up, len)| Op::Send { stream, up, len }),
        1 => (0..4usize, any::<bool>()).prop_map(|(stream, up)| Op::Finish { stream, up }),
        6 => (0..4usize, any::<bool>()).prop_map(|(stream, up)| Op::Take { stream, up }),
        6 => Just(Op::Carry),
        1 => (0..500u64).prop_map(Op::Wait),
    ]
}

#[derive(Default)]
struct Direction {
    sent: Vec<u8>,
    got: Vec<u8>,
    finished: bool,
    over: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn bytes_arrive_exactly_whatever_the_order(ops in prop::collection::vec(any_op(), 1..120), v1: bool) {
        let encoding = if v1 { Encoding::V1 } else { Encoding::V2 };
        let mut pair = Pair::open(encoding);
        let mut streams: Vec<(StreamKey, StreamKey, [Direction; 2])> = Vec::new();
        let mut tail: Vec<Op> = Vec::new();
        for stream in 0..4 {
            if !v1 {
                tail.push(Op::Finish { stream, up: true });
            }
            tail.push(Op::Finish { stream, up: false });
        }
        for _ in 0..200 {
            tail.push(Op::Carry);
            tail.extend((0..4).flat_map(|stream| [Op::Take { stream, up: true }, Op::Take { stream, up: false }]));
        }
        for op in ops.into_iter().chain(tail) {
            match op {
                Op::Open if streams.len() < 4 => {
                    let (ours, theirs) = pair.stream();
                    streams.push((ours, theirs, Default::default()));
                }
                Op::Send { stream, up, len } => if let Some((ours, theirs, directions)) = streams.get_mut(stream) {
                    let (session, key) = if up { (&mut pair.client, *ours) } else { (&mut pair.gateway, *theirs) };
                    let direction = &mut directions[usize::from(up)];
                    let base = direction.sent.len();
                    let bytes: Vec<u8> = (base..base + len).map(|at| (at % 251) as u8).collect();
                    let sent = send_all(session, key, &bytes);
                    prop_assert!(!direction.finished || sent == 0);
                    direction.sent.extend_from_slice(&bytes[..sent]);
                },
                Op::Finish { stream, up } => if let Some((ours, theirs, directions)) = streams.get_mut(stream)
                    && (!v1 || !up)
                {
                    let (session, key) = if up { (&mut pair.client, *ours) } else { (&mut pair.gateway, *theirs) };
                    session.finish(key);
                    directions[usize::from(up)].finished = true;
                },
                Op::Take { stream, up } => if let Some((ours, theirs, directions)) = streams.get_mut(stream) {
                    let (session, key) = if up { (&mut pair.gateway, *theirs) } else { (&mut pair.client, *ours) };
                    let direction = &mut directions[usize::from(up)];
                    if direction.over { continue }
                    match session.receive(key) {
                        Received::Data(data) => {
                            direction.got.extend_from_slice(&data);
                            session.consumed(key, data.len(), pair.now);
                        }
                        Received::Finished | Received::Reset(_) => direction.over = true,
                        Received::Nothing => {}
                    }
                },
                Op::Carry => {
                    carry(&mut pair.client, &mut pair.gateway, pair.now).unwrap();
                    carry(&mut pair.gateway, &mut pair.client, pair.now).unwrap();
                }
                Op::Wait(millis) => pair.now += Duration::from_millis(millis),
                Op::Open => {}
            }
        }
        for (_, _, [down, up]) in &streams {
            prop_assert!(down.got == down.sent, "down {} of {}", down.got.len(), down.sent.len());
            prop_assert!(v1 || up.got == up.sent, "up {} of {}", up.got.len(), up.sent.len());
            prop_assert!(up.sent.starts_with(&up.got));
        }
        prop_assert_eq!((pair.client.stream_count(), pair.gateway.stream_count()), (0, 0));
        prop_assert_eq!((pair.client.buffered, pair.gateway.buffered), (0, 0));
        prop_assert_eq!(pair.gateway.pool_left, 1 << 20);
    }

    #[test]
    fn no_message_makes_it_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20), v1: bool) {
        let encoding = if v1 { Encoding::V1 } else { Encoding::V2 };
        let mut pair = Pair::open(encoding);
        for message in messages {
            if pair.gateway.handle_message(message.into(), pair.now).is_err() {
                pair.gateway.close(Some(SessionCode::ProtocolError), "", None);
            }
            while pair.gateway.poll_transmit().is_some() {}
        }
    }
}
