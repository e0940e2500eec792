use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::frame::{Resumable, Resume};
use crate::mux::pad::Random;

fn resumable() -> Resumable {
    Resumable { ticket: Token::from("ticket".to_owned()), hold: 30, resumed: false, opened: 0, streams: Vec::new() }
}

fn kept_limits() -> Limits {
    Limits { kept: Arc::new(MemoryBudget::new(1 << 30)), kept_per_session: 1 << 30, ..limits() }
}

/// A session of which what is under way can be lost.
struct Line {
    pair: Pair,
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
}

impl Line {
    fn new(encoding: Encoding, limits: Limits) -> Self {
        let mut pair = Pair::greeting(encoding, limits);
        pair.client.hello(Hello { features: Features::ALL, ..hello() });
        pair.exchange();
        drop_all(&mut pair.gateway);
        pair.gateway.accept(HelloOk { features: Features::ALL, resume: Some(resumable()), ..consent() });
        pair.exchange();
        drop_all(&mut pair.client);
        Self { pair, up: VecDeque::new(), down: VecDeque::new() }
    }

    /// Messages leave, so many at most each way.
    fn leave(&mut self, most: usize) {
        transmit(&mut self.pair.client, &mut self.up, most);
        transmit(&mut self.pair.gateway, &mut self.down, most);
    }

    /// Messages arrive, so many at most each way.
    fn arrive(&mut self, most: usize) {
        for message in self.up.drain(..most.min(self.up.len())) {
            self.pair.gateway.handle_message(message, self.pair.now).unwrap();
        }
        for message in self.down.drain(..most.min(self.down.len())) {
            self.pair.client.handle_message(message, self.pair.now).unwrap();
        }
    }

    fn exchange(&mut self) {
        for _ in 0..8 {
            self.leave(usize::MAX);
            self.arrive(usize::MAX);
        }
    }

    /// Everything under way is lost, and so many requests to go on, or the answers to them; the next one arrives.
    fn cut(&mut self, lost: usize) {
        for attempt in 0..=lost {
            self.up.clear();
            self.down.clear();
            assert!(self.pair.client.is_resumable() && self.pair.gateway.is_resumable());
            let hello = Hello { features: Features::ALL, ..hello() };
            self.pair.client.resume_with(hello, &resumable().ticket, self.pair.now);
            transmit(&mut self.pair.client, &mut self.up, 1);
            if attempt % 2 == 0 || attempt == lost {
                let theirs = self.asked();
                let ok = HelloOk { features: Features::ALL, resume: Some(resumable()), ..consent() };
                self.pair.gateway.resume(&theirs, ok, self.pair.now);
                self.leave(attempt);
            }
        }
    }

    /// What the client's `hello` says of its streams.
    fn asked(&mut self) -> Resume {
        let message = self.up.pop_front().unwrap();
        transmit(&mut self.pair.client, &mut self.up, 1);
        assert!(self.up.is_empty(), "nothing follows");
        let frame = match self.pair.client.encoding {
            Encoding::V1 => crate::frame::json::decode(&message, Features::ALL).unwrap(),
            Encoding::V2 => binary::decode(&mut message.clone()).unwrap().unwrap(),
        };
        let Frame::Hello(hello) = frame else { panic!("no hello") };
        hello.resume.unwrap()
    }
}

fn drop_all(session: &mut Session) {
    while session.poll_event().is_some() {}
}

fn transmit(session: &mut Session, line: &mut VecDeque<Bytes>, most: usize) {
    for _ in 0..most {
        match session.poll_transmit() {
            Some(Transmit::Message(message)) => line.push_back(message.concat()),
            Some(Transmit::Ping) => {}
            Some(Transmit::Close(_)) => panic!("nobody closes"),
            None => break,
        }
    }
}

/// One end of a stream and what it has said and heard.
#[derive(Default)]
struct End {
    key: Option<StreamKey>,
    sent: usize,
    got: usize,
    is_finished: bool,
    has_ended: bool,
    is_reset: bool,
}

fn pattern(stream: u32, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| u8::try_from((at * 7 + at / 251 + stream as usize) % 256).unwrap()).collect()
}

impl End {
    fn send(&mut self, session: &mut Session, id: u32, len: usize) {
        let Some(key) = self.key else { return };
        if !self.is_finished {
            self.sent += send_all(session, key, &pattern(id, self.sent, len));
        }
    }

    fn finish(&mut self, session: &mut Session) {
        if let Some(key) = self.key {
            session.finish(key);
            self.is_finished = true;
        }
    }

    fn receive(&mut self, session: &mut Session, id: u32, now: Instant) {
        let Some(key) = self.key.filter(|_| !self.has_ended && !self.is_reset) else { return };
        let (bytes, end) = receive_all(session, key, now);
        assert!(bytes == pattern(id, self.got, bytes.len()), "stream {id} at {}", self.got);
        self.got += bytes.len();
        self.has_ended = end == Received::Finished;
        self.is_reset = matches!(end, Received::Reset(_));
    }
}

/// Streams at random over a line that is cut at random.
struct Play {
    line: Line,
    random: Random,
    streams: BTreeMap<u32, [End; 2]>,
    cancelled: Vec<u32>,
}

impl Play {
    fn new(encoding: Encoding, seed: u64) -> Self {
        let often = 1_000_000;
        let limits = Limits {
            opens_per_second: often,
            resets_per_second: often,
            tiny_frames_per_second: often,
            ..kept_limits()
        };
        let random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { line: Line::new(encoding, limits), random, streams: BTreeMap::new(), cancelled: Vec::new() }
    }

    fn chance(&mut self, of: u16) -> usize {
        self.random.within((0, of - 1)).into()
    }

    fn open(&mut self) {
        let id = (self.line.pair.client.last_own.0 + 2) | 1;
        let id = if self.line.pair.client.last_own.0 == 0 { 1 } else { id };
        let first = pattern(id, 0, self.chance(50));
        let sent = first.len();
        if let Ok(key) = self.line.pair.client.open(&target(), first.into(), self.line.pair.now) {
            assert_eq!(self.line.pair.client.last_own.0, id);
            self.streams.insert(id, [End { key: Some(key), sent, ..End::default() }, End::default()]);
        }
    }

    fn send(&mut self) {
        let lens = [self.chance(20_000), self.chance(20_000)];
        for (id, [ours, theirs]) in &mut self.streams {
            ours.send(&mut self.line.pair.client, *id, lens[0]);
            theirs.send(&mut self.line.pair.gateway, *id, lens[1]);
        }
    }

    fn end_one(&mut self, cancel: bool) {
        let (at, by_gateway) = (self.chance(8), self.chance(2) == 0);
        let Some((id, [ours, theirs])) = self.streams.iter_mut().nth(at) else { return };
        let (client, gateway) = (&mut self.line.pair.client, &mut self.line.pair.gateway);
        match (cancel, by_gateway, theirs.key) {
            (false, true, _) => theirs.finish(gateway),
            (false, false, _) => ours.finish(client),
            (true, true, Some(key)) => gateway.reset(key, StreamCode::Refused),
            (true, ..) => client.reset(ours.key.unwrap(), StreamCode::Cancelled),
        }
        if cancel {
            self.cancelled.push(*id);
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.line.pair.gateway.poll_event() {
            if let Event::Opened { key, .. } = event
                && let Some(stream) = self.line.pair.gateway.streams.get(&key)
            {
                let [_, theirs] = self.streams.get_mut(&stream.id.0).unwrap();
                assert!(theirs.key.is_none(), "nothing runs twice");
                theirs.key = Some(key);
            }
        }
        drop_all(&mut self.line.pair.client);
    }

    fn receive(&mut self) {
        let now = self.line.pair.now;
        for (id, [ours, theirs]) in &mut self.streams {
            ours.receive(&mut self.line.pair.client, *id, now);
            theirs.receive(&mut self.line.pair.gateway, *id, now);
        }
    }

    fn step(&mut self) {
        self.line.pair.now += Duration::from_millis(10);
        match self.chance(36) {
            0..3 if self.streams.len() < 8 => self.open(),
            3..15 => self.send(),
            15..18 => self.end_one(false),
            18 => self.end_one(true),
            19 => {
                let lost = self.chance(3);
                self.line.cut(lost);
            }
            _ => {}
        }
        let (leaving, arriving) = (self.chance(6), self.chance(6));
        self.line.leave(leaving);
        self.line.arrive(arriving);
        self.hear();
        if self.chance(3) > 0 {
            self.receive();
        }
    }

    fn finish(&mut self) {
        self.line.cut(0);
        while self.line.pair.client.stream_count() + self.line.pair.gateway.stream_count() > 0 {
            self.line.pair.now += Duration::from_millis(10);
            assert!(
                self.line.pair.now < self.line.pair.gateway.last_heard + Duration::from_secs(20),
                "it stands still"
            );
            self.line.exchange();
            self.hear();
            self.receive();
            for [ours, theirs] in self.streams.values_mut() {
                ours.finish(&mut self.line.pair.client);
                theirs.finish(&mut self.line.pair.gateway);
            }
        }
    }
}

#[test]
fn a_line_that_is_cut_anywhere_loses_nothing() {
    for seed in 1..60 {
        for encoding in [Encoding::V1, Encoding::V2] {
            let mut play = Play::new(encoding, seed);
            for _ in 0..200 {
                play.step();
            }
            play.finish();
            for (id, [ours, theirs]) in &play.streams {
                if !play.cancelled.contains(id) {
                    let ends = (ours.has_ended, theirs.has_ended, ours.got, theirs.got);
                    assert_eq!(ends, (true, true, theirs.sent, ours.sent), "{encoding:?} seed {seed}: stream {id}");
                }
            }
            assert_eq!(play.line.pair.client.limits.kept.held(), 0, "{encoding:?} seed {seed}: nothing is kept");
        }
    }
}

#[test]
fn without_a_ticket_nothing_is_kept_and_with_one_only_what_was_not_taken() {
    let mut pair = Pair::open_with(Encoding::V2, kept_limits());
    let (_, theirs) = pair.stream();
    send_all(&mut pair.gateway, theirs, &[0; 60_000]);
    pair.exchange();
    assert_eq!(pair.gateway.limits.kept.held(), 0);
    assert!(!pair.gateway.is_resumable());

    let mut line = Line::new(Encoding::V2, kept_limits());
    let (ours, theirs) = line.pair.stream();
    send_all(&mut line.pair.gateway, theirs, &[0; 60_000]);
    line.exchange();
    assert_eq!(line.pair.gateway.limits.kept.held(), 60_000);
    receive_all(&mut line.pair.client, ours, line.pair.now);
    line.exchange();
    assert!(line.pair.gateway.limits.kept.held() <= 32_768);
    line.pair.gateway.finish(theirs);
    line.pair.client.finish(ours);
    line.exchange();
    receive_all(&mut line.pair.client, ours, line.pair.now);
    receive_all(&mut line.pair.gateway, theirs, line.pair.now);
    line.exchange();
    assert_eq!(line.pair.gateway.limits.kept.held(), 0);
    assert_eq!((line.pair.client.stream_count(), line.pair.gateway.stream_count()), (0, 0));
}

#[test]
fn a_stream_of_which_too_much_is_kept_ends_with_its_connection_and_others_go_on() {
    let limits = Limits { kept_per_session: 50_000, ..kept_limits() };
    let mut line = Line::new(Encoding::V2, limits);
    let (large, theirs) = line.pair.stream();
    let (small, other) = line.pair.stream();
    send_all(&mut line.pair.gateway, theirs, &[0; 65_000]);
    line.exchange();
    line.pair.gateway.consumed(other, 0, line.pair.now);
    line.cut(0);
    line.exchange();
    assert!(matches!(receive_all(&mut line.pair.client, large, line.pair.now).1, Received::Reset(_)));
    assert!(line.pair.gateway.is_gone(theirs));
    assert_eq!(send_all(&mut line.pair.gateway, other, b"here"), 4);
    line.exchange();
    assert_eq!(receive_all(&mut line.pair.client, small, line.pair.now).0, b"here");
    line.pair.gateway.reset(other, StreamCode::Cancelled);
    line.pair.client.reset(large, StreamCode::Cancelled);
    line.exchange();
    assert_eq!(line.pair.gateway.limits.kept.held(), 0);
}

#[test]
fn another_session_ends_the_streams_and_serves() {
    let mut line = Line::new(Encoding::V2, kept_limits());
    let (ours, _) = line.pair.stream();
    line.pair.client.resume_with(Hello { features: Features::ALL, ..hello() }, &resumable().ticket, line.pair.now);
    line.leave(1);
    line.asked();
    let mut fresh = Session::new(Role::Gateway, Encoding::V2, Arc::clone(&line.pair.gateway.limits), 3, line.pair.now);
    std::mem::swap(&mut fresh, &mut line.pair.gateway);
    let asked = Resume { ticket: resumable().ticket, opened: 1, streams: Vec::new() };
    raw(&mut line.pair.gateway, &[Frame::Hello(Box::new(Hello { resume: Some(asked), ..hello() }))], line.pair.now)
        .unwrap();
    line.pair.gateway.accept(HelloOk { resume: Some(resumable()), ..consent() });
    line.exchange();
    assert!(matches!(line.pair.client.receive(ours), Received::Reset(_)));
    let (ours, theirs) = line.pair.stream();
    assert_eq!(send_all(&mut line.pair.client, ours, b"new"), 3);
    line.exchange();
    assert_eq!(receive_all(&mut line.pair.gateway, theirs, line.pair.now).0, b"new");
}

#[test]
fn nothing_is_said_between_a_hello_that_resumes_and_its_answer() {
    let mut pair = Pair::greeting(Encoding::V2, kept_limits());
    let asked = Resume { ticket: resumable().ticket, opened: 1, streams: Vec::new() };
    let hello = Frame::Hello(Box::new(Hello { resume: Some(asked), ..hello() }));
    let open = Frame::Open { id: StreamId(3), target: Some(target()), payload: Bytes::new(), fin: false, udp: false };
    raw(&mut pair.gateway, &[hello, Frame::Padding(9)], pair.now).unwrap();
    assert!(matches!(raw(&mut pair.gateway, &[open], pair.now), Err(SessionError::Unexpected(_))));
}

#[test]
fn however_much_was_said_in_vain_the_answer_is_read() {
    let limits = Limits { streams: 400, opens_per_second: 1000, tiny_frames_per_second: 100_000, ..kept_limits() };
    let mut line = Line::new(Encoding::V2, limits);
    let keys: Vec<_> = (0..400)
        .map(|_| {
            let key = line.pair.client.open(&target(), Bytes::new(), line.pair.now).unwrap();
            line.exchange();
            let theirs = opened(&mut line.pair.gateway).unwrap();
            send_all(&mut line.pair.gateway, theirs, &[0; 40_000]);
            line.exchange();
            (key, theirs)
        })
        .collect();
    line.cut(0);
    for (ours, _) in &keys {
        receive_all(&mut line.pair.client, *ours, line.pair.now);
    }
    assert!(!line.pair.client.is_paused());
    line.exchange();
    for (ours, theirs) in &keys {
        assert_eq!(send_all(&mut line.pair.gateway, *theirs, b"on"), 2);
        line.exchange();
        assert_eq!(receive_all(&mut line.pair.client, *ours, line.pair.now).0, b"on");
    }
}

#[test]
fn datagrams_are_not_sent_again_and_their_stream_goes_on() {
    let mut line = Line::new(Encoding::V2, kept_limits());
    let ours = line.pair.client.open_udp(line.pair.now).unwrap();
    line.cut(0);
    line.exchange();
    let theirs = std::iter::from_fn(|| line.pair.gateway.poll_event())
        .find_map(|event| if let Event::Opened { key, target: None } = event { Some(key) } else { None })
        .unwrap();
    line.pair.client.send_datagrams(ours, payload(b"lost"));
    line.leave(1);
    line.cut(0);
    line.pair.client.send_datagrams(ours, payload(b"there"));
    line.exchange();
    assert_eq!(line.pair.gateway.receive(theirs), Received::Data(Bytes::from_static(b"there")));
    line.pair.client.finish(ours);
    line.leave(1);
    line.cut(0);
    line.exchange();
    assert_eq!(line.pair.gateway.receive(theirs), Received::Finished, "but their end is");
}

#[test]
fn what_is_to_be_sent_again_counts_until_it_is_taken() {
    let mut line = Line::new(Encoding::V2, kept_limits());
    let kept = Arc::clone(&line.pair.gateway.limits.kept);
    let (ours, theirs) = line.pair.stream();
    let bytes = pattern(1, 0, 60_000);
    assert_eq!(send_all(&mut line.pair.gateway, theirs, &bytes), 60_000);
    line.leave(usize::MAX);
    for _ in 0..2 {
        line.cut(0);
        assert_eq!(kept.held(), 60_000, "it waits to be sent again");
        line.leave(usize::MAX);
        assert_eq!(kept.held(), 60_000, "it is under way again");
    }
    line.exchange();
    assert!(receive_all(&mut line.pair.client, ours, line.pair.now).0 == bytes);
    line.exchange();
    assert!(kept.held() <= 32_768, "more than half of a window was taken");
    line.cut(0);
    line.pair.gateway.reset(theirs, StreamCode::Cancelled);
    assert_eq!(kept.held(), 0);
}

#[test]
fn a_stream_that_ends_before_the_answer_is_over_at_both_ends() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut line = Line::new(encoding, kept_limits());
        let (ours, theirs) = line.pair.stream();
        send_all(&mut line.pair.gateway, theirs, b"answer");
        line.pair.gateway.finish(theirs);
        line.pair.client.finish(ours);
        line.exchange();
        receive_all(&mut line.pair.gateway, theirs, line.pair.now);
        line.exchange();
        line.cut(0);
        receive_all(&mut line.pair.client, ours, line.pair.now);
        line.exchange();
        assert_eq!((line.pair.client.stream_count(), line.pair.gateway.stream_count()), (0, 0), "{encoding:?}");
    }
}

#[test]
fn a_stream_that_is_over_before_the_answer_leaves_no_place() {
    let gone: [fn(&mut Line, StreamKey); 2] = [
        |line, ours| assert_eq!(line.pair.client.receive(ours), Received::Finished),
        |line, ours| line.pair.client.reset(ours, StreamCode::Cancelled),
    ];
    for (encoding, gone) in
        [Encoding::V1, Encoding::V2].into_iter().flat_map(|encoding| gone.map(|gone| (encoding, gone)))
    {
        let mut line = Line::new(encoding, kept_limits());
        let (ours, theirs) = line.pair.stream();
        line.pair.gateway.finish(theirs);
        line.pair.gateway.forget(theirs);
        line.leave(usize::MAX);
        line.arrive(usize::MAX);
        line.cut(0);
        gone(&mut line, ours);
        line.exchange();
        assert_eq!(
            (line.pair.client.stream_count(), line.pair.gateway.stream_count()),
            (0, 0),
            "stopped, {encoding:?}"
        );

        let (ours, theirs) = line.pair.stream();
        line.pair.gateway.finish(theirs);
        line.exchange();
        line.pair.client.finish(ours);
        line.leave(usize::MAX);
        line.cut(0);
        line.pair.client.reset(ours, StreamCode::Cancelled);
        line.exchange();
        assert!(line.pair.gateway.is_gone(theirs), "its end was lost, {encoding:?}");

        let ours = line.pair.client.open_udp(line.pair.now).unwrap();
        line.exchange();
        let theirs = *line.pair.gateway.streams.iter().find(|(_, stream)| stream.udp).unwrap().0;
        line.pair.gateway.finish(theirs);
        line.exchange();
        line.pair.client.finish(ours);
        line.leave(usize::MAX);
        line.cut(0);
        gone(&mut line, ours);
        line.exchange();
        assert!(line.pair.gateway.is_gone(theirs), "an association whose end was lost, {encoding:?}");
    }
}

#[test]
fn what_was_sent_before_an_end_arrives_though_its_owner_is_done_before_the_answer() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut line = Line::new(encoding, kept_limits());
        let (ours, theirs) = line.pair.stream();
        send_all(&mut line.pair.client, ours, b"all of it");
        line.pair.client.finish(ours);
        line.leave(usize::MAX);
        line.cut(0);
        line.pair.client.forget(ours);
        line.exchange();
        let (bytes, end) = receive_all(&mut line.pair.gateway, theirs, line.pair.now);
        assert_eq!((&bytes[..], end), (&b"all of it"[..], Received::Finished), "{encoding:?}");
        line.exchange();
        assert_eq!((line.pair.client.stream_count(), line.pair.gateway.stream_count()), (0, 0), "{encoding:?}");
    }
}

#[test]
fn a_stream_that_was_reset_before_its_session_was_accepted_leaves_no_place() {
    let mut pair = Pair::greeting(Encoding::V2, kept_limits());
    pair.client.hello(Hello { features: Features::ALL, ..hello() });
    let ours = pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
    pair.client.finish(ours);
    pair.exchange();
    pair.client.reset(ours, StreamCode::Cancelled);
    pair.exchange();
    let opened = |event: &Event| if let Event::Opened { key, .. } = event { Some(*key) } else { None };
    let theirs = std::iter::from_fn(|| pair.gateway.poll_event()).find_map(|event| opened(&event)).unwrap();
    pair.gateway.accept(HelloOk { features: Features::ALL, resume: Some(resumable()), ..consent() });
    pair.exchange();
    receive_all(&mut pair.gateway, theirs, pair.now);
    pair.gateway.finish(theirs);
    pair.gateway.forget(theirs);
    pair.exchange();
    assert_eq!((pair.client.stream_count(), pair.gateway.stream_count()), (0, 0));
}

#[test]
fn a_refusal_for_now_leaves_the_session_to_be_taken_up_later() {
    for code in [SessionCode::Overloaded, SessionCode::DeviceBanned] {
        let mut line = Line::new(Encoding::V2, kept_limits());
        let (ours, _) = line.pair.stream();
        line.pair.client.resume_with(Hello { features: Features::ALL, ..hello() }, &resumable().ticket, line.pair.now);
        let refusal = Frame::Error { code, message: String::new(), retry_after_ms: None };
        raw(&mut line.pair.client, &[refusal], line.pair.now).unwrap();
        assert_eq!(line.pair.client.is_resumable(), !code.is_final());
        assert_eq!(line.pair.client.is_gone(ours), code.is_final());
    }
}
