//! Cumulative counters become charges (docs/02, "Accounting").

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::control::domain::lease::{Balance, Rules};
use crate::control::model::id::{DeviceId, GatewayId, NodeId, PlanId, RegionId, SessionId, SubscriptionId};
use crate::control::model::state::{DeviceStatus, SessionState, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{Plan, Session, Subscription};
use crate::frame::SessionCode;

/// One session's counters as a gateway reports them.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub session: SessionId,
    pub device: DeviceId,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub started_at: Time,
    pub ended_at: Option<Time>,
    /// Whether a token of the device's came with it and is genuine.
    pub vouched: bool,
    /// The lease that the gateway holds: bytes in all. Without it the session gets no lease.
    pub allowed: Option<i64>,
    /// Whether the session wants to move more than that now.
    pub asks: bool,
    /// Its client has sent nothing for a while, or its gateway's process drains.
    pub silent: bool,
}

/// What a gateway reports at once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub gateway: GatewayId,
    /// Sorted by session, one item a session.
    items: Vec<Item>,
    pub now: Time,
    pub expires_at: Time,
    pub rules: Rules,
}

/// States of a session's device and user.
#[derive(Debug)]
pub(crate) struct Owner {
    pub device: DeviceStatus,
    pub user: UserStatus,
}

/// Plans that are limited to regions, and where nodes are.
#[derive(Debug, Default)]
pub(crate) struct RegionIndex {
    pub plans: HashMap<PlanId, Vec<RegionId>>,
    pub nodes: HashMap<NodeId, RegionId>,
}

impl RegionIndex {
    /// Whether a plan allows what a session goes through.
    fn allows(&self, plan: PlanId, session: &Session) -> bool {
        let Some(allowed) = self.plans.get(&plan) else { return true };
        let region = session.outline_node_id.and_then(|node| self.nodes.get(&node));
        region.is_none_or(|region| allowed.contains(region))
    }
}

/// A session's row as it is to be written.
#[derive(Debug)]
pub(crate) struct SessionUpdate {
    pub session: SessionId,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub state: SessionState,
    pub ended_at: Option<Time>,
    pub lease_bytes: i64,
    pub lease_period: Option<Time>,
    pub silent: bool,
}

/// What reports may be late or early by.
const SLACK: Duration = Duration::from_secs(1);
/// The same of a start that only a gateway's clock knows.
const CLOCK_SLACK: Duration = Duration::from_mins(1);
const MILLIS: u128 = 1000;

fn sum(up: i64, down: i64) -> u64 {
    up.unsigned_abs().saturating_add(down.unsigned_abs())
}

fn total(session: &Session) -> u64 {
    sum(session.bytes_up, session.bytes_down)
}

impl SessionUpdate {
    fn total(&self) -> u64 {
        sum(self.bytes_up, self.bytes_down)
    }

    /// What the gateway holds of an earlier lease and has not used; nothing once that is over or its period is.
    fn held(&self, item: &Item, session: &Session, period: Time, now: Time) -> u64 {
        if session.expires_at <= now || session.lease_period != Some(period) {
            return 0;
        }
        session.lease_bytes.min(item.allowed.unwrap_or(0)).unsigned_abs().saturating_sub(self.total())
    }
}

/// Traffic of a subscription in a period, as the database has it after the charges.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub used: u64,
    pub bonus: u64,
    /// Lent to sessions that are not in the batch.
    pub lent: u64,
}

/// What the gateway is told of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub session: SessionId,
    pub verdict: Verdict,
    pub remaining: Option<u64>,
    /// Bytes in all that the session may move.
    pub allowed: Option<u64>,
    pub rate_limit_mbps: Option<i32>,
    pub limit: Option<u64>,
    pub valid_until: Option<Time>,
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
    /// No line carries so much in the time: nothing is charged.
    Implausible,
}

impl Batch {
    /// Folds reports of the same session into one.
    pub(crate) fn new(gateway: GatewayId, items: Vec<Item>, now: Time, rules: Rules) -> Self {
        let mut folded: BTreeMap<SessionId, Item> = BTreeMap::new();
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
                    held.allowed = held.allowed.max(item.allowed);
                    held.asks |= item.asks;
                    held.silent &= item.silent;
                }
            }
        }
        let expires_at = now.after(rules.session_ttl);
        Self { gateway, items: folded.into_values().collect(), now, expires_at, rules }
    }

    /// Ids of the sessions, sorted.
    pub(crate) fn session_ids(&self) -> Vec<SessionId> {
        self.items.iter().map(|item| item.session).collect()
    }

    /// Whether a session is neither over nor reported as over here.
    pub(crate) fn goes_on(&self, session: &Session) -> bool {
        let is_over = session.state.is_over();
        let item = self.items.binary_search_by_key(&session.id, |item| item.session).ok().map(|at| &self.items[at]);
        let ends = item.is_some_and(|item| item.ended_at.is_some());
        !is_over && !ends
    }

    /// The two halves, or the one session that there is.
    pub(crate) fn halves(mut self) -> Result<[Self; 2], SessionId> {
        let later = self.items.split_off(self.items.len() / 2);
        match (self.items.as_slice(), later.as_slice()) {
            ([], [one]) => Err(one.session),
            _ => Ok([
                Self {
                    gateway: self.gateway,
                    items: later,
                    now: self.now,
                    expires_at: self.expires_at,
                    rules: self.rules.clone(),
                },
                self,
            ]),
        }
    }

    /// Whether it reports nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether a line can have carried so much.
    fn is_plausible(&self, bytes: u64, since: Time, slack: Duration) -> bool {
        let passed = u128::try_from((self.now.0 - since.0).whole_milliseconds()).unwrap_or(0) + slack.as_millis();
        u128::from(bytes) <= passed.saturating_mul(u128::from(self.rules.max_bytes_per_second)) / MILLIS
    }

    /// Whether a line can have carried what a report says, since the start and since the last report. Of a session that is known
    /// a moment ahead of now, from before the clock was put back, measures nothing.
    fn believes(&self, item: &Item, session: &Session) -> bool {
        let reported = sum(item.bytes_up.max(session.bytes_up), item.bytes_down.max(session.bytes_down));
        let is_new = session.expires_at == self.now && session.last_report_at.is_none();
        let slack = if is_new { CLOCK_SLACK } else { SLACK };
        let moved = reported.saturating_sub(total(session));
        let fits = |bytes, since| !is_new && since > self.now || self.is_plausible(bytes, since, slack);
        fits(moved, session.last_report_at.unwrap_or(session.started_at))
            && (moved == 0 || fits(reported, session.started_at))
    }

    /// Vouched-for sessions that are not known: session, device, start.
    pub(crate) fn unknown_sessions(&self, known: &HashMap<SessionId, Session>) -> Vec<(SessionId, DeviceId, Time)> {
        let unknown = self.items.iter().filter(|item| item.vouched && !known.contains_key(&item.session));
        unknown.map(|item| (item.session, item.device, item.started_at)).collect()
    }
}

/// A batch against what the database knows.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    batch: &'a Batch,
    known: HashMap<SessionId, Session>,
    owners: HashMap<DeviceId, Owner>,
    plans: HashMap<SubscriptionId, (Subscription, Plan)>,
    region_index: RegionIndex,
    tombstoned: Vec<SessionId>,
    /// Sessions to write.
    pub charged: Vec<SessionUpdate>,
    /// What to add to each subscription's period: up and down.
    pub periods: BTreeMap<(SubscriptionId, Time), (i64, i64)>,
    /// What to add to each node's count of sessions.
    pub nodes: BTreeMap<NodeId, i32>,
}

impl<'a> Ledger<'a> {
    /// A ledger with nothing charged yet.
    pub(crate) fn new(
        batch: &'a Batch,
        known: HashMap<SessionId, Session>,
        owners: HashMap<DeviceId, Owner>,
        plans: HashMap<SubscriptionId, (Subscription, Plan)>,
        region_index: RegionIndex,
        tombstoned: Vec<SessionId>,
    ) -> Self {
        let (charged, periods, nodes) = Default::default();
        Self { batch, known, owners, plans, region_index, tombstoned, charged, periods, nodes }
    }

    fn session(&self, item: &Item) -> Option<&Session> {
        let session = self.known.get(&item.session)?;
        (session.gateway_node_id == self.batch.gateway && session.device_id == item.device).then_some(session)
    }

    fn paid_by(&self, session: &Session) -> Option<&(Subscription, Plan)> {
        self.plans.get(&session.subscription_id?)
    }

    fn account(&self, session: &Session, at: Time) -> Option<(SubscriptionId, Time)> {
        let (subscription, plan) = self.paid_by(session)?;
        Some((subscription.id, plan.period(subscription, at, &self.batch.rules.calendar).start))
    }

    /// Works out what to write, but for the leases.
    pub(crate) fn charge(&mut self) {
        for item in &self.batch.items {
            let Some(session) = self.session(item).filter(|session| self.batch.believes(item, session)) else {
                continue;
            };
            let bytes_up = session.bytes_up.max(item.bytes_up);
            let bytes_down = session.bytes_down.max(item.bytes_down);
            let (up, down) = (bytes_up - session.bytes_up, bytes_down - session.bytes_down);
            let ended = item.ended_at.map(|at| at.clamp(session.started_at.min(self.batch.now), self.batch.now));
            let (state, ended_at) = match session.state {
                SessionState::Killed => (SessionState::Killed, session.ended_at),
                SessionState::Ended => (SessionState::Ended, session.ended_at),
                _ if ended.is_some() => (SessionState::Ended, ended),
                SessionState::Reserved | SessionState::Active | SessionState::Expired | SessionState::Reaped => {
                    (SessionState::Active, None)
                }
            };
            let held = i32::from(session.state.is_live());
            let holds = i32::from(state.is_live());
            let node = session.outline_node_id.filter(|_| held != holds);
            let lent_for = self.paid_by(session).and(session.subscription_id.zip(session.lease_period));
            let account = lent_for.or_else(|| self.account(session, ended.unwrap_or(self.batch.now)));
            let lease_period = session.lease_period;
            self.charged.push(SessionUpdate {
                session: item.session,
                bytes_up,
                bytes_down,
                state,
                ended_at,
                lease_bytes: 0,
                lease_period,
                silent: item.silent,
            });
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

    /// The limited periods that decide whether sessions go on.
    pub(crate) fn accounts(&self) -> Vec<(SubscriptionId, Time)> {
        let sessions = self.batch.items.iter().filter_map(|item| self.session(item));
        let limited =
            sessions.filter(|session| self.paid_by(session).is_some_and(|(_, plan)| plan.traffic_limit_gb.is_some()));
        let mut accounts: Vec<_> = limited.filter_map(|session| self.account(session, self.batch.now)).collect();
        accounts.sort_unstable();
        accounts.dedup();
        accounts
    }

    /// Lends what is free and gives what to tell the gateway.
    pub(crate) fn settle(&mut self, spent: &HashMap<(SubscriptionId, Time), Spent>) -> Vec<Outcome> {
        let mut charged = std::mem::take(&mut self.charged);
        let mut balances = self.balances(&charged, spent);
        let mut rows = charged.iter_mut().peekable();
        let mut outcomes = Vec::with_capacity(self.batch.items.len());
        for item in &self.batch.items {
            let row = rows.next_if(|row| row.session == item.session);
            outcomes.push(self.outcome(item, row, &mut balances));
        }
        self.charged = charged;
        outcomes
    }

    /// What each account has left, with what the batch's own sessions hold counted as lent.
    fn balances(
        &self,
        charged: &[SessionUpdate],
        spent: &HashMap<(SubscriptionId, Time), Spent>,
    ) -> HashMap<(SubscriptionId, Time), Balance> {
        let mut balances = HashMap::new();
        let mut rows = charged.iter().peekable();
        for item in &self.batch.items {
            let Some(row) = rows.next_if(|row| row.session == item.session) else { continue };
            let Some(session) = self.session(item) else { continue };
            let Ok((subscription, plan)) = self.standing(item, session) else { continue };
            let account = (subscription.id, self.period(subscription, plan));
            let known = spent.get(&account).copied().unwrap_or_default();
            let Some(free) = Balance::of(plan, known.bonus, known.used) else { continue };
            let balance = balances.entry(account).or_insert(Balance { lent: known.lent, ..free });
            balance.lent = balance.lent.saturating_add(row.held(item, session, account.1, self.batch.now));
        }
        balances
    }

    fn period(&self, subscription: &Subscription, plan: &Plan) -> Time {
        plan.period(subscription, self.batch.now, &self.batch.rules.calendar).start
    }

    fn outcome(
        &self,
        item: &Item,
        row: Option<&mut SessionUpdate>,
        balances: &mut HashMap<(SubscriptionId, Time), Balance>,
    ) -> Outcome {
        let plain = |verdict| Outcome {
            session: item.session,
            verdict,
            remaining: None,
            allowed: None,
            rate_limit_mbps: None,
            limit: None,
            valid_until: None,
        };
        let Some(session) = self.session(item) else {
            let known = self.known.contains_key(&item.session) && !self.tombstoned.contains(&item.session);
            return plain(if known { Verdict::Foreign } else { Verdict::Unknown });
        };
        let Some(row) = row else { return plain(Verdict::Implausible) };
        let (subscription, plan) = match self.standing(item, session) {
            Ok(paid) => paid,
            Err(verdict) => return plain(verdict),
        };
        let period = self.period(subscription, plan);
        row.lease_period = Some(period);
        let going = Outcome {
            rate_limit_mbps: plan.rate_limit_mbps,
            valid_until: Some(subscription.valid_until),
            ..plain(Verdict::Continue)
        };
        let Some(balance) = balances.get_mut(&(subscription.id, period)) else { return going };
        let remaining = Some(balance.remaining());
        if remaining == Some(0) {
            return Outcome { remaining, ..plain(Verdict::Stop(SessionCode::LimitReached)) };
        }
        let going = Outcome { remaining, limit: Some(balance.limit), ..going };
        if item.allowed.is_none() {
            return going;
        }
        let held = row.held(item, session, period, self.batch.now);
        if item.bytes_up < session.bytes_up || item.bytes_down < session.bytes_down {
            row.lease_bytes = session.lease_bytes;
            return Outcome { allowed: Some(session.lease_bytes.unsigned_abs()), ..going };
        }
        balance.lent = balance.lent.saturating_sub(held);
        let moved = row.total().saturating_sub(total(session));
        let lent = balance.lend(moved, item.asks, &self.batch.rules);
        balance.lent = balance.lent.saturating_add(held.saturating_sub(lent));
        let allowed = row.total().saturating_add(lent.max(held).min(balance.remaining()));
        row.lease_bytes = i64::try_from(allowed).unwrap_or(i64::MAX);
        Outcome { allowed: Some(allowed), ..going }
    }

    /// What pays for a session that may go on, or why it may not.
    fn standing(&self, item: &Item, session: &Session) -> Result<&(Subscription, Plan), Verdict> {
        if session.state == SessionState::Killed {
            return Err(Verdict::Stop(SessionCode::SessionKilled));
        }
        if session.state == SessionState::Ended || item.ended_at.is_some() {
            return Err(Verdict::Over);
        }
        let owner = self.owners.get(&session.device_id);
        match owner.map(|owner| (owner.user, owner.device)) {
            Some((UserStatus::Active, DeviceStatus::Active)) => {}
            Some((UserStatus::Active, DeviceStatus::Revoked)) => return Err(Verdict::Stop(SessionCode::DeviceBanned)),
            Some((UserStatus::Pending, _)) => return Err(Verdict::Stop(SessionCode::UserPending)),
            Some((UserStatus::Banned, _)) | None => return Err(Verdict::Stop(SessionCode::UserBanned)),
        }
        let paid = self.paid_by(session).ok_or(Verdict::Stop(SessionCode::NoSubscription))?;
        let (subscription, plan) = paid;
        if subscription.serves(plan, self.batch.now) {
            let allowed = self.region_index.allows(plan.id, session);
            return if allowed { Ok(paid) } else { Err(Verdict::Stop(SessionCode::UnknownRegion)) };
        }
        let expired = subscription.has_expired(plan, self.batch.now);
        Err(Verdict::Stop(if expired { SessionCode::SubscriptionExpired } else { SessionCode::NoSubscription }))
    }
}

#[cfg(test)]
mod tests;
