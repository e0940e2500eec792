//! Whether the control plane is worth asking (docs/04, "The circuit breaker").

use std::time::Duration;

use tokio::time::Instant;

/// The times of a circuit.
#[derive(Clone, Copy, Debug)]
pub(super) struct CircuitTimes {
    /// Silence after which the control plane is in doubt.
    pub(super) doubt: Duration,
    /// First and longest pause between trials.
    pub(super) retry_min: Duration,
    pub(super) retry_max: Duration,
}

/// What a caller who would like to ask, or is waiting, may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Answering,
    /// Nobody got an answer for a while; one may still come.
    Doubtful,
    /// A call got no answer and no trial has had one since.
    Away,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Go,
    /// A trial may be answered by then.
    Wait(Instant),
    Away,
}

/// Closed while calls are answered, open from the first that is not until a trial is. It has no clock of its own.
#[derive(Debug)]
pub(super) struct Circuit {
    times: CircuitTimes,
    heard_at: Instant,
    in_doubt: bool,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    /// When the next trial may go, unless one is under way.
    trial_at: Option<Instant>,
    pause: Duration,
}

impl Circuit {
    pub(super) fn new(times: CircuitTimes, now: Instant) -> Self {
        Self { times, heard_at: now, in_doubt: false, open: None }
    }

    pub(super) fn times(&self) -> CircuitTimes {
        self.times
    }

    /// Whether an ordinary call may be made.
    pub(super) fn gate(&self, now: Instant) -> Gate {
        match self.open {
            None => Gate::Go,
            Some(open) if now < open.since + self.times.doubt => Gate::Wait(open.since + self.times.doubt),
            Some(_) => Gate::Away,
        }
    }

    /// Whether a call may be made that is a trial if the breaker is open, and whether it is one.
    pub(super) fn gate_trial(&mut self, now: Instant) -> (Gate, bool) {
        match &mut self.open {
            None => (Gate::Go, false),
            Some(open) if open.trial_at.is_some_and(|at| at <= now) => {
                open.trial_at = None;
                (Gate::Go, true)
            }
            Some(_) => (Gate::Away, false),
        }
    }

    /// When the next trial may go; `None` while the breaker is closed or a trial is under way.
    pub(super) fn trial_at(&self) -> Option<Instant> {
        self.open?.trial_at
    }

    /// The control plane has answered; gives how long it was away.
    pub(super) fn heard(&mut self, now: Instant) -> Option<Duration> {
        self.heard_at = now;
        self.in_doubt = false;
        self.open.take().map(|open| now.saturating_duration_since(open.since))
    }

    /// A call that was made at a moment got no answer; whether this opened the circuit. Others that were answered since
    /// speak for the control plane.
    pub(super) fn failed(&mut self, asked_at: Instant, now: Instant) -> bool {
        if self.open.is_some() || self.heard_at > asked_at {
            return false;
        }
        self.open = Some(Open { since: now, trial_at: Some(now), pause: self.times.retry_min });
        true
    }

    /// A trial got no answer.
    pub(super) fn trial_failed(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.trial_at = Some(now + open.pause);
            open.pause = (open.pause * 2).min(self.times.retry_max);
        }
    }

    /// When a call that was made at a moment is in doubt if nothing is heard until then.
    pub(super) fn doubtful_at(&self, asked_at: Instant) -> Instant {
        if self.in_doubt { asked_at } else { asked_at.max(self.heard_at) + self.times.doubt }
    }

    /// When a call that was made at a moment is not to be waited for any more; `None` while the breaker is closed.
    pub(super) fn given_up_at(&self, asked_at: Instant) -> Option<Instant> {
        self.open.map(|open| open.since.max(asked_at) + self.times.doubt)
    }

    /// How things stand for one who has waited since a moment.
    pub(super) fn availability(&mut self, asked_at: Instant, now: Instant) -> Availability {
        if self.gate(now) == Gate::Away {
            return Availability::Away;
        }
        if self.open.is_none() && now < self.doubtful_at(asked_at) {
            return Availability::Answering;
        }
        self.in_doubt = true;
        Availability::Doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn circuit() -> (Circuit, Instant) {
        let times = CircuitTimes { doubt: 250 * MS, retry_min: 100 * MS, retry_max: 300 * MS };
        let now = Instant::now();
        (Circuit::new(times, now), now)
    }

    #[test]
    fn the_first_call_without_an_answer_opens_it_and_a_trial_closes_it() {
        let (mut circuit, start) = circuit();
        assert_eq!((circuit.gate(start), circuit.trial_at()), (Gate::Go, None));
        let now = start + 5000 * MS;
        assert!(circuit.failed(start, now) && !circuit.failed(start, now));
        assert_eq!(circuit.gate(now), Gate::Wait(now + 250 * MS), "the first trial may be answered at once");
        assert_eq!(circuit.gate_trial(now), (Gate::Go, true));
        assert_eq!((circuit.gate_trial(now), circuit.trial_at()), ((Gate::Away, false), None), "one trial at a time");
        assert_eq!(circuit.gate(now + 250 * MS), Gate::Away);
        assert_eq!(circuit.heard(now + 400 * MS), Some(400 * MS));
        assert_eq!((circuit.gate(now + 400 * MS), circuit.gate_trial(now + 400 * MS)), (Gate::Go, (Gate::Go, false)));
    }

    #[test]
    fn pauses_between_trials_grow_to_a_limit() {
        let (mut circuit, mut now) = circuit();
        circuit.failed(now, now);
        for pause in [100, 200, 300, 300] {
            assert!(circuit.gate_trial(now).1);
            now += 1000 * MS;
            circuit.trial_failed(now);
            assert_eq!(circuit.trial_at(), Some(now + pause * MS));
            assert_eq!(circuit.gate_trial(now), (Gate::Away, false), "not before its time");
            now += pause * MS;
        }
        circuit.heard(now);
        circuit.failed(now, now + MS);
        assert_eq!(circuit.trial_at(), Some(now + MS), "the next outage begins with the shortest pause");
    }

    #[test]
    fn a_call_that_was_answered_since_speaks_for_the_control_plane() {
        let (mut circuit, start) = circuit();
        circuit.heard(start + 100 * MS);
        assert!(!circuit.failed(start, start + 5000 * MS));
        assert_eq!(circuit.gate(start + 5000 * MS), Gate::Go);
        assert!(circuit.failed(start + 200 * MS, start + 5200 * MS));
    }

    #[test]
    fn silence_while_somebody_waits_is_doubt_until_something_is_heard() {
        let (mut circuit, start) = circuit();
        let asked_at = start + 60_000 * MS;
        assert_eq!(circuit.availability(asked_at, asked_at + 249 * MS), Availability::Answering, "nobody asked before");
        circuit.heard(asked_at + 100 * MS);
        assert_eq!(circuit.availability(asked_at, asked_at + 349 * MS), Availability::Answering);
        let now = asked_at + 350 * MS;
        assert_eq!(circuit.availability(asked_at, now), Availability::Doubtful);
        assert_eq!(circuit.availability(now, now), Availability::Doubtful, "who comes now does not wait again");
        circuit.heard(now);
        assert_eq!(circuit.availability(now, now), Availability::Answering);
        circuit.failed(now, now + 300 * MS);
        assert_eq!(circuit.availability(now, now + 300 * MS), Availability::Doubtful);
        assert_eq!(circuit.availability(now, now + 550 * MS), Availability::Away);
    }

    #[test]
    fn calls_under_way_are_given_up_soon_after_it_opens() {
        let (mut circuit, start) = circuit();
        assert_eq!(circuit.given_up_at(start), None);
        circuit.failed(start, start + 5000 * MS);
        assert_eq!(circuit.given_up_at(start), Some(start + 5250 * MS));
        assert_eq!(circuit.given_up_at(start + 5100 * MS), Some(start + 5350 * MS));
    }
}
