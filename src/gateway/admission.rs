//! Whether a device may have a session, and what it is told (docs/04, "A session").

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use reqwest::StatusCode;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::GatewayState;
use super::account::{Account, Opening};
use super::control::ControlError;
use super::nodes::Exit;
use super::offline::{CachedDevice, OutageAllowance};
use super::session::Session;
use super::upgrade::Agreement;
use crate::api::{Lease, ValidateDevice, Validated, kept_version};
use crate::digest::{fresh_number, fresh_support_id};
use crate::frame::{Encoding, Feature, Hello, HelloLimits, HelloOk, Resumable, SessionCode, Version};
use crate::net::tunnel::Tunnel;
use crate::token::{Claims, TokenError};

/// A session that may begin.
pub(super) struct Admitted {
    pub(super) session: Session,
    /// Stops that the gateway had heard of when it asked.
    pub(super) stops: Stops,
}

/// How many stops a gateway has heard of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stops {
    /// Of users and devices, and what else may end a session.
    pub(super) devices: u64,
    /// Of single sessions, which say nothing of their devices.
    pub(super) sessions: u64,
}

impl Stops {
    /// Those heard of by now.
    pub(super) fn of(state: &GatewayState) -> Self {
        let heard = |count: &AtomicU64| count.load(Ordering::Acquire);
        Self { devices: heard(&state.stops), sessions: heard(&state.session_stops) }
    }
}

/// A session that is refused, with what the client may quote.
pub(super) struct Refused {
    pub(super) code: SessionCode,
    pub(super) support_id: String,
}

/// Checks the client and its token here, then asks the control plane once for everything.
pub(super) async fn admit(
    state: &Arc<GatewayState>,
    tunnel: &Tunnel,
    hello: &Hello,
    Agreement { encoding, bearer }: Agreement,
) -> Result<Admitted, Refused> {
    let support_id = fresh_support_id();
    let refused = |code| Refused { code, support_id: support_id.clone() };
    let claims = check(state, hello, bearer).await.map_err(|(code, device)| {
        if let Some(device) = device {
            state.refusals.note(state.clock.now(), device, code, &hello.client_version, &support_id);
        }
        refused(code)
    })?;
    let device = claims.sub;
    let id = Uuid::now_v7();
    let replaces = hello.replaces.as_ref().and_then(|id| id.parse().ok());
    if let Some(given_up) = replaces {
        let is_own = |account: &Account| account.session() == given_up && account.device() == device;
        state.usage.cut(is_own, SessionCode::SessionKilled);
    }
    let text = |text: &str| (!text.is_empty()).then(|| kept_version(text));
    let request = ValidateDevice {
        device_id: device,
        access_token: hello.access_token.clone(),
        region: hello.region.clone(),
        assign: true,
        session_id: Some(id),
        replaces,
        exclude: state.nodes.down(),
        client_version: text(&hello.client_version),
        platform: text(&hello.platform),
        support_id: Some(support_id.clone()),
    };
    let asked_at = Instant::now();
    let stops = Stops::of(state);
    let note = |code| {
        state.refusals.note(state.clock.now(), device, code, &hello.client_version, &support_id);
    };
    let granted = match ask(state, request, asked_at, stops.devices).await {
        Answered::Cache(granted) => Ok(granted),
        Answered::Control(Ok(answer)) if answer.ok => Granted::from_control(state, device, &hello.region, *answer)
            .inspect_err(|code| {
                state.usage.abandon(id, device);
                note(*code);
            }),
        Answered::Control(Ok(answer)) => Err(denied(state, device, &answer)),
        Answered::Control(Err(error)) => when_unavailable(state, device, &hello.region, &error).inspect_err(|code| {
            if matches!(error, ControlError::Lost(_)) {
                state.usage.abandon(id, device);
            }
            note(*code);
        }),
    };
    let granted = granted.map_err(refused)?;
    let opening = Opening {
        session: id,
        device,
        user: claims.uid,
        known: granted.known,
        token: hello.access_token.clone(),
        remaining: granted.remaining,
        limit: granted.limit,
        valid_until: granted.valid_until,
        expiry_before: state.notices.expiry_before,
        lease: granted.lease,
        asked_at,
        allowance: granted.allowance,
        breaker: Arc::clone(state.control.breaker()),
        clock: Arc::clone(&state.clock),
        rate_limiter: state.rate_limiters.of(device, granted.rate_limit_mbps),
        quota_percent: state.notices.quota_percent.clone(),
        report_queue: state.usage.report_queue(),
        share: state.shares.of(claims.uid),
        tunnel: tunnel.clone(),
    };
    let session = Session {
        state: Arc::clone(state),
        account: Arc::new(Account::new(opening, &state.metrics)),
        id,
        encoding,
        tickets: Mutex::default(),
        user: claims.uid,
        device,
        region: hello.region.clone(),
        exit: RwLock::new(granted.exit),
        moving: tokio::sync::Mutex::new(()),
        stays_until: Mutex::default(),
        lookups: state.lookups.of_a_session(state.egress.lookups_per_session),
    };
    Ok(Admitted { session, stops })
}

/// What needs no control plane; a refusal names the device if its token is genuine.
async fn check(
    state: &GatewayState,
    hello: &Hello,
    bearer: Option<Uuid>,
) -> Result<Claims, (SessionCode, Option<Uuid>)> {
    if state.refuses_sessions() {
        return Err((SessionCode::GoingAway, None));
    }
    if state.limits.memory.is_full() {
        return Err((SessionCode::Overloaded, None));
    }
    if !state.keys.is_ready() {
        return Err((SessionCode::ControlUnavailable, None));
    }
    let invalid = (SessionCode::InvalidToken, None);
    let device: Uuid = hello.device_id.parse().map_err(|_| invalid)?;
    let away = state.control.breaker().is_away();
    let token = hello.access_token.expose();
    let verified = if away { state.keys.check_at_once(token) } else { state.keys.verify(token).await };
    let claims = match verified {
        Ok(claims) if claims.sub == device && bearer.is_none_or(|bearer| bearer == device) => claims,
        Err(TokenError::UnknownKey) if away || state.control.breaker().is_away() => {
            return Err((SessionCode::ControlUnavailable, None));
        }
        Ok(_) | Err(TokenError::Invalid | TokenError::UnknownKey) => return Err(invalid),
        Err(TokenError::Expired) => {
            let genuine = state.keys.owner(token).filter(|owner| *owner == device);
            genuine.map_or(Ok(()), |device| may_ask(state, device, true))?;
            return Err((SessionCode::TokenExpired, genuine));
        }
    };
    may_ask(state, device, false)?;
    if state.shares.of(claims.uid).is_full() {
        return Err((SessionCode::Overloaded, Some(device)));
    }
    if let Some(oldest) = Version::parse(&state.tunnel.min_client_version)
        && Version::parse(&hello.client_version).is_none_or(|version| version < oldest)
    {
        return Err((SessionCode::UpgradeRequired, Some(device)));
    }
    Ok(claims)
}

/// A device that asks too often is told so, and nobody else hears of it.
fn may_ask(state: &GatewayState, device: Uuid, is_late: bool) -> Result<(), (SessionCode, Option<Uuid>)> {
    if state.hellos.allow((device, is_late), std::time::Instant::now()) {
        Ok(())
    } else {
        Err((SessionCode::Overloaded, None))
    }
}

/// Who said that a device may have a session.
enum Answered {
    Control(Result<Box<Validated>, ControlError>),
    Cache(Granted),
}

/// Asks the control plane. Once it is in doubt, a device that is known need not wait: the answer is obeyed when it comes.
async fn ask(state: &Arc<GatewayState>, request: ValidateDevice, asked_at: Instant, stops: u64) -> Answered {
    let (device, region, session) = (request.device_id, request.region.clone(), request.session_id);
    let asking = Arc::clone(state);
    let mut call = Box::pin(async move { asking.control.validate(&request).await });
    let cached = async {
        state.control.breaker().doubtful(asked_at).await;
        match Granted::from_cache(state, device, &region) {
            Ok(granted) => granted,
            Err(_) => std::future::pending().await,
        }
    };
    let granted = tokio::select! {
        biased;
        answer = &mut call => return Answered::Control(answer.map(Box::new)),
        granted = cached => granted,
    };
    let state = Arc::clone(state);
    tokio::spawn(async move {
        if let (Ok(answer), Some(session)) = (call.await, session) {
            apply_late_answer(&state, session, (device, region), &answer, stops);
        }
    });
    Answered::Cache(granted)
}

/// Takes an answer that came after the session had begun: it is reported at once, or ends. Who was stopped since it was asked
/// for is not remembered.
fn apply_late_answer(
    state: &GatewayState,
    session: Uuid,
    (device, region): (Uuid, String),
    answer: &Validated,
    stops: u64,
) {
    if answer.ok {
        cache_device(state, device, region, answer);
        if state.stops.load(Ordering::Acquire) != stops {
            state.offline.forget(device);
        }
        state.usage.report_queue().add(session);
        return;
    }
    let code = denied(state, device, answer);
    state.stops.fetch_add(1, Ordering::Release);
    state.usage.cut(|account| account.session() == session, code);
}

/// Why the control plane does not let a device in.
fn denied(state: &GatewayState, device: Uuid, answer: &Validated) -> SessionCode {
    let code = answer.code.unwrap_or(SessionCode::Internal);
    if code.is_final() {
        state.offline.forget(device);
    }
    code
}

/// Keeps what the control plane said of a device for when it is away; gives the device's allowance.
fn cache_device(
    state: &GatewayState,
    device: Uuid,
    region: String,
    answer: &Validated,
) -> Option<Arc<OutageAllowance>> {
    let limits = answer.limits.as_ref();
    let known = CachedDevice {
        user: answer.user.as_ref()?.id,
        valid_until: answer.subscription.as_ref()?.served_until,
        limit: limits.and_then(|limits| limits.traffic_limit_bytes),
        rate_limit_mbps: limits.and_then(|limits| limits.rate_limit_mbps),
        regions: vec![region],
    };
    Some(state.offline.insert(device, known, answer.fail_open_bytes))
}

/// What a session is let in with.
struct Granted {
    known: bool,
    exit: Arc<Exit>,
    remaining: Option<u64>,
    limit: Option<u64>,
    lease: Option<Lease>,
    rate_limit_mbps: Option<i32>,
    valid_until: OffsetDateTime,
    allowance: Arc<OutageAllowance>,
}

impl Granted {
    fn from_control(state: &GatewayState, device: Uuid, region: &str, answer: Validated) -> Result<Self, SessionCode> {
        let node = answer.node.as_ref().ok_or(SessionCode::NoNodeAvailable)?;
        let exit = state.nodes.exit(node).map_err(|reason| {
            tracing::error!(%reason, "cannot use the assigned node");
            SessionCode::NoNodeAvailable
        })?;
        let limits = answer.limits.as_ref();
        let limit = limits.and_then(|limits| limits.traffic_limit_bytes);
        let rate_limit_mbps = limits.and_then(|limits| limits.rate_limit_mbps);
        let allowance = cache_device(state, device, region.to_owned(), &answer).ok_or(SessionCode::Internal)?;
        let paid = answer.subscription.ok_or(SessionCode::Internal)?;
        Ok(Self {
            known: true,
            exit,
            remaining: answer.remaining_bytes,
            limit,
            lease: answer.lease,
            rate_limit_mbps,
            valid_until: paid.valid_until,
            allowance,
        })
    }

    /// A device that the control plane let in lately may come in again; of its allowance it takes a piece when it wants to
    /// move something.
    fn from_cache(state: &GatewayState, device: Uuid, region: &str) -> Result<Self, SessionCode> {
        let known = state.offline.lookup(device, region);
        let (known, allowance) = known.ok_or(SessionCode::ControlUnavailable)?;
        if known.limit.is_some() && allowance.is_spent() {
            return Err(SessionCode::ControlUnavailable);
        }
        let exit = state.nodes.any(region, fresh_number()).ok_or(SessionCode::NoNodeAvailable)?;
        let lease = known.limit.map(|_| Lease { allowed: 0, lasts_ms: u64::MAX });
        Ok(Self {
            known: false,
            exit,
            remaining: None,
            limit: known.limit,
            lease,
            rate_limit_mbps: known.rate_limit_mbps,
            valid_until: known.valid_until,
            allowance,
        })
    }
}

/// What becomes of a device for which the control plane had no answer.
fn when_unavailable(
    state: &GatewayState,
    device: Uuid,
    region: &str,
    error: &ControlError,
) -> Result<Granted, SessionCode> {
    error.log("failed to validate a device");
    let code = unavailable(error);
    if code == SessionCode::ControlUnavailable { Granted::from_cache(state, device, region) } else { Err(code) }
}

fn unavailable(error: &ControlError) -> SessionCode {
    match error {
        ControlError::Refused { status: StatusCode::UPGRADE_REQUIRED | StatusCode::UNAUTHORIZED, .. } => {
            SessionCode::GoingAway
        }
        ControlError::Refused { status, .. } if status.is_client_error() => SessionCode::Internal,
        ControlError::Refused { .. } | ControlError::Away | ControlError::Unreachable(_) | ControlError::Lost(_) => {
            SessionCode::ControlUnavailable
        }
    }
}

/// The answer to a `hello`: the owner's field alone unless the client asked for more.
pub(super) fn consent(
    state: &GatewayState,
    tunnel: &Tunnel,
    hello: &Hello,
    session: Uuid,
    encoding: Encoding,
    resume: Option<Resumable>,
) -> HelloOk {
    let (keepalive, dead_after) = tunnel.keepalive();
    let limits = HelloLimits {
        streams: state.limits.streams as u64,
        message: state.message_max(encoding) as u64,
        opens_per_second: state.limits.opens_per_second,
        keepalive: keepalive.as_secs(),
        dead_after: dead_after.as_secs(),
        udp_idle: state.relay.udp_idle_timeout.as_secs(),
    };
    HelloOk {
        session_id: session.to_string(),
        features: if resume.is_some() { hello.features } else { hello.features.without(Feature::Resume) },
        limits: hello.features.has(Feature::Limits).then_some(limits),
        padding: (encoding == Encoding::V2).then(|| state.limits.padding.clone()),
        resume,
    }
}
