//! Two honest cores on a wire, against a model of what their streams have to deliver.

#[path = "core/finale.rs"]
mod finale;
#[path = "core/hostile.rs"]
mod hostile;
#[path = "core/setup.rs"]
mod setup;
#[path = "core/streams.rs"]
mod streams;
#[path = "core/world.rs"]
mod world;

use std::time::Duration;

use httvps::frame::{SessionCode, StreamCode};

use self::setup::Setup;
use self::world::{CLIENT, GATEWAY, World};

const FIRST_BYTES_MAX: usize = 200;

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn small(&mut self) -> usize {
        self.byte().unwrap_or(0).into()
    }

    fn number(&mut self) -> usize {
        (self.small() << 8) | self.small()
    }

    fn pick(&mut self, of: usize) -> Option<usize> {
        self.small().checked_rem(of)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.small().min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }

    fn stream_code(&mut self) -> StreamCode {
        StreamCode::ALL[self.small() % StreamCode::ALL.len()]
    }

    fn session_code(&mut self) -> Option<SessionCode> {
        self.small().checked_sub(1).map(|number| SessionCode::ALL[number % SessionCode::ALL.len()])
    }
}

pub fn core(data: &[u8]) {
    let mut input = Cursor(data);
    let [mode, subset, options] = [input.small(), input.small(), input.small()];
    let mut world = World::new(Setup::new(mode, subset, options));
    while let Some(operation) = input.byte() {
        step(&mut world, operation, &mut input);
        world.check();
    }
    world.conclude();
}

fn step(world: &mut World, operation: u8, input: &mut Cursor<'_>) {
    let end = if operation & 0x80 == 0 { CLIENT } else { GATEWAY };
    match operation & 0x1f {
        0 => world.open(input.small().min(FIRST_BYTES_MAX)),
        1 => world.open_udp(),
        code @ 2..=10 => {
            if let Some(index) = input.pick(world.streams.len()) {
                stream_step(world, code, (index, end), input);
            }
        }
        11 => {
            let most = input.small() + 1;
            world.transmit(end, most);
            world.deliver(end, most);
        }
        12 => {
            world.transmit(end, input.small() + 1);
        }
        13 => {
            world.deliver(end, input.small() + 1);
        }
        14 => world.ping(end),
        15 => world.advance(Duration::from_millis(input.number() as u64)),
        16 => world.notice(end),
        17 => world.drain(end),
        18 => {
            let code = input.session_code();
            world.close(end, code);
        }
        19 => world.accept(),
        20 => {
            let (kind, id, len) = (input.small(), input.small(), input.number());
            world.forge(end, kind, hostile::Forged { id, len });
        }
        21 => {
            let bytes = input.bytes();
            world.inject(end, bytes);
        }
        22 => world.cut(input.small() % 4),
        _ => {
            world.round();
        }
    }
}

fn stream_step(world: &mut World, code: u8, at: (usize, usize), input: &mut Cursor<'_>) {
    match code {
        2 => world.send(at, input.number()),
        3 => world.send(at, input.small()),
        4 => world.send_datagram(at, input.number()),
        5 => world.finish(at),
        6 => world.reset(at, input.stream_code()),
        7 => world.forget(at),
        8 => {
            world.take(at);
        }
        9 => world.consume(at, input.number()),
        _ => {
            world.take_all(at);
        }
    }
}
