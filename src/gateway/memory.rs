//! Each account's share of the memory for bytes that wait, and what ends when it runs out (docs/04, "Flow control").

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::GatewayState;
use super::account::Account;
use crate::config::Mux;
use crate::frame::StreamCode;
use crate::lifecycle::Shutdown;
use crate::mux::{MemoryBudget, StreamKey};

/// Stalled streams are looked for so many times within the time after which they count as stalled.
const LOOKS: u32 = 4;
const SWEEP_AT: usize = 1024;

/// The budgets of accounts that have sessions.
pub(super) struct Shares {
    whole: Arc<MemoryBudget>,
    each: u64,
    stall_after: Duration,
    accounts: Mutex<HashMap<Uuid, Weak<MemoryBudget>>>,
}

impl Shares {
    pub(super) fn new(whole: Arc<MemoryBudget>, config: &Mux) -> Self {
        let (each, stall_after) = (config.account_pool.as_u64(), config.stall_after);
        Self { whole, each, stall_after, accounts: Mutex::default() }
    }

    /// The budget of a user, shared by their sessions.
    pub(super) fn of(&self, user: Uuid) -> Arc<MemoryBudget> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = accounts.get(&user).and_then(Weak::upgrade) {
            return share;
        }
        if accounts.len() >= SWEEP_AT && accounts.len().is_power_of_two() {
            accounts.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(MemoryBudget::child(&self.whole, self.each));
        accounts.insert(user, Arc::downgrade(&share));
        share
    }

    /// Whether so little waits in all that no budget can be short.
    fn is_relaxed(&self) -> bool {
        self.whole.held() < self.each / 2 && self.whole.excess() == 0
    }
}

/// A stream that could be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stalled<S> {
    user: Uuid,
    /// By how much its account holds too much, and what it holds.
    excess: u64,
    account: u64,
    /// What the stream holds.
    bytes: u64,
    stream: S,
}

/// Whose streams have to go: of the accounts that hold the most, the largest first, until no budget is exceeded.
fn to_reset<S: Copy>(mut stalled: Vec<Stalled<S>>, mut excess: u64) -> Vec<S> {
    stalled.sort_by_key(|one| (Reverse(one.account), one.user, Reverse(one.bytes)));
    let mut of_accounts: HashMap<Uuid, u64> = stalled.iter().map(|one| (one.user, one.excess)).collect();
    let mut to_reset = Vec::new();
    for one in stalled {
        let own = of_accounts.entry(one.user).or_default();
        if *own > 0 || excess > 0 {
            *own = own.saturating_sub(one.bytes);
            excess = excess.saturating_sub(one.bytes);
            to_reset.push(one.stream);
        }
    }
    to_reset
}

impl GatewayState {
    /// Resets stalled streams with `LIMIT` while an account, or all together, hold too much.
    pub(super) async fn relieve_memory(&self, shutdown: &Shutdown) {
        let mut looks = interval(self.shares.stall_after / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = looks.tick() => {}
            }
            if !self.shares.is_relaxed() {
                self.reset_stalled();
            }
        }
    }

    fn reset_stalled(&self) {
        let excess = self.shares.whole.excess();
        let accounts = self.usage.live_accounts();
        let stalled: Vec<Stalled<(&Account, StreamKey)>> = accounts
            .iter()
            .filter(|account| excess > 0 || account.share().excess() > 0)
            .flat_map(|account| {
                let share = account.share();
                let (user, excess, held) = (account.user(), share.excess(), share.held());
                let streams = account.tunnel().stalled_streams(self.shares.stall_after);
                streams.into_iter().map(move |(key, bytes)| Stalled {
                    user,
                    excess,
                    account: held,
                    bytes,
                    stream: (&**account, key),
                })
            })
            .collect();
        let to_reset = to_reset(stalled, excess);
        if to_reset.is_empty() {
            return;
        }
        tracing::warn!(streams = to_reset.len(), held = self.shares.whole.held(), "resetting stalled streams");
        for (account, key) in to_reset {
            account.tunnel().reset_stream(key, StreamCode::Limit);
            self.metrics.refuse_stream(StreamCode::Limit.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled(user: u128, excess: u64, account: u64, bytes: u64) -> Stalled<u64> {
        Stalled { user: Uuid::from_u128(user), excess, account, bytes, stream: bytes }
    }

    #[test]
    fn those_who_hold_the_most_give_up_their_largest_streams() {
        let all = [stalled(1, 0, 30, 30), stalled(2, 0, 100, 20), stalled(2, 0, 100, 40), stalled(2, 0, 100, 39)];
        assert!(to_reset(all.to_vec(), 0).is_empty());
        assert_eq!(to_reset(all.to_vec(), 1), [40]);
        assert_eq!(to_reset(all.to_vec(), 41), [40, 39]);
        assert_eq!(to_reset(all.to_vec(), 100), [40, 39, 20, 30]);
    }

    #[test]
    fn an_account_beyond_its_share_pays_itself() {
        let all = [stalled(1, 10, 30, 6), stalled(1, 10, 30, 7), stalled(1, 10, 30, 5), stalled(2, 0, 200, 200)];
        assert_eq!(to_reset(all.to_vec(), 0), [7, 6]);
    }

    #[test]
    fn a_user_has_one_share_while_it_has_sessions() {
        let source = crate::config::Source::with([("HTTVPS_MUX__ACCOUNT_POOL", "1 MiB")]).unwrap();
        let whole = Arc::new(MemoryBudget::new(1 << 30));
        let shares = Shares::new(whole, &source.section().unwrap());
        let (user, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let share = shares.of(user);
        assert!(Arc::ptr_eq(&share, &shares.of(user)));
        assert!(!Arc::ptr_eq(&share, &shares.of(other)));
        assert!(shares.is_relaxed());
    }
}
