use super::*;
use crate::clock::Clock;
use crate::config::{Source, V1};
use crate::frame::Encoding;
use crate::gateway::circuit::CircuitTimes;
use crate::mux::{Limits, Role};
use crate::net::tunnel::Meter;

const MEGABYTE: u64 = 1_000_000;

fn account(lease: Option<Lease>, fail_open: u64) -> Account {
    let source = Source::with([] as [(&str, &str); 0]).unwrap();
    let padding = source.section::<crate::config::Padding>().unwrap().scheme;
    let v1: V1 = source.section().unwrap();
    let limits = Arc::new(Limits::new(&source.section().unwrap(), &v1, padding));
    let (allowance, metrics) = (Arc::new(OutageAllowance::default()), GatewayMetrics::new());
    allowance.set(fail_open);
    let (clock, second) = (Clock::system(), Duration::from_secs(1));
    let times = CircuitTimes { doubt: second, retry_min: second, retry_max: second };
    let opening = Opening {
        session: Uuid::now_v7(),
        device: Uuid::now_v7(),
        user: Uuid::now_v7(),
        known: true,
        token: Token::from(String::new()),
        remaining: lease.map(|_| 10 * MEGABYTE),
        limit: lease.map(|_| 10 * MEGABYTE),
        valid_until: clock.now(),
        expiry_before: Duration::ZERO,
        lease,
        asked_at: Instant::now(),
        allowance,
        breaker: Arc::new(CircuitBreaker::new(times, None)),
        clock: Arc::new(ControlClock::new(clock, source.section().unwrap(), &metrics)),
        rate_limiter: Arc::new(RateLimiter::new(source.section().unwrap())),
        quota_percent: vec![80, 95],
        report_queue: Arc::default(),
        share: Arc::clone(&limits.memory),
        tunnel: Tunnel::new(Role::Gateway, Encoding::V2, limits),
    };
    Account::new(opening, &metrics)
}

fn lease(allowed: u64, seconds: u64) -> Lease {
    Lease { allowed, lasts_ms: seconds * 1000 }
}

fn verdict(allowed: u64) -> Verdict {
    Verdict {
        session_id: Uuid::nil(),
        go_on: true,
        code: None,
        remaining_bytes: Some(10 * MEGABYTE),
        lease: Some(lease(allowed, 60)),
        rate_limit_mbps: None,
        traffic_limit_bytes: Some(10 * MEGABYTE),
        valid_until: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_asked_for_at_half_and_held_at_its_end() {
    let account = account(Some(lease(1000, 60)), 0);
    assert_eq!(account.received(499), None);
    assert!(!account.asks() && account.hold().is_none());
    account.received(1);
    assert!(account.asks(), "half of it is used");
    assert_eq!(account.chunk_limit(), 500, "no chunk is larger than what is left");
    account.received(500);
    assert!(account.hold().is_some());
    account.apply_verdict(Instant::now(), 1000, &verdict(3000));
    assert!(account.hold().is_none() && !account.asks());
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(account.hold().is_some(), "its time is over");
    assert_eq!(account.holding(false), 1000, "and it holds no more");
}

#[tokio::test(start_paused = true)]
async fn a_regular_report_gives_back_what_is_not_likely_to_be_used() {
    let account = account(Some(lease(MEGABYTE, 60)), 0);
    account.received(1000);
    assert_eq!(account.holding(true), 5000, "four times what was moved");
    account.apply_verdict(Instant::now(), 1000, &verdict(MEGABYTE));
    assert_eq!(account.holding(true), 1000, "nothing was moved since");
    assert!(account.hold().is_some());
    account.take_back(MEGABYTE);
    assert!(account.hold().is_none(), "the report was not delivered");
}

#[tokio::test(start_paused = true)]
async fn without_the_control_plane_the_budget_is_all_there_is() {
    let account = account(Some(lease(1000, 60)), MEGABYTE);
    account.open_up();
    assert_eq!(account.held(), 1000, "a lease that is good stays");
    account.received(1000);
    let mut moved = 0;
    while account.cut_code().is_none() {
        if account.hold().is_some() {
            account.open_up();
        } else {
            let chunk = account.chunk_limit();
            moved += chunk as u64;
            account.received(chunk);
        }
    }
    assert_eq!((moved, account.cut_code()), (MEGABYTE, Some(SessionCode::ControlUnavailable)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_costs_no_budget_and_an_unlimited_one_needs_none() {
    let idle = account(Some(lease(1000, 60)), MEGABYTE);
    tokio::time::advance(Duration::from_mins(10)).await;
    idle.open_up();
    assert_eq!((idle.held(), idle.cut_code()), (1000, None));
    let unlimited = account(None, 0);
    unlimited.received(usize::try_from(100 * MEGABYTE).unwrap());
    assert!(unlimited.hold().is_none() && !unlimited.asks());
    assert_eq!(unlimited.holding(true), 0);
}

#[tokio::test(start_paused = true)]
async fn a_threshold_is_told_once_and_again_after_a_top_up() {
    let account = account(Some(lease(20 * MEGABYTE, 60)), 0);
    let notified = || account.notices.notified();
    account.received(usize::try_from(9 * MEGABYTE).unwrap());
    assert_eq!(notified(), 1);
    let older = Verdict { remaining_bytes: Some(6 * MEGABYTE), ..verdict(20 * MEGABYTE) };
    account.apply_verdict(Instant::now(), 4 * MEGABYTE, &older);
    assert_eq!(notified(), 1, "an answer to an older report tells nothing anew");
    let bought = Verdict {
        remaining_bytes: Some(11 * MEGABYTE),
        traffic_limit_bytes: Some(20 * MEGABYTE),
        ..verdict(20 * MEGABYTE)
    };
    account.apply_verdict(Instant::now(), 9 * MEGABYTE, &bought);
    assert_eq!(notified(), 0);
}
