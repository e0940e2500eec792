//! What a stream's owners do, and what has to come of it.

use bytes::Bytes;
use httvps::frame::{Encoding, StreamCode, Target};
use httvps::mux::{Capacity, OpenError, Payload, Received, StreamKey};

use super::setup::{STREAMS, UDP_QUEUE};
use super::world::{CLIENT, GATEWAY, World};

const STREAMS_EVER: usize = 64;
const NUMBER: usize = 4;
const DATAGRAM_MAX: usize = 60_000;

#[expect(clippy::struct_excessive_bools, reason = "independent facts of one side")]
pub(super) struct Side {
    pub(super) sent: u64,
    pub(super) got: u64,
    pub(super) taken: usize,
    pub(super) burst: usize,
    pub(super) newest: Option<u32>,
    pub(super) finish: bool,
    pub(super) finished: bool,
    pub(super) over: bool,
    pub(super) gone: bool,
    pub(super) intact: bool,
    pub(super) starved: bool,
    pub(super) blocked: bool,
}

impl Side {
    fn new(sent: u64) -> Self {
        Self {
            sent,
            got: 0,
            taken: 0,
            burst: 0,
            newest: None,
            finish: false,
            finished: false,
            over: false,
            gone: false,
            intact: true,
            starved: false,
            blocked: false,
        }
    }

    pub(super) fn wake(&mut self) {
        self.starved = false;
        self.blocked = false;
    }
}

pub(super) struct Stream {
    pub(super) keys: [StreamKey; 2],
    pub(super) target: Option<Target>,
    pub(super) udp: bool,
    pub(super) opened: bool,
    pub(super) sides: [Side; 2],
}

impl World {
    pub(super) fn open(&mut self, len: usize) {
        let index = self.streams.len();
        if index == STREAMS_EVER {
            return;
        }
        let target = target_of(index);
        let mut payload = vec![0; len];
        fill(seed_of(index, CLIENT), 0, &mut payload);
        let session = &mut self.ends[CLIENT].session;
        let (may, room) = (session.may_open(), session.stream_count() < STREAMS);
        match session.open(&target, payload.into(), self.now) {
            Ok(key) => {
                assert!(may && room);
                self.begin(key, Some(target), len as u64);
            }
            Err(OpenError::NotOpen) => assert!(!may),
            Err(OpenError::Limit) => assert!(may && !room),
            Err(OpenError::Later(_)) => panic!("the rate is out of reach"),
            Err(OpenError::Unsupported) => panic!("streams are not supported"),
        }
        self.see(CLIENT);
    }

    pub(super) fn open_udp(&mut self) {
        if self.streams.len() < STREAMS_EVER
            && let Ok(key) = self.ends[CLIENT].session.open_udp(self.now)
        {
            self.begin(key, None, 0);
            self.see(CLIENT);
        }
    }

    fn begin(&mut self, key: StreamKey, target: Option<Target>, sent: u64) {
        assert!(self.keys[CLIENT].insert(key, self.streams.len()).is_none(), "a key was used twice");
        if self.setup.encoding == Encoding::V2 {
            self.keys[GATEWAY].insert(key, self.streams.len());
        }
        let udp = target.is_none();
        self.streams.push(Stream {
            keys: [key; 2],
            target,
            udp,
            opened: false,
            sides: [Side::new(sent), Side::new(0)],
        });
    }

    fn acts(&self, (index, end): (usize, usize)) -> bool {
        let stream = &self.streams[index];
        !stream.sides[end].gone && (end == CLIENT || self.accepted && stream.opened)
    }

    fn side(&mut self, (index, end): (usize, usize)) -> &mut Side {
        &mut self.streams[index].sides[end]
    }

    fn may_be_refused(&self, index: usize) -> bool {
        !self.streams[index].opened && (self.crowded || self.ends[GATEWAY].drained)
    }

    pub(super) fn is_disturbed(&self, index: usize) -> bool {
        self.ended || self.tainted || self.setup.may_stall() || self.may_be_refused(index)
    }

    fn may_be_gone(&self, index: usize) -> bool {
        self.is_disturbed(index) || self.streams[index].sides.iter().any(|side| !side.intact)
    }

    pub(super) fn send(&mut self, at: (usize, usize), len: usize) {
        let (index, end) = at;
        if self.streams[index].udp || !self.acts(at) {
            return;
        }
        let key = self.streams[index].keys[end];
        let mut left = len.min(self.budget);
        while left > 0 {
            let capacity = self.ends[end].session.capacity(key);
            let may_be_closed = self.may_be_gone(index);
            let side = self.side(at);
            assert!(!side.blocked || capacity == Capacity::Blocked, "no wake-up for {capacity:?}");
            let room = match capacity {
                Capacity::Bytes(room) => room,
                Capacity::Blocked => {
                    side.blocked = true;
                    return;
                }
                Capacity::Closed => {
                    assert!(side.finish || may_be_closed, "stream {index} takes no more");
                    return;
                }
            };
            assert!(room > 0 && !side.finish, "room for {room} bytes");
            let len = room.min(left);
            let mut payload = vec![0; len];
            fill(seed_of(index, end), side.sent, &mut payload);
            side.sent += len as u64;
            left -= len;
            self.budget -= len;
            self.ends[end].session.send(key, Payload::from(&payload[..]));
            self.see(end);
        }
    }

    pub(super) fn send_datagram(&mut self, at: (usize, usize), len: usize) {
        let (index, end) = at;
        let len = len.clamp(NUMBER, DATAGRAM_MAX);
        if !self.streams[index].udp || !self.acts(at) || len > self.budget {
            return;
        }
        self.budget -= len;
        let key = self.streams[index].keys[end];
        let side = self.side(at);
        let number = side.sent as u32;
        side.sent += 1;
        side.burst = 0;
        let mut payload = vec![0; len];
        let (head, body) = payload.split_at_mut(NUMBER);
        head.copy_from_slice(&number.to_be_bytes());
        fill(seed_of(index, end), u64::from(number), body);
        self.ends[end].session.send_datagrams(key, Payload::from(&payload[..]));
        self.see(end);
    }

    pub(super) fn finish(&mut self, at: (usize, usize)) {
        let (index, end) = at;
        if !self.acts(at) {
            return;
        }
        let key = self.streams[index].keys[end];
        self.ends[end].session.finish(key);
        self.see(end);
        let half = self.setup.half_closes();
        if half || end == GATEWAY {
            let side = self.side(at);
            side.finish = true;
            side.blocked = false;
        }
        if !half && end == GATEWAY {
            self.side((index, CLIENT)).intact = false;
        }
    }

    pub(super) fn reset(&mut self, at: (usize, usize), code: StreamCode) {
        let (index, end) = at;
        if self.acts(at) {
            let key = self.streams[index].keys[end];
            self.ends[end].session.reset(key, code);
            self.see(end);
            self.side(at).gone = true;
            self.spoil(index);
        }
    }

    pub(super) fn forget(&mut self, at: (usize, usize)) {
        let (index, end) = at;
        if !self.acts(at) {
            return;
        }
        let key = self.streams[index].keys[end];
        self.ends[end].session.forget(key);
        self.see(end);
        let half = self.setup.half_closes();
        let side = self.side(at);
        side.gone = true;
        let is_kept = side.finish && (side.finished || !half);
        if !is_kept {
            self.spoil(index);
        } else if !half {
            self.side((index, 1 - end)).intact = false;
        }
    }

    fn spoil(&mut self, index: usize) {
        for side in &mut self.streams[index].sides {
            side.intact = false;
        }
    }

    pub(super) fn take(&mut self, at: (usize, usize)) -> bool {
        let (index, end) = at;
        if !self.acts(at) || self.side(at).over {
            return false;
        }
        let key = self.streams[index].keys[end];
        let was_starved = self.side(at).starved;
        let received = self.ends[end].session.receive(key);
        self.see(end);
        assert!(!was_starved || received == Received::Nothing, "no wake-up for what came");
        match received {
            Received::Data(bytes) if self.streams[index].udp => self.check_datagram(at, &bytes),
            Received::Data(bytes) => self.check_bytes(at, &bytes),
            Received::Finished => {
                self.side(at).over = true;
                self.side(at).finished = true;
                self.check_end(at);
            }
            Received::Reset(code) => {
                let Stream { udp, sides, .. } = &self.streams[index];
                let is_over = *udp && sides[1 - end].finish;
                assert!(self.may_be_gone(index) || is_over, "stream {index} was reset: {code}");
                self.side(at).over = true;
            }
            Received::Nothing => {
                self.side(at).starved = true;
                return false;
            }
        }
        true
    }

    fn check_bytes(&mut self, at: (usize, usize), bytes: &Bytes) {
        let (index, end) = at;
        let got = self.side(at).got;
        let sent = self.side((index, 1 - end)).sent;
        self.side(at).got += bytes.len() as u64;
        self.side(at).taken += bytes.len();
        if self.tainted {
            return;
        }
        assert!(!bytes.is_empty() && got + bytes.len() as u64 <= sent, "{} bytes at {got} of {sent}", bytes.len());
        let mut expected = vec![0; bytes.len()];
        fill(seed_of(index, 1 - end), got, &mut expected);
        assert!(expected == *bytes, "stream {index}: other bytes at {got} than were sent");
    }

    fn check_datagram(&mut self, at: (usize, usize), bytes: &Bytes) {
        let (index, end) = at;
        self.side(at).got += bytes.len() as u64;
        if self.tainted {
            return;
        }
        let (number, body) = bytes.split_first_chunk::<NUMBER>().expect("a whole datagram");
        let number = u32::from_be_bytes(*number);
        assert!(u64::from(number) < self.side((index, 1 - end)).sent, "a datagram that was not sent");
        let newest = self.side(at).newest.replace(number);
        assert!(newest.is_none_or(|newest| newest < number), "datagram {number} behind {newest:?}");
        let mut expected = vec![0; body.len()];
        fill(seed_of(index, 1 - end), u64::from(number), &mut expected);
        assert!(expected == body, "stream {index}: another datagram than was sent");
    }

    fn check_end(&self, (index, end): (usize, usize)) {
        let Stream { udp, sides, .. } = &self.streams[index];
        let sender = &sides[1 - end];
        if sender.intact && !self.is_disturbed(index) {
            assert!(sender.finish, "stream {index}: an end that was not sent");
            assert!(*udp || sides[end].got == sender.sent, "stream {index} ended early");
        }
    }

    pub(super) fn consume(&mut self, at: (usize, usize), len: usize) {
        let (index, end) = at;
        let len = len.min(self.side(at).taken);
        if len > 0 && self.acts(at) {
            let key = self.streams[index].keys[end];
            self.side(at).taken -= len;
            self.ends[end].session.consumed(key, len, self.now);
            self.see(end);
        }
    }

    pub(super) fn take_all(&mut self, at: (usize, usize)) -> bool {
        let before = self.side(at).got;
        let mut moved = false;
        while self.take(at) {
            moved = true;
        }
        let waited = self.side(at).got - before;
        let is_bounded = !self.streams[at.0].udp || self.tainted || waited <= UDP_QUEUE as u64;
        assert!(is_bounded, "{waited} bytes of datagrams waited");
        self.consume(at, usize::MAX);
        moved
    }
}

fn target_of(index: usize) -> Target {
    let number = index as u16;
    match index % 3 {
        0 => Target::Name(format!("s{index}.test"), number),
        1 => Target::Ip(([198_u8, 51, 100, 7], number).into()),
        _ => Target::Ip(([0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, 7], number).into()),
    }
}

fn seed_of(index: usize, end: usize) -> u64 {
    (index * 2 + end) as u64
}

fn fill(seed: u64, from: u64, bytes: &mut [u8]) {
    for (at, byte) in (from..).zip(bytes) {
        *byte = ((at ^ (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}
