//! Encoding, features and limits of a run.

use std::sync::Arc;
use std::time::Duration;

use httvps::frame::{Encoding, Feature, Features, Hello, HelloOk, Notice, Padding, Resumable, Token};
use httvps::mux::{INITIAL_WINDOW, Limits, MemoryBudget};

pub(super) const STREAMS: usize = 8;
pub(super) const UDP_QUEUE: usize = 64 * 1024;
pub(super) const NOTICE: Notice = Notice::Quota { percent: 80, remaining_bytes: 7 };

const OFTEN: u32 = 1_000_000;
const NEVER: Duration = Duration::from_secs(100_000_000);
const STALL: Duration = Duration::from_secs(30);

const LATE: usize = 1;
const SLOW: usize = 2;
const STALLS: usize = 4;
const NARROW: usize = 8;
const PADDED: usize = 16;
const SHORT: usize = 32;
const TIGHT: usize = 64;
const PATIENT: usize = 128;

const HOSTILE: usize = 128;

#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub(super) encoding: Encoding,
    pub(super) features: Features,
    pub(super) hostile: bool,
    options: usize,
}

impl Setup {
    pub(super) fn new(mode: usize, subset: usize, options: usize) -> Self {
        let (encoding, features) = match mode & 3 {
            0 => (Encoding::V1, Features::NONE),
            1 => (Encoding::V1, Features::ALL),
            2 => (Encoding::V2, Features::ALL),
            _ => (Encoding::V1, subset_of(subset)),
        };
        Self { encoding, features, hostile: mode & HOSTILE != 0, options }
    }

    fn has(self, option: usize) -> bool {
        self.options & option != 0
    }

    pub(super) fn is_late(self) -> bool {
        self.has(LATE)
    }

    pub(super) fn may_stall(self) -> bool {
        self.has(STALLS) && !self.features.has(Feature::Window)
    }

    pub(super) fn half_closes(self) -> bool {
        self.features.has(Feature::Half)
    }

    pub(super) fn padding(self) -> Padding {
        if self.has(PADDED) { Padding::documented() } else { Padding::default() }
    }

    fn window_pool(self) -> u64 {
        if self.has(NARROW) { 128 * 1024 } else { 1 << 20 }
    }

    fn process_pool(self) -> u64 {
        if self.has(TIGHT) { 256 * 1024 } else { 1 << 30 }
    }

    pub(super) fn pressure(self) -> u64 {
        self.window_pool().min(self.process_pool())
    }

    pub(super) fn held_max(self) -> u64 {
        self.window_pool() + STREAMS as u64 * INITIAL_WINDOW
    }

    pub(super) fn limits(self) -> Limits {
        Limits {
            streams: STREAMS,
            window: 1 << 20,
            window_pool: self.window_pool(),
            memory: Arc::new(MemoryBudget::new(self.process_pool())),
            send_queue: if self.has(SHORT) { 16 * 1024 } else { 128 * 1024 },
            send_pool: if self.has(SHORT) { 64 * 1024 } else { 4 << 20 },
            udp_queue: UDP_QUEUE,
            early_bytes: 64 * 1024,
            early_streams: 4,
            padding: self.padding(),
            v1_buffer: 64 * 1024,
            v1_stall_timeout: if self.has(STALLS) { STALL } else { NEVER },
            quantum: 16 * 1024,
            opens_per_second: OFTEN,
            resets_per_second: OFTEN,
            pings_per_second: OFTEN,
            tiny_frames_per_second: if self.has(SLOW) { 2000 } else { OFTEN },
            idle_frames_per_second: OFTEN,
            ping_after: Duration::from_secs(20),
            dead_after: NEVER,
            ping_after_busy: Duration::from_secs(3),
            dead_after_busy: NEVER,
            ping_jitter: 0.2,
            control_frames: 256,
            control_frames_per_message: 2048,
            keepalive_max: Duration::from_mins(5),
            kept: Arc::new(MemoryBudget::new(1 << 30)),
            kept_per_session: 1 << 30,
        }
    }

    pub(super) fn hello(self) -> Hello {
        Hello {
            device_id: "d".to_owned(),
            access_token: Token::from("t".to_owned()),
            region: "eu-1".to_owned(),
            client_version: String::new(),
            platform: String::new(),
            features: self.features,
            keepalive: self.has(PATIENT).then_some(60),
            resume: None,
            replaces: None,
        }
    }

    pub(super) fn consent(self) -> HelloOk {
        let padding = self.has(PADDED).then(Padding::documented);
        let resume = self.resumes().then(|| Resumable {
            ticket: Token::from("t".to_owned()),
            hold: 30,
            resumed: false,
            opened: 0,
            streams: Vec::new(),
        });
        HelloOk { session_id: "s".to_owned(), features: self.features, padding, resume, ..HelloOk::default() }
    }

    pub(super) fn resumes(self) -> bool {
        let needed = [Feature::Window, Feature::Open, Feature::Half, Feature::Code, Feature::Resume];
        needed.into_iter().all(|feature| self.features.has(feature))
    }
}

fn subset_of(bits: usize) -> Features {
    let chosen = Feature::ALL.into_iter().enumerate().filter(|(bit, _)| (bits >> bit) & 1 == 1);
    chosen.fold(Features::NONE, |features, (_, feature)| features.with(feature))
}
