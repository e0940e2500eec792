//! Counts what sessions move, keeps it on disk and reports it (docs/04, "Accounting").

mod flush;
mod report;
mod report_entry;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::account::Account;
use super::control::ControlClient;
use super::control_clock::ControlClock;
use super::journal::{Journal, JournalEntry, JournalError};
use super::metrics::GatewayMetrics;
use super::report_queue::ReportQueue;
use crate::config;
use crate::frame::{SessionCode, Token};
use crate::lifecycle::Shutdown;

use report::Listed;

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
    unwritable: Mutex<Option<Arc<JournalError>>>,
    /// An answer must not be followed by an older one's.
    reporting: tokio::sync::Mutex<()>,
    ended: Notify,
    /// The process drains: other sessions may take the places of those that are open.
    leaving: AtomicBool,
    report_queue: Arc<ReportQueue>,
    journal: Journal,
    config: config::Gateway,
    metrics: GatewayMetrics,
    clock: Arc<ControlClock>,
}

/// An open session, until this is dropped.
pub(crate) struct LiveGuard<'a> {
    usage: &'a Usage,
    account: &'a Arc<Account>,
}

impl Drop for LiveGuard<'_> {
    fn drop(&mut self) {
        self.usage.end(self.account);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage {
    /// Adopts what an earlier process left in the journal.
    pub(crate) async fn open(
        journal: Journal,
        config: config::Gateway,
        metrics: GatewayMetrics,
        clock: Arc<ControlClock>,
    ) -> Result<Self, JournalError> {
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
    pub(crate) fn begin<'a>(&'a self, account: &'a Arc<Account>) -> LiveGuard<'a> {
        lock(&self.live).insert(account.session(), Arc::clone(account));
        lock(&self.tokens).insert(account.session(), account.token().clone());
        self.metrics.sessions.inc();
        LiveGuard { usage: self, account }
    }

    /// A session is over and its counters stand still.
    fn end(&self, account: &Account) {
        if lock(&self.live).remove(&account.session()).is_none() {
            return;
        }
        self.metrics.sessions.dec();
        account.return_allowance();
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
        lock(&self.live).values().map(|account| account.unflushed()).sum()
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
}
