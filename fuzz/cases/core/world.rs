//! Two sessions, what is between them, and the time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Encoding, Features, Frame, SessionCode, Target, binary, json};
use httvps::mux::{Event, MemoryBudget, Message, Role, Session, SessionError, StreamKey, Transmit};

use super::setup::{NOTICE, STREAMS, Setup, UDP_QUEUE};
use super::streams::Stream;

pub(super) const CLIENT: usize = 0;
pub(super) const GATEWAY: usize = 1;

const BUDGET: usize = 4 << 20;
const DEADLINES_MAX: usize = 10_000;

pub(super) enum Item {
    Message(Bytes),
    Ping,
    Pong,
    Close,
}

pub(super) struct Node {
    pub(super) session: Session,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) kept: Arc<MemoryBudget>,
    pub(super) wire: VecDeque<Item>,
    pub(super) drained: bool,
    pub(super) parted: bool,
}

impl Node {
    fn new(role: Role, setup: Setup, now: Instant) -> Self {
        let limits = setup.limits();
        let (memory, kept) = (Arc::clone(&limits.memory), Arc::clone(&limits.kept));
        let session = Session::new(role, setup.encoding, Arc::new(limits), role as u64 + 1, now);
        Self { session, memory, kept, wire: VecDeque::new(), drained: false, parted: false }
    }
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts of a run")]
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) ends: [Node; 2],
    pub(super) now: Instant,
    pub(super) streams: Vec<Stream>,
    pub(super) keys: [HashMap<StreamKey, usize>; 2],
    arrived: usize,
    pub(super) budget: usize,
    pub(super) greeted: bool,
    pub(super) accepted: bool,
    pub(super) crowded: bool,
    pub(super) ended: bool,
    pub(super) tainted: bool,
    pub(super) code: Option<SessionCode>,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let now = Instant::now();
        let mut ends = [Role::Client, Role::Gateway].map(|role| Node::new(role, setup, now));
        ends[CLIENT].session.pad(&setup.padding());
        ends[CLIENT].session.hello(setup.hello());
        Self {
            setup,
            ends,
            now,
            streams: Vec::new(),
            keys: [HashMap::new(), HashMap::new()],
            arrived: 0,
            budget: BUDGET,
            greeted: false,
            accepted: false,
            crowded: false,
            ended: false,
            tainted: false,
            code: None,
        }
    }

    pub(super) fn accept(&mut self) {
        if self.greeted && !self.accepted && !self.ends[GATEWAY].session.is_closed() {
            self.accepted = true;
            self.ends[GATEWAY].session.accept(self.setup.consent());
        }
    }

    /// The line is lost with all that is under way on it; so are this many requests to go on or their answers, then the next
    /// one arrives.
    pub(super) fn cut(&mut self, lost: usize) {
        let is_held = self.ends.iter().all(|node| node.session.is_resumable() && !node.parted);
        if !is_held || !self.accepted || self.tainted {
            return;
        }
        for attempt in 0..=lost {
            for node in &mut self.ends {
                node.wire.clear();
            }
            let hello = self.setup.hello();
            let ticket = hello.access_token.clone();
            self.ends[CLIENT].session.resume_with(hello, &ticket, self.now);
            self.see(CLIENT);
            self.transmit(CLIENT, 2);
            let Some(Item::Message(asked)) = self.ends[CLIENT].wire.pop_front() else { panic!("nothing is asked") };
            assert!(self.ends[CLIENT].wire.is_empty(), "something follows before the answer");
            if attempt % 2 == 1 && attempt < lost {
                continue;
            }
            let asked = match self.setup.encoding {
                Encoding::V1 => json::decode(&asked, Features::ALL),
                Encoding::V2 => binary::decode(&mut asked.clone()).map(|frame| frame.expect("a frame")),
            };
            let Ok(Frame::Hello(hello)) = asked else { panic!("something else is asked") };
            let theirs = hello.resume.expect("what the client has");
            self.ends[GATEWAY].session.resume(&theirs, self.setup.consent(), self.now);
            self.see(GATEWAY);
            self.transmit(GATEWAY, attempt);
        }
    }

    pub(super) fn notice(&mut self, end: usize) {
        self.ends[end].session.notice(NOTICE);
    }

    pub(super) fn drain(&mut self, end: usize) {
        self.ends[end].drained = true;
        self.ends[end].session.drain(Duration::from_millis(5));
        self.ends[end].session.refuse_streams();
    }

    pub(super) fn close(&mut self, end: usize, code: Option<SessionCode>) {
        if self.ends[end].session.is_closed() {
            return;
        }
        self.ended = true;
        if end == GATEWAY {
            self.code = code;
        }
        self.ends[end].session.close(code, "", None);
        self.see(end);
    }

    pub(super) fn ping(&mut self, end: usize) {
        if !self.ends[end].parted {
            self.ends[end].wire.push_back(Item::Ping);
        }
    }

    pub(super) fn round(&mut self) -> bool {
        let mut moved = false;
        for end in [CLIENT, GATEWAY] {
            moved |= self.transmit(end, usize::MAX);
            moved |= self.deliver(end, usize::MAX);
        }
        moved
    }

    pub(super) fn transmit(&mut self, from: usize, most: usize) -> bool {
        for sent in 0..most {
            let transmit = self.ends[from].session.poll_transmit();
            self.see(from);
            let Some(transmit) = transmit else { return sent > 0 };
            assert!(!self.ends[from].parted, "something follows Close");
            let item = match transmit {
                Transmit::Message(message) => Item::Message(self.inspect(from, message)),
                Transmit::Ping => Item::Ping,
                Transmit::Close(_) => {
                    self.ends[from].parted = true;
                    Item::Close
                }
            };
            self.ends[from].wire.push_back(item);
        }
        true
    }

    fn inspect(&mut self, from: usize, message: Message) -> Bytes {
        assert!(!message.is_empty(), "an empty message");
        let body = message.concat();
        match self.setup.encoding {
            Encoding::V1 => {
                let frame = json::decode(&body, Features::ALL).expect("a message of this side's");
                self.weigh(from, &frame);
            }
            Encoding::V2 => {
                assert!(body.len() <= binary::MAX_MESSAGE, "a message of {} bytes", body.len());
                let mut rest = body.clone();
                while let Some(frame) = binary::decode(&mut rest).expect("a message of this side's") {
                    self.weigh(from, &frame);
                }
            }
        }
        body
    }

    fn weigh(&mut self, from: usize, frame: &Frame) {
        let Frame::Data { id, payload, .. } = frame else { return };
        if let Some(stream) = self.streams.get_mut(id.0 as usize / 2)
            && stream.udp
        {
            let side = &mut stream.sides[from];
            side.burst += payload.len();
            assert!(side.burst <= UDP_QUEUE || self.tainted, "{} bytes of datagrams were queued", side.burst);
        }
    }

    pub(super) fn deliver(&mut self, from: usize, most: usize) -> bool {
        let to = 1 - from;
        for delivered in 0..most {
            if self.ends[to].session.is_closed() {
                self.ends[from].wire.clear();
            } else if self.ends[to].session.is_paused() {
                return delivered > 0;
            }
            let Some(item) = self.ends[from].wire.pop_front() else { return delivered > 0 };
            self.hand_over(to, item);
        }
        true
    }

    fn hand_over(&mut self, to: usize, item: Item) {
        let now = self.now;
        let unopened = self.streams.iter().filter(|stream| !stream.opened).count();
        self.crowded |= self.ends[GATEWAY].session.stream_count() + unopened > STREAMS;
        if let Item::Message(message) = &item
            && to == GATEWAY
        {
            self.number(message);
        }
        let session = &mut self.ends[to].session;
        session.heard(now);
        match item {
            Item::Message(message) => {
                let handled = session.handle_message(message, now);
                self.judge(to, handled);
            }
            Item::Ping => {
                let charged = session.charge_ping(now);
                self.ends[to].wire.push_back(Item::Pong);
                self.judge(to, charged);
            }
            Item::Pong => {
                let charged = session.pong(now);
                self.judge(to, charged);
            }
            Item::Close => session.close(None, "", None),
        }
        let node = &self.ends[GATEWAY];
        self.crowded |= node.session.stream_count() >= STREAMS || node.memory.held() >= self.setup.pressure();
        self.see(to);
    }

    /// A v1 gateway numbers streams as they arrive: what a client has reset before it was seen is left out.
    fn number(&mut self, message: &Bytes) {
        if self.setup.encoding == Encoding::V1
            && let Ok(Frame::Open { id, .. }) = json::decode(message, Features::ALL)
        {
            let key = self.streams.get(self.arrived).map(|stream| stream.keys[CLIENT]);
            let index = id.0 as usize / 2;
            self.arrived += 1;
            if let Some((key, stream)) = key.zip(self.streams.get_mut(index)) {
                stream.keys[GATEWAY] = key;
                self.keys[GATEWAY].insert(key, index);
            }
        }
    }

    fn judge(&mut self, end: usize, result: Result<(), SessionError>) {
        let Err(error) = result else { return };
        assert!(self.tainted, "what an honest peer sent is refused by {end}: {error}");
        self.close(end, Some(error.code()));
    }

    pub(super) fn see(&mut self, end: usize) {
        while let Some(event) = self.ends[end].session.poll_event() {
            match event {
                Event::Hello(hello) => {
                    assert!(*hello == self.setup.hello() || self.tainted);
                    self.greeted = true;
                    if !self.setup.is_late() {
                        self.accept();
                    }
                }
                Event::Accepted(ok) => {
                    let is_resumed = ok.resume.as_ref().is_some_and(|resumable| resumable.resumed);
                    assert!(is_resumed || ok == self.setup.consent() || self.tainted);
                }
                Event::Held | Event::Resumed => assert!(self.setup.resumes()),
                Event::Opened { key, target } => self.opened(key, target.as_ref()),
                Event::GoingAway { .. } => assert!(self.ends[1 - end].drained || self.tainted),
                Event::Notice(notice) => assert!(notice == NOTICE || self.tainted),
                Event::Ended { code, .. } => assert!(self.code == Some(code) || self.tainted),
                Event::Wake(key) => {
                    if let Some(index) = self.keys[end].get(&key) {
                        self.streams[*index].sides[end].wake();
                    }
                }
                Event::WakeAll => {
                    for stream in &mut self.streams {
                        stream.sides[end].wake();
                    }
                }
            }
        }
    }

    fn opened(&mut self, key: StreamKey, target: Option<&Target>) {
        let Some(index) = self.keys[GATEWAY].get(&key) else {
            assert!(self.tainted, "a stream that nobody opened");
            self.ends[GATEWAY].session.forget(key);
            return;
        };
        let stream = &mut self.streams[*index];
        let expected = !stream.opened && stream.target.as_ref() == target;
        assert!(expected || self.tainted, "stream {index} was not opened like that");
        stream.opened = true;
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let target = self.now + by;
        for _ in 0..DEADLINES_MAX {
            let due = self.ends.iter().filter_map(|node| node.session.poll_timeout()).min();
            let Some(due) = due.filter(|due| *due <= target) else {
                self.now = target;
                return;
            };
            self.now = self.now.max(due);
            for end in [CLIENT, GATEWAY] {
                let handled = self.ends[end].session.handle_timeout(self.now);
                self.see(end);
                self.judge(end, handled);
            }
        }
        panic!("a deadline does not pass");
    }

    pub(super) fn check(&self) {
        for node in &self.ends {
            let (held, streams) = (node.memory.held(), node.session.stream_count());
            assert!(held <= self.setup.held_max(), "{held} bytes are held");
            assert!(streams <= STREAMS, "{streams} streams");
        }
    }
}
