use std::time::Duration;

use time::macros::datetime;

use super::*;
use crate::control::model::calendar::Calendar;
use crate::control::model::id::UserId;
use crate::control::model::state::{DeviceStatus, PeriodKind, SessionState, SubscriptionStatus, UserStatus};

const NOON: Time = Time(datetime!(2026-11-28 12:00 UTC));
const MIN: u64 = 1000;
const LINE: u64 = 1_000_000_000;

struct World {
    now: Time,
    gateway: GatewayId,
    node: NodeId,
    region: RegionId,
    /// The one region that the plan allows, if it is limited.
    allowed: Option<RegionId>,
    subscription: Subscription,
    plan: Plan,
}

impl World {
    fn new(limit: u64) -> Self {
        let now = NOON;
        let plan = Plan {
            id: PlanId::fresh(),
            name: String::new(),
            max_devices: None,
            max_sessions: None,
            traffic_limit_gb: Some(limit as f64 / 1e9),
            rate_limit_mbps: None,
            period: PeriodKind::Term,
            period_days: None,
            grace_hours: 0,
            fail_open_mb: 0,
            price: 0,
            currency: String::new(),
            created_at: now,
            revision: 0,
        };
        let day = Duration::from_hours(24);
        let subscription = Subscription {
            id: SubscriptionId::fresh(),
            user_id: UserId::fresh(),
            plan_id: plan.id,
            status: SubscriptionStatus::Active,
            starts_at: now.before(day),
            valid_until: now.after(day),
            cancelled_at: None,
            created_at: now,
            revision: 0,
        };
        let (gateway, node, region) = (GatewayId::fresh(), NodeId::fresh(), RegionId::fresh());
        Self { now, gateway, node, region, allowed: None, subscription, plan }
    }

    /// A session that has moved so much and holds a lease of so much in all.
    fn session(&self, moved: i64, lease: i64) -> Session {
        Session {
            id: SessionId::fresh(),
            user_id: self.subscription.user_id,
            device_id: DeviceId::fresh(),
            subscription_id: Some(self.subscription.id),
            gateway_node_id: self.gateway,
            outline_node_id: Some(self.node),
            state: SessionState::Active,
            started_at: self.subscription.starts_at,
            last_report_at: None,
            expires_at: self.now.after(Duration::from_mins(1)),
            ended_at: None,
            bytes_up: 0,
            bytes_down: moved,
            lease_bytes: lease,
            lease_period: Some(self.subscription.starts_at),
            silent: false,
        }
    }

    fn item(session: &Session, down: i64, allowed: i64, asks: bool) -> Item {
        Item {
            session: session.id,
            device: session.device_id,
            bytes_up: 0,
            bytes_down: down,
            started_at: session.started_at,
            ended_at: None,
            vouched: false,
            allowed: Some(allowed),
            asks,
            silent: false,
        }
    }

    /// Reports sessions of an account that has used so much before and lent so much to others; gives outcomes and rows.
    fn report(&self, sessions: &[(Session, Item)], used: u64, lent: u64) -> Vec<(Outcome, i64)> {
        let (reservation_ttl, session_ttl, silent_after) = Default::default();
        let rules = Rules {
            calendar: Calendar::default(),
            min: MIN,
            max: 100_000,
            reservation_ttl,
            session_ttl,
            silent_after,
            max_bytes_per_second: LINE,
        };
        let items = sessions.iter().map(|(_, item)| item.clone()).collect();
        let batch = Batch::new(self.gateway, items, self.now, rules);
        let known: HashMap<_, _> = sessions.iter().map(|(session, _)| (session.id, session.clone())).collect();
        let owner = || Owner { device: DeviceStatus::Active, user: UserStatus::Active };
        let owners = sessions.iter().map(|(session, _)| (session.device_id, owner())).collect();
        let plans = HashMap::from([(self.subscription.id, (self.subscription.clone(), self.plan.clone()))]);
        let mut ledger = Ledger::new(&batch, known, owners, plans, self.region_index(), Vec::new());
        ledger.charge();
        let account = (self.subscription.id, self.subscription.starts_at);
        let (up, down) = ledger.periods.get(&account).copied().unwrap_or_default();
        let used = used + (up + down).unsigned_abs();
        let outcomes = ledger.settle(&HashMap::from([(account, Spent { used, bonus: 0, lent })]));
        let lease =
            |of: SessionId| ledger.charged.iter().find(|row| row.session == of).map_or(0, |row| row.lease_bytes);
        let with_lease = |outcome: Outcome| {
            let lease = lease(outcome.session);
            (outcome, lease)
        };
        outcomes.into_iter().map(with_lease).collect()
    }

    fn region_index(&self) -> RegionIndex {
        let allowed = self.allowed.iter().map(|region| (self.plan.id, vec![*region]));
        RegionIndex { plans: allowed.collect(), nodes: HashMap::from([(self.node, self.region)]) }
    }

    fn one(&self, session: &Session, item: Item, used: u64, lent: u64) -> (Option<u64>, i64) {
        let all = self.report(&[(session.clone(), item)], used, lent);
        (all[0].0.allowed, all[0].1)
    }
}

#[test]
fn a_lease_grows_with_what_was_moved() {
    let world = World::new(1_000_000);
    let session = world.session(1000, 2000);
    let item = World::item(&session, 2000, 2000, true);
    assert_eq!(world.one(&session, item, 1000, 0), (Some(6000), 6000));
}

#[test]
fn what_the_gateway_holds_is_not_taken_from_it() {
    let world = World::new(1_000_000);
    let session = world.session(1000, 50_000);
    let item = World::item(&session, 1100, 50_000, false);
    assert_eq!(world.one(&session, item, 1000, 0), (Some(50_000), 50_000));
    let given_back = World::item(&session, 1100, 1500, false);
    assert_eq!(world.one(&session, given_back, 1000, 0), (Some(2100), 2100));
}

#[test]
fn a_lease_that_is_over_or_of_another_period_is_not_held_any_more() {
    let world = World::new(100_000);
    let mut session = world.session(1000, 50_000);
    let item = World::item(&session, 1000, 50_000, true);
    session.expires_at = world.now;
    assert_eq!(world.one(&session, item.clone(), 1000, 99_000), (Some(1000), 1000), "it was lent to others");
    let mut session = world.session(1000, 50_000);
    let item = Item { session: session.id, device: session.device_id, ..item };
    session.lease_period = Some(world.now);
    assert_eq!(world.one(&session, item, 1000, 99_000), (Some(1000), 1000));
}

#[test]
fn an_older_report_changes_no_lease() {
    let world = World::new(1_000_000);
    let session = world.session(5000, 90_000);
    let item = World::item(&session, 4000, 6000, false);
    assert_eq!(world.one(&session, item, 5000, 0), (Some(90_000), 90_000));
}

#[test]
fn a_batch_of_sessions_is_lent_no_more_than_is_free() {
    for asks in [false, true] {
        let world = World::new(100_000);
        let sessions: Vec<_> = (0..50)
            .map(|number| {
                let session = world.session(1000, 1000 + number * 10);
                let item = World::item(&session, 1000 + number * 10, 1000 + number * 10, asks);
                (session, item)
            })
            .collect();
        let outcomes = world.report(&sessions, 50_000, 10_000);
        let lent: u64 = outcomes
            .iter()
            .zip((0..50).map(|number| 1000 + number * 10))
            .map(|((outcome, _), moved)| outcome.allowed.unwrap() - moved)
            .sum();
        let used = 50_000 + (0..50).map(|number| number * 10).sum::<u64>();
        assert!(used + 10_000 + lent <= 100_000, "{lent}");
        assert!(lent > 0, "{asks}");
    }
}

#[test]
fn who_has_used_all_is_stopped_and_who_must_wait_is_not() {
    let world = World::new(10_000);
    let session = world.session(1000, 1000);
    let item = World::item(&session, 1000, 1000, true);
    assert_eq!(world.one(&session, item.clone(), 5000, 5000), (Some(1000), 1000), "others hold the rest");
    let stopped = world.report(&[(session, item)], 10_000, 0);
    assert_eq!(stopped[0].0.verdict, Verdict::Stop(SessionCode::LimitReached));
    assert_eq!(stopped[0].1, 0, "its lease returns");
}

#[test]
fn a_plan_that_leaves_out_a_region_stops_who_goes_through_it() {
    let mut world = World::new(10_000);
    let session = world.session(1000, 1000);
    let verdict = |world: &World, session: &Session| {
        let item = World::item(session, 1000, 1000, false);
        world.report(&[(session.clone(), item)], 0, 0)[0].0.verdict
    };
    assert_eq!(verdict(&world, &session), Verdict::Continue);
    world.allowed = Some(world.region);
    assert_eq!(verdict(&world, &session), Verdict::Continue);
    world.allowed = Some(RegionId::fresh());
    assert_eq!(verdict(&world, &session), Verdict::Stop(SessionCode::UnknownRegion));
    assert_eq!(verdict(&world, &Session { outline_node_id: None, ..session }), Verdict::Continue);
}

#[test]
fn what_no_line_carries_is_refused_and_nobody_else_with_it() {
    let world = World::new(u64::MAX);
    let mut fresh = world.session(0, 0);
    fresh.started_at = world.now;
    let honest = world.session(0, 0);
    let reported = |down| {
        let lie = World::item(&fresh, down, 0, false);
        let truth = World::item(&honest, 5000, 0, false);
        world.report(&[(fresh.clone(), lie), (honest.clone(), truth)], 0, 0)
    };
    let verdicts = |down| -> Vec<Verdict> { reported(down).into_iter().map(|(outcome, _)| outcome.verdict).collect() };
    let most = i64::try_from(LINE).unwrap();
    assert_eq!(verdicts(most), [Verdict::Continue, Verdict::Continue], "a second of it");
    assert_eq!(verdicts(most + 1), [Verdict::Implausible, Verdict::Continue]);
    assert_eq!(verdicts(i64::MAX), [Verdict::Implausible, Verdict::Continue]);
}

#[test]
fn a_report_is_measured_since_the_last_one_too() {
    let world = World::new(u64::MAX);
    let mut old = world.session(7000, 0);
    old.last_report_at = Some(world.now.before(Duration::from_secs(9)));
    let most = 7000 + 10 * i64::try_from(LINE).unwrap();
    let verdict = |down| world.report(&[(old.clone(), World::item(&old, down, 0, false))], 0, 0).remove(0).0.verdict;
    assert_eq!((verdict(most), verdict(most + 1)), (Verdict::Continue, Verdict::Implausible));
    assert_eq!(verdict(0), Verdict::Continue, "an old report says nothing new");
    let mut ahead = old.clone();
    ahead.started_at = world.now.after(Duration::from_hours(1));
    ahead.last_report_at = Some(ahead.started_at);
    let honest = World::item(&ahead, most * 100, 0, false);
    let verdict = world.report(&[(ahead, honest)], 0, 0).remove(0).0.verdict;
    assert_eq!(verdict, Verdict::Continue, "the clock was put back");
}

#[test]
fn counters_at_the_edge_saturate() {
    let world = World::new(u64::MAX);
    let mut session = world.session(i64::MAX, 0);
    session.bytes_up = i64::MAX;
    assert_eq!(total(&session), u64::MAX - 1);
    let outcomes = world.report(&[(session.clone(), World::item(&session, i64::MAX, i64::MAX, true))], u64::MAX, 0);
    assert_eq!(outcomes[0].0.verdict, Verdict::Stop(SessionCode::LimitReached));
}

#[test]
fn a_batch_splits_down_to_one_session() {
    let world = World::new(1_000_000);
    let sessions: Vec<Session> = (0..5).map(|_| world.session(0, 0)).collect();
    let items = sessions.iter().map(|session| World::item(session, 1, 0, false)).collect();
    let (reservation_ttl, session_ttl, silent_after) = Default::default();
    let (calendar, max_bytes_per_second) = (Calendar::default(), LINE);
    let rules =
        Rules { calendar, min: MIN, max: MIN, reservation_ttl, session_ttl, silent_after, max_bytes_per_second };
    let (mut waiting, mut alone) = (vec![Batch::new(world.gateway, items, world.now, rules)], Vec::new());
    while let Some(batch) = waiting.pop() {
        match batch.halves() {
            Ok(halves) => waiting.extend(halves),
            Err(session) => alone.push(session),
        }
    }
    alone.sort_unstable();
    let mut all: Vec<SessionId> = sessions.iter().map(|session| session.id).collect();
    all.sort_unstable();
    assert_eq!(alone, all);
}
