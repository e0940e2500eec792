//! Cumulative counters become charges (docs/02, "Accounting").

use std::collections::{BTreeMap, HashMap};

use crate::control::db::types::{Id, Time};
use crate::control::models::{Plan, Session, Subscription, state};
use crate::frame::SessionCode;

/// One session's counters as a gateway reports them.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub session: Id,
    pub device: Id,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub started_at: Time,
    pub ended_at: Option<Time>,
    /// Whether a token of the device's came with it and is genuine.
    pub vouched: bool,
}

/// What a gateway reports at once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub gateway: Id,
    /// Sorted by session, one item a session.
    items: Vec<Item>,
    pub now: Time,
    pub expires_at: Time,
}

/// States of a session's device and user.
#[derive(Debug)]
pub(super) struct Owner {
    pub device: String,
    pub user: String,
}

/// A session's row as it is to be written.
#[derive(Debug)]
pub(super) struct Charged {
    pub session: Id,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub state: &'static str,
    pub ended_at: Option<Time>,
}

/// What the gateway is told of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub session: Id,
    pub verdict: Verdict,
    pub remaining: Option<u64>,
}

/// Whether a session may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Continue,
    /// It was reported as over, now or before.
    Over,
    Stop(SessionCode),
    /// It is not this gateway's or not this device's.
    Foreign,
    /// Nobody knows it, or it was deleted: nothing is charged.
    Unknown,
}

impl Batch {
    /// Folds reports of the same session into one.
    pub(crate) fn new(gateway: Id, items: Vec<Item>, now: Time, expires_at: Time) -> Self {
        let mut folded: BTreeMap<Id, Item> = BTreeMap::new();
        for item in items {
            match folded.get_mut(&item.session) {
                None => {
                    folded.insert(item.session, item);
                }
                Some(held) => {
                    held.bytes_up = held.bytes_up.max(item.bytes_up);
                    held.bytes_down = held.bytes_down.max(item.bytes_down);
                    held.ended_at = held.ended_at.max(item.ended_at);
                    held.vouched |= item.vouched && item.device == held.device;
                }
            }
        }
        Self { gateway, items: folded.into_values().collect(), now, expires_at }
    }

    /// Ids of the sessions, sorted.
    pub(crate) fn session_ids(&self) -> Vec<Id> {
        self.items.iter().map(|item| item.session).collect()
    }

    /// Whether a session is neither over nor reported as over here.
    pub(crate) fn goes_on(&self, session: &Session) -> bool {
        let is_over = [state::ENDED, state::KILLED].contains(&session.state.as_str());
        let item = self.items.binary_search_by_key(&session.id, |item| item.session).ok().map(|at| &self.items[at]);
        let ends = item.is_some_and(|item| item.ended_at.is_some());
        !is_over && !ends
    }

    /// Vouched-for sessions that are not known: session, device, start.
    pub(crate) fn strangers(&self, known: &HashMap<Id, Session>) -> Vec<(Id, Id, Time)> {
        let unknown = self.items.iter().filter(|item| item.vouched && !known.contains_key(&item.session));
        unknown.map(|item| (item.session, item.device, item.started_at)).collect()
    }
}

/// A batch against what the database knows.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    batch: &'a Batch,
    known: HashMap<Id, Session>,
    owners: HashMap<Id, Owner>,
    plans: HashMap<Id, (Subscription, Plan)>,
    buried: Vec<Id>,
    /// Sessions to write.
    pub charged: Vec<Charged>,
    /// What to add to each subscription's period: up and down.
    pub periods: BTreeMap<(Id, Time), (i64, i64)>,
    /// What to add to each node's count of sessions.
    pub nodes: BTreeMap<Id, i32>,
    /// Bytes used in each period, after the charges.
    pub used: HashMap<(Id, Time), u64>,
}

impl<'a> Ledger<'a> {
    /// A ledger with nothing charged yet.
    pub(super) fn new(
        batch: &'a Batch,
        known: HashMap<Id, Session>,
        owners: HashMap<Id, Owner>,
        plans: HashMap<Id, (Subscription, Plan)>,
        buried: Vec<Id>,
    ) -> Self {
        let (charged, periods, nodes, used) = Default::default();
        Self { batch, known, owners, plans, buried, charged, periods, nodes, used }
    }

    fn session(&self, item: &Item) -> Option<&Session> {
        let session = self.known.get(&item.session)?;
        (session.gateway_node_id == self.batch.gateway && session.device_id == item.device).then_some(session)
    }

    fn account(&self, session: &Session, at: Time) -> Option<(Id, Time)> {
        let (subscription, plan) = self.plans.get(&session.subscription_id?)?;
        Some((subscription.id, plan.period_start(subscription, at)))
    }

    /// Works out what to write.
    pub(super) fn charge(&mut self) {
        for item in &self.batch.items {
            let Some(session) = self.session(item) else { continue };
            let bytes_up = session.bytes_up.max(item.bytes_up);
            let bytes_down = session.bytes_down.max(item.bytes_down);
            let (up, down) = (bytes_up - session.bytes_up, bytes_down - session.bytes_down);
            let ended = item.ended_at.map(|at| at.clamp(session.started_at.min(self.batch.now), self.batch.now));
            let (state, ended_at) = match session.state.as_str() {
                state::KILLED => (state::KILLED, session.ended_at),
                state::ENDED => (state::ENDED, session.ended_at),
                _ if ended.is_some() => (state::ENDED, ended),
                _ => (state::ACTIVE, None),
            };
            let held = i32::from(state::LIVE.contains(&session.state.as_str()));
            let holds = i32::from(state::LIVE.contains(&state));
            let node = session.outline_node_id.filter(|_| held != holds);
            let account = self.account(session, ended.unwrap_or(self.batch.now));
            self.charged.push(Charged { session: item.session, bytes_up, bytes_down, state, ended_at });
            if let Some(node) = node {
                *self.nodes.entry(node).or_default() += holds - held;
            }
            if let Some(account) = account
                && (up, down) != (0, 0)
            {
                let period = self.periods.entry(account).or_default();
                *period = (period.0.saturating_add(up), period.1.saturating_add(down));
            }
        }
    }

    /// The periods whose use decides whether sessions go on.
    pub(super) fn accounts(&self) -> Vec<(Id, Time)> {
        let sessions = self.batch.items.iter().filter_map(|item| self.session(item));
        let mut accounts: Vec<_> = sessions.filter_map(|session| self.account(session, self.batch.now)).collect();
        accounts.sort_unstable();
        accounts.dedup();
        accounts
    }

    /// What to tell the gateway.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        self.batch.items.iter().map(|item| self.outcome(item)).collect()
    }

    fn outcome(&self, item: &Item) -> Outcome {
        let plain = |verdict| Outcome { session: item.session, verdict, remaining: None };
        let Some(session) = self.session(item) else {
            let known = self.known.contains_key(&item.session) && !self.buried.contains(&item.session);
            return plain(if known { Verdict::Foreign } else { Verdict::Unknown });
        };
        if session.state == state::KILLED {
            return plain(Verdict::Stop(SessionCode::SessionKilled));
        }
        if session.state == state::ENDED || item.ended_at.is_some() {
            return plain(Verdict::Over);
        }
        let owner = self.owners.get(&session.device_id);
        match owner.map(|owner| (owner.user.as_str(), owner.device.as_str())) {
            Some(("active", "active")) => {}
            Some(("active", _)) => return plain(Verdict::Stop(SessionCode::DeviceBanned)),
            Some(("pending", _)) => return plain(Verdict::Stop(SessionCode::UserPending)),
            _ => return plain(Verdict::Stop(SessionCode::UserBanned)),
        }
        let paid = session.subscription_id.and_then(|id| self.plans.get(&id));
        let Some((subscription, plan)) = paid else { return plain(Verdict::Stop(SessionCode::NoSubscription)) };
        if !subscription.is_valid(self.batch.now) {
            let expired = subscription.valid_until <= self.batch.now || subscription.status == "expired";
            let code = if expired { SessionCode::SubscriptionExpired } else { SessionCode::NoSubscription };
            return plain(Verdict::Stop(code));
        }
        let account = (subscription.id, plan.period_start(subscription, self.batch.now));
        let used = self.used.get(&account).copied().unwrap_or(0);
        let remaining = plan.limit_bytes().map(|limit| limit.saturating_sub(used));
        let verdict = match remaining {
            Some(0) => Verdict::Stop(SessionCode::LimitReached),
            _ => Verdict::Continue,
        };
        Outcome { session: item.session, verdict, remaining }
    }
}
