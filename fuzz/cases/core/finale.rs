//! What is left to do is done; then everything has to have arrived, and nothing may be left.

use std::sync::Arc;
use std::time::Duration;

use httvps::frame::SessionCode;

use super::world::{CLIENT, GATEWAY, World};

const ROUNDS_MAX: usize = 2_000;
const ROUND: Duration = Duration::from_millis(50);
const LAST_BYTES: usize = 100;

impl World {
    pub(super) fn conclude(mut self) {
        self.settle();
        if !self.ended && !self.tainted {
            self.check_whole();
            self.for_each_side(|world, at| world.send(at, LAST_BYTES));
            self.settle();
            self.check_whole();
            self.for_each_side(Self::finish);
            self.settle();
            self.check_finished();
            self.for_each_side(Self::forget);
            self.settle();
            self.check_empty();
        }
        self.close(GATEWAY, Some(SessionCode::GoingAway));
        self.settle();
        assert!(self.ends.iter().all(|node| node.session.is_closed()), "an end outlives the session");
        self.check_empty();
        let pools = self.ends.each_ref().map(|node| Arc::clone(&node.memory));
        drop(self);
        assert!(pools.iter().all(|pool| pool.held() == 0), "bytes are held that nobody has");
    }

    fn for_each_side(&mut self, act: fn(&mut Self, (usize, usize))) {
        for index in 0..self.streams.len() {
            act(self, (index, CLIENT));
            act(self, (index, GATEWAY));
        }
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.accept();
            let mut moved = self.round();
            for index in 0..self.streams.len() {
                moved |= self.take_all((index, CLIENT));
                moved |= self.take_all((index, GATEWAY));
            }
            self.check();
            if !moved && self.ends.iter().all(|node| node.wire.is_empty()) {
                return;
            }
            self.advance(ROUND);
        }
        panic!("it does not come to rest");
    }

    fn check_whole(&self) {
        for (index, stream) in self.streams.iter().enumerate() {
            if self.is_disturbed(index) {
                continue;
            }
            let [client, gateway] = &stream.sides;
            assert!(stream.opened || !client.intact || !gateway.intact, "stream {index} was not opened");
            for (sender, receiver) in [(client, gateway), (gateway, client)] {
                if stream.udp || !sender.intact || receiver.gone {
                    continue;
                }
                assert_eq!(receiver.got, sender.sent, "bytes of stream {index}");
                assert!(!sender.blocked, "stream {index} waits for credit that does not come");
            }
        }
    }

    fn check_finished(&self) {
        for (index, stream) in self.streams.iter().enumerate() {
            if self.is_disturbed(index) {
                continue;
            }
            let [client, gateway] = &stream.sides;
            for (sender, receiver) in [(client, gateway), (gateway, client)] {
                let is_due = sender.intact && sender.finish && !receiver.gone;
                let has_ended = receiver.finished || stream.udp && receiver.over;
                assert!(has_ended || !is_due, "stream {index}: the end did not come");
            }
        }
    }

    fn check_empty(&self) {
        let left = self.ends.each_ref().map(|node| (node.session.stream_count(), node.memory.held(), node.kept.held()));
        assert_eq!(left, [(0, 0, 0); 2], "streams and bytes are left");
    }
}
