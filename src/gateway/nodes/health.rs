//! Whether a node can be used, by its dials, its streams' first bytes and its probes (docs/05, "A gateway's own view").
//! A circuit breaker without sockets and without a clock of its own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The times of a node's breaker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A stream without a byte for so long casts doubt on the node.
    pub(super) first_byte: Duration,
    /// Between probes of a node that is well.
    pub(super) interval: Duration,
    /// First and longest pause between probes of one that is not, or not known to be.
    pub(super) retry_min: Duration,
    pub(super) retry_max: Duration,
}

/// A stream that has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamId(u64);

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// It took the connection and did not answer.
    Silent,
    /// It could not be connected to.
    Unreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeCircuit {
    Closed,
    /// Closed, but the last probe was not answered.
    Doubted,
    Open,
}

struct Waiting<T> {
    handle: T,
    since: Instant,
}

/// One node's health; `T` is the handle of a stream that can be ended.
pub(super) struct Health<T> {
    limits: Limits,
    circuit: NodeCircuit,
    waiting: HashMap<StreamId, Waiting<T>>,
    /// When the streams' time is over, the earliest first.
    deadlines: VecDeque<(Instant, StreamId)>,
    /// When the node answered last.
    answered: Option<Instant>,
    /// A stream had no byte in its time, and nothing else came from the node since.
    suspected: bool,
    /// The one stream that may try a node that is down.
    trial: Option<StreamId>,
    next: u64,
    probe_at: Instant,
    probing: bool,
    pause: Duration,
    ended: Vec<T>,
    changed: bool,
}

impl<T> Health<T> {
    /// A node that is taken to be well and is to be probed at once.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            circuit: NodeCircuit::Closed,
            waiting: HashMap::new(),
            deadlines: VecDeque::new(),
            answered: None,
            suspected: false,
            trial: None,
            next: 0,
            probe_at: now,
            probing: false,
            pause: limits.retry_min,
            ended: Vec::new(),
            changed: false,
        }
    }

    /// Whether new streams may go there.
    pub(super) fn is_up(&self) -> bool {
        self.circuit != NodeCircuit::Open
    }

    /// A stream is about to be dialled. A node that is down takes one at a time: `None` while it is being tried.
    pub(super) fn opened(&mut self, handle: T, now: Instant) -> Option<StreamId> {
        if !self.is_up() && self.trial.is_some() {
            return None;
        }
        let id = StreamId(self.next);
        self.next += 1;
        if !self.is_up() {
            self.trial = Some(id);
        }
        self.waiting.insert(id, Waiting { handle, since: now });
        self.deadlines.push_back((now + self.limits.first_byte, id));
        Some(id)
    }

    /// A stream's first payload was sent: its time begins anew.
    pub(super) fn sent(&mut self, id: StreamId, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.since = now;
            self.deadlines.push_back((now + self.limits.first_byte, id));
        }
    }

    /// The first byte of a stream came back.
    pub(super) fn heard(&mut self, id: StreamId, now: Instant) {
        self.closed(id);
        self.alive(now);
    }

    /// A stream is over.
    pub(super) fn closed(&mut self, id: StreamId) {
        self.waiting.remove(&id);
        if self.trial == Some(id) {
            self.trial = None;
        }
    }

    /// The node cannot be connected to any more.
    pub(super) fn unreachable(&mut self, now: Instant) {
        self.fail(now);
    }

    /// There is a reason not to wait with the next probe for longer.
    pub(super) fn probe_within(&mut self, pause: Duration, now: Instant) {
        self.probe_at = self.probe_at.min(now + pause);
    }

    /// Begins a probe if it is time for one.
    pub(super) fn begin_probe(&mut self, now: Instant) -> bool {
        if self.probing || now < self.probe_at {
            return false;
        }
        self.probing = true;
        true
    }

    /// A probe came to nothing because the node is another one now.
    pub(super) fn forget_probe(&mut self, now: Instant) {
        self.probing = false;
        self.probe_at = now;
    }

    /// Takes what a probe found and sets the time of the next one.
    pub(super) fn probed(&mut self, outcome: Outcome, now: Instant) {
        self.probing = false;
        match outcome {
            Outcome::Answered => self.alive(now),
            Outcome::Unreachable => self.fail(now),
            Outcome::Silent if self.suspected || self.circuit == NodeCircuit::Doubted => self.fail(now),
            Outcome::Silent if self.is_up() => self.circuit = NodeCircuit::Doubted,
            Outcome::Silent => {}
        }
        self.suspected = false;
        self.schedule(now);
    }

    /// The control plane was told; `agreed` if it holds of the node what the gateway holds, `None` if it was not reached.
    pub(super) fn reported(&mut self, agreed: Option<bool>, now: Instant) {
        if self.circuit != NodeCircuit::Closed || agreed == Some(true) {
            return;
        }
        let pause = if agreed.is_some() { self.limits.retry_min } else { self.pause };
        self.pause = (pause * 2).min(self.limits.interval);
        self.probe_within(pause, now);
    }

    /// Looks at the streams whose time is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_front();
            let Some(waiting) = self.waiting.get(&id) else { continue };
            let is_due = waiting.since + self.limits.first_byte <= now;
            let is_silent = self.answered.is_none_or(|answered| answered <= waiting.since);
            if !self.is_up() && is_due {
                self.ended.extend(self.waiting.remove(&id).map(|waiting| waiting.handle));
                self.trial = self.trial.filter(|trial| *trial != id);
            } else if is_due && is_silent {
                self.suspected = true;
                self.probe_at = self.probe_at.min(now);
            }
        }
    }

    /// When there is something to do next.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        while self.deadlines.front().is_some_and(|(_, id)| !self.waiting.contains_key(id)) {
            self.deadlines.pop_front();
        }
        let deadline = self.deadlines.front().map(|(deadline, _)| *deadline);
        let probe = (!self.probing).then_some(self.probe_at);
        [deadline, probe].into_iter().flatten().min()
    }

    /// Streams to be ended because the node is down.
    pub(super) fn take_ended(&mut self) -> Vec<T> {
        std::mem::take(&mut self.ended)
    }

    /// Whether the node went down or came back since this was asked.
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn alive(&mut self, now: Instant) {
        self.answered = Some(now);
        self.suspected = false;
        if self.circuit == NodeCircuit::Open {
            self.turn(NodeCircuit::Closed, now);
        }
        self.circuit = NodeCircuit::Closed;
    }

    fn fail(&mut self, now: Instant) {
        if self.is_up() {
            self.turn(NodeCircuit::Open, now);
            self.ended.extend(self.waiting.drain().map(|(_, waiting)| waiting.handle));
            self.deadlines.clear();
        }
    }

    /// The control plane is to hear of a change at once, by a probe.
    fn turn(&mut self, circuit: NodeCircuit, now: Instant) {
        self.circuit = circuit;
        self.pause = self.limits.retry_min;
        self.probe_at = now;
        self.trial = None;
        self.changed = true;
    }

    fn schedule(&mut self, now: Instant) {
        let pause = match self.circuit {
            NodeCircuit::Closed => self.limits.interval,
            NodeCircuit::Doubted => self.limits.retry_min,
            NodeCircuit::Open => {
                let pause = self.pause;
                self.pause = (pause * 2).min(self.limits.retry_max);
                pause
            }
        };
        self.probe_at = now + pause;
    }
}

#[cfg(test)]
mod tests;
