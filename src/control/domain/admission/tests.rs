use std::time::Duration;

use time::macros::datetime;

use super::*;
use crate::control::model::calendar::Calendar;
use crate::control::model::id::{GatewayId, PlanId};
use crate::control::model::state::{
    DeviceStatus, GatewayStatus, IdentifierKind, NodeHealth, PeriodKind, SubscriptionStatus, UserStatus,
};

const NOON: Time = Time(datetime!(2026-11-28 12:00 UTC));

fn node(active: i32, max: i32, weight: i32) -> Candidate {
    let health_status = NodeHealth::Healthy;
    Candidate { id: NodeId::fresh(), max_sessions: max, active_sessions: active, weight, health_status }
}

fn used(bytes: i64) -> Counters {
    Counters { bytes_down: bytes, ..Counters::default() }
}

fn wish(user: UserId) -> AdmissionRequest {
    let now = NOON;
    AdmissionRequest {
        gateway: Gateway {
            id: GatewayId::fresh(),
            region_id: RegionId::fresh(),
            name: String::new(),
            public_ip: String::new(),
            internal_ip: String::new(),
            status: GatewayStatus::Online,
            draining: false,
            token_hash: String::new(),
            old_token_hash: None,
            enrol_hash: None,
            enrol_until: None,
            revoked: false,
            acked_seq: 0,
            version: String::new(),
            sessions: 0,
            streams: 0,
            last_heartbeat_at: None,
            created_at: now,
            clock_offset_ms: None,
            certificate_begins: None,
            certificate_ends: None,
            revision: 0,
        },
        exits: Arc::new([Region {
            id: RegionId::fresh(),
            code: "eu-1".into(),
            name: String::new(),
            names: String::new(),
            exit_country: String::new(),
            udp: true,
            ipv6: false,
            resolvers: String::new(),
            revision: 0,
        }]),
        user,
        device: DeviceId::fresh(),
        region: "eu-1".into(),
        session: None,
        fresh: false,
        vouched: true,
        replaces: None,
        nodes: Vec::new(),
        exclude: Vec::new(),
        client_version: None,
        now,
        rules: Rules {
            calendar: Calendar::default(),
            min: 1,
            max: 1,
            reservation_ttl: Duration::from_mins(1),
            session_ttl: Duration::from_secs(90),
            silent_after: Duration::from_secs(30),
            max_bytes_per_second: 1,
        },
        random: 0,
    }
}

fn live(fading: bool) -> Live {
    Live { session: SessionId::fresh(), fading }
}

fn good(user: UserId) -> AdmissionContext {
    let now = NOON;
    let day = Duration::from_hours(24);
    let plan = Plan {
        id: PlanId::fresh(),
        name: "p".into(),
        max_devices: Some(2),
        max_sessions: Some(3),
        traffic_limit_gb: Some(1.0),
        rate_limit_mbps: None,
        period: PeriodKind::Month,
        period_days: None,
        grace_hours: 0,
        fail_open_mb: 0,
        price: 0,
        currency: "EUR".into(),
        created_at: now,
        revision: 0,
    };
    let subscription = Subscription {
        id: SubscriptionId::fresh(),
        user_id: user,
        plan_id: plan.id,
        status: SubscriptionStatus::Active,
        starts_at: now.before(day),
        valid_until: now.after(day),
        cancelled_at: None,
        created_at: now,
        revision: 0,
    };
    let device = Device {
        id: DeviceId::fresh(),
        user_id: user,
        device_uuid: String::new(),
        platform: String::new(),
        name: String::new(),
        client_version: None,
        status: DeviceStatus::Active,
        created_at: now,
        last_seen_at: None,
        revision: 0,
    };
    let user = User {
        id: user,
        identifier_kind: IdentifierKind::Email,
        identifier: String::new(),
        status: UserStatus::Active,
        created_at: now,
        updated_at: now,
        revision: 0,
    };
    AdmissionContext {
        device: Some(device),
        user: Some(user),
        subscription: Some((subscription, plan)),
        counters: used(1),
        older_devices: 1,
        live_sessions: vec![live(false), live(false)],
        given_up: None,
        region_allowed: true,
    }
}

#[test]
fn a_good_device_is_granted_what_is_left() {
    let user = UserId::fresh();
    assert_eq!(good(user).judge(&wish(user)).unwrap().remaining, Some(999_999_999));
}

#[test]
fn every_refusal_has_its_code() {
    type Spoil = fn(&mut AdmissionContext);
    let cases: [(SessionCode, Spoil); 12] = [
        (SessionCode::InvalidToken, |facts| facts.device = None),
        (SessionCode::InvalidToken, |facts| facts.user = None),
        (SessionCode::UserBanned, |facts| facts.user.as_mut().unwrap().status = UserStatus::Banned),
        (SessionCode::UserPending, |facts| facts.user.as_mut().unwrap().status = UserStatus::Pending),
        (SessionCode::DeviceBanned, |facts| facts.device.as_mut().unwrap().status = DeviceStatus::Revoked),
        (SessionCode::NoSubscription, |facts| facts.subscription = None),
        (SessionCode::NoSubscription, |facts| {
            facts.subscription.as_mut().unwrap().0.status = SubscriptionStatus::Cancelled;
        }),
        (SessionCode::SubscriptionExpired, |facts| {
            let subscription = &mut facts.subscription.as_mut().unwrap().0;
            subscription.valid_until = subscription.starts_at;
        }),
        (SessionCode::DeviceLimit, |facts| facts.older_devices = 2),
        (SessionCode::LimitReached, |facts| facts.counters = used(1_000_000_000)),
        (SessionCode::UnknownRegion, |facts| facts.region_allowed = false),
        (SessionCode::TooManySessions, |facts| facts.live_sessions.push(live(false))),
    ];
    for (code, spoil) in cases {
        let user = UserId::fresh();
        let mut facts = good(user);
        spoil(&mut facts);
        assert_eq!(facts.judge(&wish(user)).unwrap_err(), code);
    }
}

#[test]
fn fading_sessions_make_room_and_live_ones_do_not() {
    let user = UserId::fresh();
    let mut facts = good(user);
    assert!(good(user).judge(&wish(user)).unwrap().replaces.is_empty());
    let (old, new) = (live(true), live(true));
    facts.live_sessions.extend([old, new]);
    assert_eq!(facts.judge(&wish(user)).unwrap().replaces, [old.session, new.session], "the plan has become smaller");
    let mut facts = good(user);
    facts.live_sessions.extend([old, live(false)]);
    assert_eq!(facts.judge(&wish(user)).unwrap_err(), SessionCode::TooManySessions);
}

#[test]
fn a_session_that_was_given_up_ends_whether_or_not_there_is_room() {
    let user = UserId::fresh();
    let given_up = Some(SessionId::fresh());
    let facts = AdmissionContext { given_up, ..good(user) };
    assert_eq!(facts.replaced(), given_up.as_slice());
    assert_eq!(facts.judge(&wish(user)).unwrap().replaces, given_up.as_slice());
    let mut full = AdmissionContext { given_up, ..good(user) };
    full.live_sessions.push(live(false));
    assert_eq!(full.judge(&wish(user)).unwrap_err(), SessionCode::TooManySessions, "others hold all places");
}

#[test]
fn what_was_bought_adds_to_the_limit() {
    let user = UserId::fresh();
    let mut facts = good(user);
    facts.counters = Counters { bonus_bytes: 5, ..used(1_000_000_000) };
    assert_eq!(facts.judge(&wish(user)).unwrap().remaining, Some(5));
}

#[test]
fn the_less_loaded_of_two_comes_first() {
    let nodes = vec![node(5, 10, 1), node(1, 10, 1)];
    for random in [0, 1, u64::MAX, 0x1_0000_0001] {
        assert_eq!(choose(nodes.clone(), random)[0].active_sessions, 1);
    }
    let weighted = vec![node(5, 10, 10), node(1, 10, 1)];
    assert_eq!(choose(weighted, 0)[0].active_sessions, 5);
    let many: Vec<_> = (0..10).map(|active| node(active, 10, 1)).collect();
    for random in (0..10_000u64).map(|seed| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        let order = choose(many.clone(), random);
        assert_eq!(order.len(), 10);
        assert!(order[0].active_sessions < 9, "the most loaded never wins a pair");
    }
}

#[test]
fn nodes_that_nobody_has_seen_come_last() {
    let mut unseen = node(0, 10, 1);
    unseen.health_status = NodeHealth::Unknown;
    let nodes = vec![unseen, node(9, 10, 1), node(8, 10, 1)];
    for random in [0, 1, u64::MAX, 0x1_0000_0001] {
        let order = choose(nodes.clone(), random);
        assert_eq!((order[0].active_sessions, order[2].active_sessions), (8, 0));
    }
}
