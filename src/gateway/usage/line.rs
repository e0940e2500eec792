use std::sync::Arc;

use crate::api::UsageReport;
use crate::frame::Token;
use crate::gateway::account::Account;
use crate::gateway::journal::Entry;

/// What a report is about.
pub(super) enum Subject {
    Over(Entry),
    Live(Arc<Account>),
}

impl Subject {
    pub(super) fn open_up(&self) {
        if let Self::Live(account) = self {
            account.open_up();
        }
    }
}

/// A session in a report; one that is open has an account.
pub(super) struct Line<'a> {
    pub(super) entry: Entry,
    pub(super) account: Option<&'a Arc<Account>>,
    /// What the session could move before it gave some back, and after.
    held: u64,
    holds: u64,
    asks: bool,
}

impl<'a> Line<'a> {
    pub(super) fn new(subject: &'a Subject, periodic: bool) -> Self {
        match subject {
            Subject::Over(entry) => Self { entry: *entry, account: None, held: 0, holds: 0, asks: false },
            Subject::Live(account) => {
                let (asks, held) = (account.asks(), account.held());
                let holds = account.holding(periodic && !asks);
                Self { entry: account.entry(None), account: Some(account), held, holds, asks }
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

    pub(super) fn view(&self, token: Option<&Token>, leaving: bool) -> UsageReport {
        let silence = self.account.map(|account| account.silence());
        UsageReport {
            gateway_id: None,
            device_id: self.entry.device,
            session_id: self.entry.session,
            bytes_up: self.entry.up,
            bytes_down: self.entry.down,
            started_at: self.entry.started_at,
            ended_at: self.entry.ended_at,
            access_token: token.cloned(),
            allowed: self.account.map(|_| self.holds),
            asks: self.asks,
            silent_ms: silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            leaving: leaving && self.account.is_some(),
        }
    }
}
