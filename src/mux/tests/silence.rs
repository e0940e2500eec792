//! Dead lines while data is under way, under a simulated clock (docs/04, "Keepalive").

use std::collections::VecDeque;

use super::*;
use crate::config::Source;

const SECOND: Duration = Duration::from_secs(1);
const TEN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);
const SOCKET: usize = 128 * 1024;

fn shipped() -> Limits {
    let source = Source::with::<&str, &str>([]).unwrap();
    let mut limits = Limits::new(&source.section().unwrap(), &source.section().unwrap(), Padding::default());
    limits.opens_per_second = 1000;
    limits
}

/// A session whose messages all leave and get no answer, from here to its end: when it pinged and when it gave up.
fn alone(session: &mut Session, now: Instant) -> (Vec<Duration>, Duration) {
    let (mut pings, mut at) = (Vec::new(), now);
    loop {
        while let Some(transmit) = session.poll_transmit() {
            if is_ping(&transmit) {
                pings.push(at - now);
            }
        }
        at = at.max(session.poll_timeout().unwrap());
        if session.handle_timeout(at).is_err() {
            return (pings, at - now);
        }
    }
}

fn is_ping(transmit: &Transmit) -> bool {
    match transmit {
        Transmit::Ping => true,
        Transmit::Message(message) => message.parts()[0].first() == Some(&0x04),
        Transmit::Close(_) => false,
    }
}

/// Does what is due at one end; gives how often it pinged.
fn step(from: &mut Session, to: &mut Session, now: Instant) -> usize {
    if from.poll_timeout().is_some_and(|at| at <= now) {
        from.handle_timeout(now).unwrap();
    }
    let mut pings = 0;
    while let Some(transmit) = from.poll_transmit() {
        pings += usize::from(is_ping(&transmit));
        if let Transmit::Message(message) = transmit {
            to.handle_message(message.concat(), now).unwrap();
        }
    }
    pings
}

/// Lets two sessions stand without data for a time; gives how often either pinged.
fn idle(pair: &mut Pair, time: Duration) -> usize {
    let (end, mut pings) = (pair.now + time, 0);
    while pair.now < end {
        let Pair { client, gateway, now } = pair;
        pings += step(client, gateway, *now) + step(gateway, client, *now);
        pair.now += Duration::from_millis(100);
    }
    pings
}

#[track_caller]
fn assert_prompt((pings, gave_up): &(Vec<Duration>, Duration), since: Duration) {
    let [ping] = pings[..] else { panic!("{pings:?}") };
    assert!(ping <= since + SECOND * 4, "pinged after {ping:?}");
    assert!(
        *gave_up <= since + TEN && *gave_up >= ping + SECOND * 6,
        "pinged after {ping:?}, gave up after {gave_up:?}"
    );
}

#[test]
fn what_is_sent_into_a_dead_line_ends_the_session_at_either_end() {
    for after_idle in [0, 1, 2, 4, 9, 14] {
        for up in [true, false] {
            let mut pair = Pair::open_with(Encoding::V2, shipped());
            let (ours, theirs) = pair.stream();
            pair.now += SECOND * after_idle;
            let (session, key) = if up { (&mut pair.client, ours) } else { (&mut pair.gateway, theirs) };
            session.send(key, payload(b"into the void"));
            assert_prompt(&alone(session, pair.now), Duration::ZERO);
        }
    }
    let mut pair = Pair::open_with(Encoding::V2, shipped());
    pair.now += SECOND * 9;
    pair.client.open(&target(), Bytes::from_static(b"GET"), pair.now).unwrap();
    assert_prompt(&alone(&mut pair.client, pair.now), Duration::ZERO);
}

#[test]
fn data_that_stops_coming_ends_the_session_at_its_reader() {
    for up in [true, false] {
        let mut pair = Pair::open_with(Encoding::V2, shipped());
        let (ours, theirs) = pair.stream();
        let now = pair.now;
        let [(sender, from), (reader, to)] = if up {
            [(&mut pair.client, ours), (&mut pair.gateway, theirs)]
        } else {
            [(&mut pair.gateway, theirs), (&mut pair.client, ours)]
        };
        sender.send(from, payload(b"the first half"));
        carry(sender, reader, now).unwrap();
        assert_eq!(receive_all(reader, to, now).0, b"the first half");
        assert_prompt(&alone(reader, now), Duration::ZERO);
    }
}

#[test]
fn an_idle_tunnel_is_pinged_no_more_than_before() {
    let mut pair = Pair::greeting(Encoding::V2, shipped());
    let hello = Hello { keepalive: Some(300), ..hello() };
    pair.client.hello(hello);
    pair.exchange();
    pair.gateway.accept(consent());
    pair.exchange();
    let (ours, theirs) = pair.stream();
    assert_eq!(idle(&mut pair, SECOND * 230), 1, "one for the stream that was opened and not answered");
    pair.gateway.send(theirs, payload(b"news"));
    assert_eq!(idle(&mut pair, SECOND * 10), 1, "its answer says that nothing is missing");
    receive_all(&mut pair.client, ours, pair.now);
    assert_eq!(idle(&mut pair, SECOND * 220), 0);
    pair.gateway.send(theirs, payload(b"the last"));
    pair.gateway.finish(theirs);
    pair.client.finish(ours);
    pair.exchange();
    receive_all(&mut pair.client, ours, pair.now);
    receive_all(&mut pair.gateway, theirs, pair.now);
    assert_eq!(idle(&mut pair, SECOND * 220), 0, "nothing can be missing of a stream that is over");
}

#[test]
fn a_reader_that_withholds_credit_expects_nothing() {
    let mut pair = Pair::open_with(Encoding::V2, shipped());
    let (_, theirs) = pair.stream();
    while let Capacity::Bytes(room) = pair.gateway.capacity(theirs) {
        pair.gateway.send(theirs, payload(&vec![0; room]));
        pair.exchange();
    }
    let (_, gave_up) = alone(&mut pair.client, pair.now);
    assert!(gave_up >= SECOND * 40, "{gave_up:?}");
}

#[test]
fn without_windows_a_peer_may_stop_to_read() {
    let mut pair = Pair::open_with(Encoding::V1, shipped());
    let (_, theirs) = pair.stream();
    pair.gateway.send(theirs, payload(b"a film that was paused"));
    let (pings, gave_up) = alone(&mut pair.gateway, pair.now);
    assert!(pings.len() == 1 && gave_up >= SECOND * 45, "{pings:?} {gave_up:?}");
}

/// One direction: a socket that takes more only once half of it is free, then bytes under way.
struct Way {
    rate: f64,
    socket: VecDeque<Bytes>,
    held: usize,
    full: bool,
    free_at: Instant,
    flight: VecDeque<(Instant, Bytes)>,
    dead: bool,
}

impl Way {
    fn new(rate: f64, now: Instant) -> Self {
        let (socket, flight) = Default::default();
        Self { rate, socket, held: 0, full: false, free_at: now, flight, dead: false }
    }

    fn tick(&mut self, from: &mut Session, to: &mut Session, now: Instant) {
        self.full &= self.held > SOCKET / 2;
        while !self.full
            && let Some(transmit) = from.poll_transmit()
        {
            if let Transmit::Message(message) = transmit {
                let message = message.concat();
                self.held += message.len();
                self.full = self.held >= SOCKET;
                self.socket.push_back(message);
            }
        }
        while !self.dead && self.free_at <= now {
            let Some(message) = self.socket.pop_front() else { break };
            self.held -= message.len();
            self.free_at = self.free_at.max(now.checked_sub(TICK).unwrap())
                + Duration::from_secs_f64(message.len() as f64 / self.rate);
            self.flight.push_back((self.free_at + Duration::from_millis(50), message));
        }
        if !self.dead && self.free_at > now {
            to.heard(now);
        }
        while !self.dead && self.flight.front().is_some_and(|(at, _)| *at <= now) {
            let (_, message) = self.flight.pop_front().unwrap();
            to.handle_message(message, now).unwrap();
        }
    }
}

struct Line {
    pair: Pair,
    streams: Vec<(StreamKey, StreamKey)>,
    ways: [Way; 2],
}

impl Line {
    fn new(streams: usize, rate: f64) -> Self {
        let mut pair = Pair::open_with(Encoding::V2, shipped());
        let streams = (0..streams).map(|_| pair.stream()).collect();
        let ways = [Way::new(rate, pair.now), Way::new(rate, pair.now)];
        Self { pair, streams, ways }
    }

    /// Carries as much as there is for a time; gives which end gave up first, and when.
    fn run(&mut self, up: bool, time: Duration) -> Option<(Role, Duration)> {
        let started = self.pair.now;
        while self.pair.now < started + time {
            self.pair.now += TICK;
            let Pair { client, gateway, now } = &mut self.pair;
            for (ours, theirs) in &self.streams {
                let [(from, key), (to, other)] = if up {
                    [(&mut *client, *ours), (&mut *gateway, *theirs)]
                } else {
                    [(&mut *gateway, *theirs), (&mut *client, *ours)]
                };
                while let Capacity::Bytes(room) = from.capacity(key) {
                    from.send(key, payload(&vec![0; room.min(16 * 1024)]));
                }
                receive_all(to, other, *now);
            }
            let [there, back] = &mut self.ways;
            there.tick(client, gateway, *now);
            back.tick(gateway, client, *now);
            for session in [client, gateway] {
                while session.poll_event().is_some() {}
                if session.poll_timeout().is_some_and(|at| at <= *now) && session.handle_timeout(*now).is_err() {
                    return Some((session.role, *now - started));
                }
            }
        }
        None
    }

    fn cut(&mut self) {
        for way in &mut self.ways {
            way.dead = true;
        }
    }
}

#[test]
fn a_slow_line_whose_buffers_are_full_is_no_dead_one() {
    for rate in [6_000.0, 8_000.0, 40_000.0] {
        for up in [true, false] {
            let mut line = Line::new(64, rate);
            assert_eq!(line.run(up, SECOND * 400), None, "{rate} bytes a second, up {up}");
            line.cut();
            let (role, gave_up) = line.run(up, SECOND * 60).expect("it is dead now");
            let reader = if up { Role::Gateway } else { Role::Client };
            assert!(role == reader && gave_up <= TEN + TICK, "{rate}: {role:?} after {gave_up:?}");
        }
    }
}

#[test]
fn a_burst_on_a_slow_line_is_waited_for() {
    for streams in [1, 6, 10] {
        let mut line = Line::new(streams, 8_000.0);
        for _ in 0..20 {
            for (_, theirs) in line.streams.clone() {
                line.pair.gateway.send(theirs, payload(&vec![0; 12 * 1024]));
            }
            let streams = std::mem::take(&mut line.streams);
            assert_eq!(line.run(false, SECOND * 25), None, "{} streams", streams.len());
            for (ours, _) in &streams {
                receive_all(&mut line.pair.client, *ours, line.pair.now);
            }
            line.streams = streams;
        }
    }
}

#[test]
fn a_dead_line_with_full_buffers_is_noticed_by_the_sender_too() {
    for up in [true, false] {
        let mut line = Line::new(4, 2_000_000.0);
        assert_eq!(line.run(up, SECOND * 20), None);
        line.cut();
        let sender = if up { &mut line.pair.client } else { &mut line.pair.gateway };
        let (started, mut at) = (line.pair.now, line.pair.now);
        while sender.handle_timeout(at).is_ok() {
            at = at.max(sender.poll_timeout().unwrap());
        }
        assert!(at - started <= TEN, "up {up}: {:?}", at - started);
    }
}
