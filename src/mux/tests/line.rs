//! Two cores with a long line between them, under a simulated clock and with the shipped limits.

use std::collections::VecDeque;

use super::*;
use crate::config::Source;

const TICK: Duration = Duration::from_millis(1);
const SOCKET: usize = 128 * 1024;
const BYTES_PER_SECOND: f64 = 12_500_000.0;
const DELAY: Duration = Duration::from_millis(50);

fn shipped() -> Limits {
    let source = Source::with::<&str, &str>([]).unwrap();
    let mut limits = Limits::new(&source.section().unwrap(), &source.section().unwrap(), Padding::default());
    limits.opens_per_second = 1000;
    limits
}

/// One direction: what the sender's socket holds, then what is under way.
struct Way {
    socket: VecDeque<Bytes>,
    held: usize,
    free_at: Instant,
    flight: VecDeque<(Instant, Bytes)>,
}

impl Way {
    fn new(now: Instant) -> Self {
        Self { socket: VecDeque::new(), held: 0, free_at: now, flight: VecDeque::new() }
    }

    fn tick(&mut self, from: &mut Session, to: &mut Session, now: Instant) {
        loop {
            while self.held < SOCKET
                && let Some(transmit) = from.poll_transmit()
            {
                if let Transmit::Message(message) = transmit {
                    let message = message.concat();
                    self.held += message.len();
                    self.socket.push_back(message);
                }
            }
            if self.free_at > now {
                break;
            }
            let Some(message) = self.socket.pop_front() else { break };
            self.held -= message.len();
            let took = Duration::from_secs_f64(message.len() as f64 / BYTES_PER_SECOND);
            self.free_at = self.free_at.max(now.checked_sub(TICK).unwrap()) + took;
            self.flight.push_back((self.free_at + DELAY, message));
        }
        while self.flight.front().is_some_and(|(at, _)| *at <= now) {
            let (_, message) = self.flight.pop_front().unwrap();
            to.handle_message(message, now).unwrap();
        }
    }
}

struct Line {
    pair: Pair,
    up: Way,
    down: Way,
}

impl Line {
    fn new() -> Self {
        let pair = Pair::open_with(Encoding::V2, shipped());
        let now = pair.now;
        Self { pair, up: Way::new(now), down: Way::new(now) }
    }

    fn tick(&mut self) {
        self.pair.now += TICK;
        let Pair { client, gateway, now } = &mut self.pair;
        self.up.tick(client, gateway, *now);
        self.down.tick(gateway, client, *now);
        while client.poll_event().is_some() {}
        while gateway.poll_event().is_some() {}
        client.handle_timeout(*now).unwrap();
        gateway.handle_timeout(*now).unwrap();
    }

    /// A stream's keys at its sender and at its receiver.
    fn ends(&mut self, up: bool, (ours, theirs): (StreamKey, StreamKey)) -> [(&mut Session, StreamKey); 2] {
        let (client, gateway) = (&mut self.pair.client, &mut self.pair.gateway);
        if up { [(client, ours), (gateway, theirs)] } else { [(gateway, theirs), (client, ours)] }
    }

    /// Sends what may be sent and takes what came, unless the reader has stopped; gives the bytes taken.
    fn pump(&mut self, up: bool, stream: (StreamKey, StreamKey), reads: bool) -> usize {
        let now = self.pair.now;
        let [(sender, from), (receiver, to)] = self.ends(up, stream);
        while let Capacity::Bytes(room) = sender.capacity(from) {
            sender.send(from, payload(&vec![0; room]));
        }
        if reads { receive_all(receiver, to, now).0.len() } else { 0 }
    }
}

/// Bytes a second that each stream brings over, once windows have grown.
fn speeds(up: bool, streams: usize, stopped: usize) -> (Vec<f64>, Line) {
    let mut line = Line::new();
    let keys: Vec<_> = (0..streams).map(|_| line.pair.stream()).collect();
    let mut taken = vec![0; streams];
    for tick in 0..8000 {
        line.tick();
        for (index, key) in keys.iter().enumerate() {
            let bytes = line.pump(up, *key, index >= stopped || tick < 1000);
            taken[index] += if tick >= 3000 { bytes } else { 0 };
        }
    }
    (taken.into_iter().map(|bytes| bytes as f64 / 5.0).collect(), line)
}

#[test]
fn one_stream_fills_a_long_line_each_way() {
    for up in [true, false] {
        let (speeds, line) = speeds(up, 1, 0);
        assert!(speeds[0] >= 0.9 * BYTES_PER_SECOND, "up {up}: {} bytes/s", speeds[0]);
        assert!(line.pair.gateway.limits.memory.held() <= 4 << 20);
    }
}

#[test]
fn a_reader_that_stops_costs_its_window_and_not_its_neighbours() {
    for up in [true, false] {
        let (all, _) = speeds(up, 20, 0);
        let (some, line) = speeds(up, 20, 1);
        assert!(some[0] < 1.0);
        let (before, after): (f64, f64) = (all[1..].iter().sum(), some[1..].iter().sum());
        assert!(after >= 0.8 * before, "up {up}: {before} before, {after} after");
        let receiver = if up { &line.pair.gateway } else { &line.pair.client };
        let stopped = receiver.streams.values().map(Stream::unconsumed).max().unwrap();
        assert!(stopped <= receiver.limits.window);
    }
}

#[test]
fn two_hundred_stopped_readers_keep_within_the_pool_and_block_nobody() {
    for up in [true, false] {
        let (speeds, mut line) = speeds(up, 201, 200);
        let by_the_least_window = INITIAL_WINDOW as f64 / (2.0 * DELAY.as_secs_f64());
        assert!(speeds[200] >= 0.5 * by_the_least_window, "up {up}: {} bytes/s", speeds[200]);
        let receiver = if up { &line.pair.gateway } else { &line.pair.client };
        let granted: u64 = receiver.streams.values().map(Stream::growth).sum();
        assert!(granted <= receiver.limits.window_pool);
        assert!(receiver.buffered <= receiver.limits.window_pool + 201 * INITIAL_WINDOW, "{}", receiver.buffered);
        if up && receiver.buffered >= receiver.limits.window_pool {
            let late = line.pair.client.open(&target(), Bytes::new(), line.pair.now).unwrap();
            for _ in 0..500 {
                line.tick();
            }
            assert_eq!(line.pair.client.receive(late), Received::Reset(StreamCode::Limit), "under pressure");
        }
    }
}

/// Sends 64 bytes there and back, over and over.
struct Question {
    keys: (StreamKey, StreamKey),
    asked: Option<Instant>,
    answered: bool,
    times: Vec<f64>,
}

impl Question {
    fn new(keys: (StreamKey, StreamKey)) -> Self {
        Self { keys, asked: None, answered: false, times: Vec::new() }
    }

    fn turn(&mut self, pair: &mut Pair, tick: usize) {
        let (ours, theirs) = self.keys;
        if receive_all(&mut pair.gateway, theirs, pair.now).0.len() == 64 {
            assert_eq!(send_all(&mut pair.gateway, theirs, &[2; 64]), 64);
        }
        self.answered |= receive_all(&mut pair.client, ours, pair.now).0.len() == 64;
        if self.answered
            && let Some(at) = self.asked.take()
        {
            self.times.push(pair.now.duration_since(at).as_secs_f64() * 1000.0);
        }
        if self.asked.is_none() && tick > 2000 {
            assert_eq!(send_all(&mut pair.client, ours, &[1; 64]), 64);
            (self.asked, self.answered) = (Some(pair.now), false);
        }
    }

    fn p99(mut self) -> f64 {
        self.times.sort_by(f64::total_cmp);
        assert!(self.times.len() > 100);
        self.times[self.times.len() * 99 / 100]
    }
}

/// The 99th percentile of 64 bytes there and back, in milliseconds.
fn p99(bulk: Option<bool>) -> f64 {
    let mut line = Line::new();
    let heavy = line.pair.stream();
    let mut question = Question::new(line.pair.stream());
    for tick in 0..20_000 {
        line.tick();
        if let Some(up) = bulk {
            line.pump(up, heavy, true);
        }
        question.turn(&mut line.pair, tick);
    }
    question.p99()
}

/// The same for a device whose neighbour on the line is busy: the line takes a message of each in turn.
fn p99_beside(busy: Option<bool>) -> f64 {
    let (mut heavy, mut light) = (Line::new(), Line::new());
    let (bulk, keys) = (heavy.pair.stream(), light.pair.stream());
    let mut question = Question::new(keys);
    for tick in 0..20_000 {
        light.up.free_at = light.up.free_at.max(heavy.up.free_at);
        light.down.free_at = light.down.free_at.max(heavy.down.free_at);
        light.tick();
        heavy.up.free_at = heavy.up.free_at.max(light.up.free_at);
        heavy.down.free_at = heavy.down.free_at.max(light.down.free_at);
        heavy.tick();
        if let Some(up) = busy {
            heavy.pump(up, bulk, true);
        }
        question.turn(&mut light.pair, tick);
    }
    question.p99()
}

#[test]
fn a_question_does_not_wait_behind_another_device() {
    let idle = p99_beside(None);
    for up in [true, false] {
        let busy = p99_beside(Some(up));
        assert!(busy <= idle + 30.0, "up {up}: {idle} ms idle, {busy} ms busy");
    }
}

#[test]
fn a_question_does_not_wait_behind_a_bulk_stream() {
    let idle = p99(None);
    for up in [true, false] {
        let busy = p99(Some(up));
        assert!(busy <= idle + 30.0, "up {up}: {idle} ms idle, {busy} ms busy");
    }
}
