use std::sync::Arc;

use crate::api::UsageReport;
use crate::frame::Token;
use crate::gateway::account::Account;
use crate::gateway::journal::JournalEntry;

/// What a report is about.
pub(super) enum ReportSubject {
    Over(JournalEntry),
    Live(Arc<Account>),
}

impl ReportSubject {
    pub(super) fn open_up(&self) {
        if let Self::Live(account) = self {
            account.open_up();
        }
    }
}

/// A session in a report; one that is open has an account.
pub(super) struct ReportEntry<'a> {
    pub(super) counters: JournalEntry,
    pub(super) account: Option<&'a Arc<Account>>,
    /// What the session could move before it gave some back, and after.
    held: u64,
    holds: u64,
    asks: bool,
}

impl<'a> ReportEntry<'a> {
    pub(super) fn new(subject: &'a ReportSubject, periodic: bool) -> Self {
        match subject {
            ReportSubject::Over(entry) => Self { counters: *entry, account: None, held: 0, holds: 0, asks: false },
            ReportSubject::Live(account) => {
                let (asks, held) = (account.asks(), account.held());
                let holds = account.holding(periodic && !asks);
                Self { counters: account.entry(None), account: Some(account), held, holds, asks }
            }
        }
    }

    /// The control plane did not take it: what was given back returns, unless it may have been lent to others.
    pub(super) fn failed(&self, lost: bool) {
        if let Some(account) = self.account {
            if !lost {
                account.take_back(self.held);
            }
            account.open_up();
        }
    }

    pub(super) fn request(&self, token: Option<&Token>, leaving: bool) -> UsageReport {
        let silence = self.account.map(|account| account.silence());
        UsageReport {
            gateway_id: None,
            device_id: self.counters.device,
            session_id: self.counters.session,
            bytes_up: self.counters.up,
            bytes_down: self.counters.down,
            started_at: self.counters.started_at,
            ended_at: self.counters.ended_at,
            access_token: token.cloned(),
            allowed: self.account.map(|_| self.holds),
            asks: self.asks,
            silent_ms: silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            leaving: leaving && self.account.is_some(),
        }
    }
}
