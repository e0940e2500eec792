//! Reports what sessions have moved, and applies the control plane's verdicts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::report_entry::{ReportEntry, ReportSubject};
use super::{Usage, lock};
use crate::api::Verdict;
use crate::frame::SessionCode;
use crate::gateway::control::{ControlClient, ControlError};
use crate::gateway::journal::JournalEntry;
use crate::lifecycle::Shutdown;

const UNKNOWN_SESSION: &str = "UNKNOWN_SESSION";

/// Which open sessions a report lists.
#[derive(Clone, Copy)]
pub(super) enum Listed<'a> {
    None,
    Some(&'a [Uuid]),
    /// Those with bytes that the control plane has not heard of.
    Moved,
    All,
}

impl Usage {
    pub(super) async fn keep_reporting(&self, control: &ControlClient, shutdown: &Shutdown) {
        let mut report = interval(self.config.report_interval);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = report.tick() => {
                    self.adopt().await;
                    self.report(control, Listed::All, true).await;
                }
                () = self.ended.notified() => {
                    let listed = if self.flush().await { Listed::None } else { Listed::Moved };
                    self.report(control, listed, false).await;
                }
            }
        }
    }

    /// Between the batches of regular reports, so that no lease waits for them.
    pub(super) async fn keep_renewing(&self, control: &ControlClient, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.report_queue.wait() => {}
            }
            if !self.report(control, Listed::Some(&self.report_queue.take()), false).await {
                tokio::select! {
                    () = shutdown.draining() => return,
                    () = tokio::time::sleep(self.config.report_retry) => {}
                }
            }
        }
    }

    /// One batch at a time, with what is true when its turn comes; whether the control plane took all of it.
    pub(super) async fn report(&self, control: &ControlClient, listed: Listed<'_>, periodic: bool) -> bool {
        let over =
            |over: &HashMap<Uuid, JournalEntry>| over.values().copied().map(ReportSubject::Over).collect::<Vec<_>>();
        let mut subjects = match listed {
            Listed::Some(_) => Vec::new(),
            Listed::None | Listed::Moved | Listed::All => over(&lock(&self.over)),
        };
        {
            let live = lock(&self.live);
            match listed {
                Listed::None => {}
                Listed::Some(those) => subjects.extend(
                    those.iter().filter_map(|session| live.get(session)).map(Arc::clone).map(ReportSubject::Live),
                ),
                Listed::Moved => subjects.extend(
                    live.values().filter(|account| account.unreported() > 0).map(Arc::clone).map(ReportSubject::Live),
                ),
                Listed::All => subjects.extend(live.values().map(Arc::clone).map(ReportSubject::Live)),
            }
        }
        let mut taken = true;
        for batch in subjects.chunks(self.config.report_batch) {
            let _turn = self.reporting.lock().await;
            let entries: Vec<ReportEntry<'_>> =
                batch.iter().map(|subject| ReportEntry::new(subject, periodic)).collect();
            let reports = {
                let (tokens, vouched) = (lock(&self.tokens), lock(&self.vouched));
                let token =
                    |entry: &JournalEntry| tokens.get(&entry.session).filter(|_| vouched.contains(&entry.session));
                let leaving = self.leaving.load(Ordering::Relaxed);
                entries.iter().map(|entry| entry.request(token(&entry.counters), leaving)).collect()
            };
            let asked_at = Instant::now();
            match control.report(reports).await {
                Ok(answer) => self.apply_verdicts(&entries, asked_at, &answer.sessions).await,
                Err(error) => {
                    taken = false;
                    error.log("failed to report usage; keeping it");
                    let lost = matches!(error, ControlError::Lost(_));
                    for entry in &entries {
                        entry.failed(lost);
                    }
                    if error.is_outage() {
                        for subject in &subjects {
                            subject.open_up();
                        }
                        return false;
                    }
                }
            }
        }
        taken
    }

    async fn apply_verdicts(&self, batch: &[ReportEntry<'_>], asked_at: Instant, verdicts: &[Verdict]) {
        let verdicts: HashMap<Uuid, &Verdict> = verdicts.iter().map(|verdict| (verdict.session_id, verdict)).collect();
        let mut done = Vec::new();
        for reported in batch {
            let ReportEntry { counters, account, .. } = reported;
            let Some(verdict) = verdicts.get(&counters.session) else { continue };
            if verdict.code.as_deref() == Some(SessionCode::Internal.as_str()) {
                tracing::warn!(session = %counters.session, "the control plane did not accept a usage report; keeping it");
                reported.failed(false);
                continue;
            }
            if self.vouch(counters, verdict) {
                if account.is_some() {
                    self.report_queue.add(counters.session);
                }
                continue;
            }
            if counters.ended_at.is_some() {
                if let Some(code) = &verdict.code {
                    tracing::warn!(session = %counters.session, code, "final usage report was answered with a code");
                }
                done.push(counters.session);
            } else if let Some(account) = account {
                account.apply_verdict(asked_at, counters.up.saturating_add(counters.down), verdict);
            }
        }
        if done.is_empty() {
            return;
        }
        {
            let (mut over, mut tokens) = (lock(&self.over), lock(&self.tokens));
            for session in &done {
                over.remove(session);
                tokens.remove(session);
            }
        }
        if let Err(reason) = self.journal.forget(done).await {
            tracing::error!(%reason, "failed to remove reported usage from disk");
        }
    }

    /// Whether the session has to be reported again with its token, because the control plane lost it.
    fn vouch(&self, entry: &JournalEntry, verdict: &Verdict) -> bool {
        if verdict.code.as_deref() != Some(UNKNOWN_SESSION) {
            lock(&self.vouched).remove(&entry.session);
            return false;
        }
        lock(&self.tokens).contains_key(&entry.session) && lock(&self.vouched).insert(entry.session)
    }
}
