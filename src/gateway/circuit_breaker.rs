//! The breaker as calls, sessions and background tasks share it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::circuit::{Availability, Circuit, CircuitTimes, Gate};

/// Whether the control plane is within reach.
pub(crate) struct CircuitBreaker {
    circuit: Mutex<Circuit>,
    changed: watch::Sender<()>,
    shown: Option<IntGauge>,
}

impl CircuitBreaker {
    pub(super) fn new(times: CircuitTimes, shown: Option<IntGauge>) -> Self {
        if let Some(gauge) = &shown {
            gauge.set(1);
        }
        Self { circuit: Mutex::new(Circuit::new(times, Instant::now())), changed: watch::Sender::default(), shown }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How things stand for one who has waited since a moment.
    pub(crate) fn availability(&self, asked_at: Instant) -> Availability {
        self.circuit().availability(asked_at, Instant::now())
    }

    /// Whether calls are answered as an outage at once.
    pub(crate) fn is_away(&self) -> bool {
        self.circuit().gate(Instant::now()) == Gate::Away
    }

    /// Resolves once nobody has got an answer for a while, or will get any.
    pub(crate) async fn doubtful(&self, asked_at: Instant) {
        let mut changed = self.changed.subscribe();
        loop {
            if self.availability(asked_at) != Availability::Answering {
                return;
            }
            let at = self.circuit().doubtful_at(asked_at);
            tokio::select! {
                () = sleep_until(at) => {}
                _ = changed.changed() => {}
            }
        }
    }

    /// Resolves when a trial may go.
    pub(super) async fn trial_due(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let at = self.circuit().trial_at();
            tokio::select! {
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => return,
                _ = changed.changed() => {}
            }
        }
    }

    /// Lets an ordinary call pass; `None` during an outage.
    pub(super) async fn enter(&self) -> Option<Call<'_>> {
        let mut changed = self.changed.subscribe();
        loop {
            let gate = self.circuit().gate(Instant::now());
            match gate {
                Gate::Go => return Some(Call::new(self, false)),
                Gate::Away => return None,
                Gate::Wait(until) => tokio::select! {
                    () = sleep_until(until) => {}
                    _ = changed.changed() => {}
                },
            }
        }
    }

    /// Lets a call pass that is a trial during an outage; `None` if it is too early for one.
    pub(super) fn enter_as_trial(&self) -> Option<Call<'_>> {
        match self.circuit().gate_trial(Instant::now()) {
            (Gate::Go, trial) => Some(Call::new(self, trial)),
            (Gate::Wait(_) | Gate::Away, _) => None,
        }
    }
}

/// A call under way; one that is dropped says nothing about the control plane.
pub(super) struct Call<'a> {
    breaker: &'a CircuitBreaker,
    asked_at: Instant,
    trial: bool,
}

impl<'a> Call<'a> {
    fn new(breaker: &'a CircuitBreaker, trial: bool) -> Self {
        Self { breaker, asked_at: Instant::now(), trial }
    }

    /// Resolves when it is not to be waited for any more, because others got no answer; never for a trial.
    pub(super) async fn given_up(&self) {
        let mut changed = self.breaker.changed.subscribe();
        loop {
            let at = if self.trial { None } else { self.breaker.circuit().given_up_at(self.asked_at) };
            tokio::select! {
                () = sleep_until(at.unwrap_or(self.asked_at)), if at.is_some() => return,
                _ = changed.changed() => {}
            }
        }
    }

    /// Whether it has taken longer than an answer should.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.asked_at + self.breaker.circuit().times().doubt
    }

    /// The control plane has answered.
    pub(super) fn answered(mut self) {
        self.trial = false;
        let away = self.breaker.circuit().heard(Instant::now());
        if let Some(away) = away {
            tracing::info!(?away, "the control plane is reachable again");
            self.breaker.show(1);
        }
    }

    /// There was no answer.
    pub(super) fn failed(self) {
        let opened = self.breaker.circuit().failed(self.asked_at, Instant::now());
        if opened {
            tracing::warn!("the control plane does not answer; probing until it does");
            self.breaker.show(0);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.circuit().trial_failed(Instant::now());
            self.breaker.changed.send_replace(());
        }
    }
}

impl CircuitBreaker {
    fn show(&self, reachable: i64) {
        if let Some(gauge) = &self.shown {
            gauge.set(reachable);
        }
        self.changed.send_replace(());
    }
}
