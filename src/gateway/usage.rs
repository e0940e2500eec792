//! Counts what sessions move, keeps it on disk and reports it (docs/04, "Accounting").

mod report_entry;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::account::Account;
use super::clock::Clock;
use super::control::{ControlClient, ControlError};
use super::journal::{Journal, JournalEntry};
use super::metrics::GatewayMetrics;
use super::report_queue::ReportQueue;
use crate::api::Verdict;
use crate::config;
use crate::frame::{SessionCode, Token};
use crate::lifecycle::Shutdown;

use report_entry::{ReportEntry, ReportSubject};

/// All accounts of the gateway.
pub(crate) struct Usage {
    live: Mutex<HashMap<Uuid, Arc<Account>>>,
    over: Mutex<HashMap<Uuid, JournalEntry>>,
    unkept: Mutex<HashSet<Uuid>>,
    /// Tokens of this process's sessions until the control plane has taken their final report.
    tokens: Mutex<HashMap<Uuid, Token>>,
    /// Sessions that the control plane does not know: their next report carries the token.
    vouched: Mutex<HashSet<Uuid>>,
    flushing: tokio::sync::Mutex<()>,
    /// Why the journal cannot be written, if it cannot.
    unwritable: Mutex<Option<String>>,
    /// An answer must not be followed by an older one's.
    reporting: tokio::sync::Mutex<()>,
    ended: Notify,
    /// The process drains: other sessions may take the places of those that are open.
    leaving: AtomicBool,
    report_queue: Arc<ReportQueue>,
    journal: Journal,
    config: config::Gateway,
    metrics: GatewayMetrics,
    clock: Arc<Clock>,
}

/// Which open sessions a report lists.
#[derive(Clone, Copy)]
enum Listed<'a> {
    None,
    Some(&'a [Uuid]),
    /// Those with bytes that the control plane has not heard of.
    Moved,
    All,
}

/// An open session.
pub(crate) struct Open<'a> {
    usage: &'a Usage,
    account: &'a Arc<Account>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.usage.end(self.account);
    }
}

const UNKNOWN_SESSION: &str = "UNKNOWN_SESSION";
/// Time between urgent reports while the control plane takes none.
const RETRY: Duration = Duration::from_millis(250);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage {
    /// Adopts what an earlier process left in the journal.
    pub(crate) async fn open(
        journal: Journal,
        config: config::Gateway,
        metrics: GatewayMetrics,
        clock: Arc<Clock>,
    ) -> Result<Self, String> {
        let (entries, tokens) = journal.leftovers().await?;
        if !entries.is_empty() {
            tracing::info!(sessions = entries.len(), "adopted unreported usage");
        }
        let over: HashMap<_, _> = entries.into_iter().map(|entry| (entry.session, entry)).collect();
        let tokens = Mutex::new(tokens.into_iter().collect());
        let (live, unkept, vouched, flushing, unwritable, reporting, ended, leaving, report_queue) = Default::default();
        Ok(Self {
            live,
            over: Mutex::new(over),
            unkept,
            tokens,
            vouched,
            flushing,
            unwritable,
            reporting,
            ended,
            leaving,
            report_queue,
            journal,
            config,
            metrics,
            clock,
        })
    }

    /// Where sessions ask for a report.
    pub(crate) fn report_queue(&self) -> Arc<ReportQueue> {
        Arc::clone(&self.report_queue)
    }

    /// A session begins; it ends when the guard is dropped.
    pub(crate) fn begin<'a>(&'a self, account: &'a Arc<Account>) -> Open<'a> {
        lock(&self.live).insert(account.session(), Arc::clone(account));
        lock(&self.tokens).insert(account.session(), account.token().clone());
        self.metrics.sessions.inc();
        Open { usage: self, account }
    }

    /// A session is over and its counters stand still.
    fn end(&self, account: &Account) {
        if lock(&self.live).remove(&account.session()).is_none() {
            return;
        }
        self.metrics.sessions.dec();
        account.give_back();
        lock(&self.over).insert(account.session(), account.entry(Some(self.clock.now())));
        lock(&self.unkept).insert(account.session());
        self.ended.notify_one();
    }

    /// Ends the sessions of a kind.
    pub(crate) fn cut(&self, of: impl Fn(&Account) -> bool, code: SessionCode) {
        let those: Vec<_> = lock(&self.live).values().filter(|account| of(account)).map(Arc::clone).collect();
        for account in those {
            account.cut(code);
        }
    }

    /// A session that was asked for and never began, should the control plane have reserved a place for it.
    pub(crate) fn abandon(&self, session: Uuid, device: Uuid) {
        let now = self.clock.now();
        let entry = JournalEntry { session, device, up: 0, down: 0, started_at: now, ended_at: Some(now) };
        lock(&self.over).insert(session, entry);
        self.ended.notify_one();
    }

    /// Open sessions that the control plane has to know, sorted.
    pub(crate) fn known(&self) -> Vec<Uuid> {
        let mut known: Vec<Uuid> =
            lock(&self.live).values().filter(|account| account.is_known()).map(|account| account.session()).collect();
        known.sort_unstable();
        known
    }

    /// Devices of the open sessions of a kind.
    pub(crate) fn devices(&self, of: impl Fn(&Account) -> bool) -> HashSet<Uuid> {
        lock(&self.live).values().filter(|account| of(account)).map(|account| account.device()).collect()
    }

    /// Accounts of the open sessions.
    pub(crate) fn live_accounts(&self) -> Vec<Arc<Account>> {
        lock(&self.live).values().map(Arc::clone).collect()
    }

    /// Sessions that are open.
    pub(crate) fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Bytes that the control plane has not heard of.
    pub(crate) fn unreported(&self) -> u64 {
        let live: u64 = lock(&self.live).values().map(|account| account.unreported()).sum();
        let over: u64 = lock(&self.over).values().map(|entry| entry.up.saturating_add(entry.down)).sum();
        live.saturating_add(over)
    }

    /// Bytes of open sessions that a crash would lose now.
    pub(crate) fn unflushed(&self) -> u64 {
        let unkept = |account: &Arc<Account>| match account.kept.load(Ordering::Relaxed) {
            u64::MAX => account.spent(),
            kept => account.spent().saturating_sub(kept),
        };
        lock(&self.live).values().map(unkept).sum()
    }

    /// Flushes and reports at intervals and when sessions end, a last time when drained. A control plane that does not
    /// answer delays no flush.
    pub(crate) async fn run(&self, control: &ControlClient, shutdown: &Shutdown) {
        tokio::join!(
            self.keep_flushing(shutdown),
            self.keep_reporting(control, shutdown),
            self.keep_renewing(control, shutdown),
        );
        self.flush().await;
        self.report(control, Listed::All, true).await;
    }

    /// Reports every open session now; whether the control plane took it.
    pub(crate) async fn report_all(&self, control: &ControlClient) -> bool {
        self.report(control, Listed::All, false).await
    }

    /// The process drains, which every open session's report says from now on.
    pub(crate) async fn leave(&self, control: &ControlClient) {
        self.leaving.store(true, Ordering::Relaxed);
        if self.live_count() > 0 {
            self.report_all(control).await;
        }
    }

    /// Reports the open sessions of a kind now; whether the control plane took it.
    pub(crate) async fn report_those(&self, control: &ControlClient, of: impl Fn(&Account) -> bool) -> bool {
        let those: Vec<Uuid> =
            lock(&self.live).values().filter(|account| of(account)).map(|account| account.session()).collect();
        those.is_empty() || self.report(control, Listed::Some(&those), false).await
    }

    async fn keep_flushing(&self, shutdown: &Shutdown) {
        let mut flush = interval(self.config.flush_interval);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = flush.tick() => if !self.flush().await {
                    self.ended.notify_one();
                },
            }
        }
    }

    async fn keep_reporting(&self, control: &ControlClient, shutdown: &Shutdown) {
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

    /// Takes over what processes that are gone have not reported.
    async fn adopt(&self) {
        match self.journal.adopt(self.clock.now()).await {
            Ok((entries, _)) if entries.is_empty() => {}
            Ok((entries, tokens)) => {
                tracing::info!(sessions = entries.len(), "adopted unreported usage of another process");
                lock(&self.over).extend(entries.into_iter().map(|entry| (entry.session, entry)));
                lock(&self.tokens).extend(tokens);
            }
            Err(reason) => tracing::error!(reason, "unreported usage of another process stays on disk"),
        }
    }

    /// Between the batches of regular reports, so that no lease waits for them.
    async fn keep_renewing(&self, control: &ControlClient, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.report_queue.wait() => {}
            }
            if !self.report(control, Listed::Some(&self.report_queue.take()), false).await {
                tokio::select! {
                    () = shutdown.draining() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    /// Why the journal cannot be written, if it cannot.
    pub(crate) fn unwritable(&self) -> Option<String> {
        lock(&self.unwritable).clone()
    }

    /// One at a time: an older picture must not be written over a newer one. Whether the journal can be written.
    async fn flush(&self) -> bool {
        let _turn = self.flushing.lock().await;
        let changed: Vec<(Arc<Account>, JournalEntry)> = lock(&self.live)
            .values()
            .map(|account| (Arc::clone(account), account.entry(None)))
            .filter(|(account, entry)| account.kept.load(Ordering::Relaxed) != entry.up + entry.down)
            .collect();
        let unkept: Vec<Uuid> = lock(&self.unkept).iter().copied().collect();
        let mut entries: Vec<JournalEntry> = changed.iter().map(|(_, entry)| *entry).collect();
        {
            let over = lock(&self.over);
            entries.extend(unkept.iter().filter_map(|session| over.get(session)).copied());
        }
        if entries.is_empty() && self.unwritable().is_none() {
            return true;
        }
        let first = |account: &&(Arc<Account>, JournalEntry)| account.0.kept.load(Ordering::Relaxed) == u64::MAX;
        let unknown = changed.iter().filter(first).filter(|(account, _)| !account.is_known());
        let tokens = unknown.map(|(account, _)| (account.session(), account.token().clone())).collect();
        match self.journal.keep(entries, tokens, self.clock.now()).await {
            Ok(()) => {
                for (account, entry) in changed {
                    account.kept.store(entry.up + entry.down, Ordering::Relaxed);
                }
                lock(&self.unkept).retain(|session| !unkept.contains(session));
                if lock(&self.unwritable).take().is_some() {
                    tracing::info!("usage is kept on disk again");
                }
                true
            }
            Err(reason) => {
                if lock(&self.unwritable).replace(reason.clone()).is_none() {
                    tracing::error!(reason, "usage cannot be kept on disk: it is reported at once meanwhile");
                }
                false
            }
        }
    }

    /// One batch at a time, with what is true when its turn comes; whether the control plane took all of it.
    async fn report(&self, control: &ControlClient, listed: Listed<'_>, periodic: bool) -> bool {
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
                    error.log("usage not reported, kept");
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
                tracing::warn!(session = %counters.session, "usage not taken, kept");
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
                    tracing::warn!(session = %counters.session, code, "final usage");
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
            tracing::error!(reason, "reported usage stays on disk");
        }
    }
}

impl Usage {
    /// Whether the session has to be reported again with its token, because the control plane lost it.
    fn vouch(&self, entry: &JournalEntry, verdict: &Verdict) -> bool {
        if verdict.code.as_deref() != Some(UNKNOWN_SESSION) {
            lock(&self.vouched).remove(&entry.session);
            return false;
        }
        lock(&self.tokens).contains_key(&entry.session) && lock(&self.vouched).insert(entry.session)
    }
}
