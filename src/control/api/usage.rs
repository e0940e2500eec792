use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use time::OffsetDateTime;

use super::views::millis;
use crate::api::{Lease, UsageReport, UsageReports, UsageVerdicts, Verdict as VerdictView};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{FromGateway, Relayed};
use crate::control::db::dispatch;
use crate::control::db::fault::Fault;
use crate::control::domain::accounting::{Batch, Item, Outcome, Verdict};
use crate::control::model::id::{DeviceId, SessionId};
use crate::control::model::types::Time;
use crate::control::runtime::ControlState;

/// Takes what sessions have moved
///
/// One report or many; each has its own verdict.
#[utoipa::path(post, path = "/usage/report", tag = "gateways' calls", operation_id = "report_usage",
    request_body = UsageReports, responses((status = OK, body = UsageVerdicts)))]
pub(in crate::control) async fn report(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Relayed(request): Relayed<UsageReports>,
) -> Result<Json<UsageVerdicts>, ApiError> {
    let reports = match request {
        UsageReports::Batch { reports } => reports,
        UsageReports::One(report) => vec![*report],
    };
    if reports.len() > state.config.report_batch_max {
        let detail = format!("at most {} sessions in one report", state.config.report_batch_max);
        return Err(ApiError::invalid("reports", "TOO_MANY", detail));
    }
    if reports.iter().any(|report| report.gateway_id.is_some_and(|id| id != known.gateway.id.uuid())) {
        return Err(ApiError::forbidden("`gateway_id` is not the gateway that the token belongs to"));
    }
    let now = state.now();
    let (items, unusable): (Vec<_>, Vec<_>) = reports
        .iter()
        .map(|report| item(&state, report, now).ok_or(SessionId::from(report.session_id)))
        .partition(Result::is_ok);
    let items = items.into_iter().flatten().collect();
    let taken = take(&state, Batch::new(known.gateway.id, items, now, state.rules.clone())).await?;
    for outcome in taken.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Implausible) {
        tracing::warn!(session = %outcome.session, gateway = %known.gateway.id, "implausible usage refused");
        state.metrics.implausible.inc();
    }
    let lasts_ms = millis(state.rules.session_ttl);
    let mut sessions: Vec<_> = taken.outcomes.iter().map(|outcome| view(outcome, lasts_ms)).collect();
    sessions.extend(unusable.into_iter().filter_map(Result::err).map(|session| refused(session, "OUT_OF_RANGE")));
    sessions.extend(taken.failed.into_iter().map(|session| refused(session, "INTERNAL")));
    Ok(Json(UsageVerdicts { sessions }))
}

#[derive(Default)]
struct Taken {
    outcomes: Vec<Outcome>,
    /// Sessions whose reports the database refuses.
    failed: Vec<SessionId>,
}

/// Takes a batch whole; if the database refuses that, in halves, until what it refuses stands alone. What refuses every item is
/// no fault of theirs: the request fails, and the gateway keeps them.
async fn take(state: &ControlState, batch: Batch) -> Result<Taken, ApiError> {
    let mut taken = Taken::default();
    if batch.is_empty() {
        return Ok(taken);
    }
    let mut waiting = vec![batch];
    let mut refused = None;
    while let Some(batch) = waiting.pop() {
        let error = match dispatch!(&mut state.db.get().await?, usage::report(&batch)) {
            Ok(outcomes) => {
                taken.outcomes.extend(outcomes);
                continue;
            }
            Err(error) if Fault::of(&error) == Fault::Statement => error,
            Err(error) => return Err(error.into()),
        };
        match batch.halves() {
            Ok(halves) => {
                state.metrics.split.inc();
                waiting.extend(halves);
            }
            Err(session) => {
                tracing::error!(%session, %error, "usage cannot be taken");
                taken.failed.push(session);
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if taken.outcomes.is_empty() => Err(error.into()),
        Some(_) | None => Ok(taken),
    }
}

fn refused(session: SessionId, code: &str) -> VerdictView {
    VerdictView {
        session_id: session.uuid(),
        go_on: false,
        code: Some(code.to_owned()),
        remaining_bytes: None,
        lease: None,
        rate_limit_mbps: None,
        traffic_limit_bytes: None,
        valid_until: None,
    }
}

/// `None` for counters above 2^63 - 1.
fn item(state: &ControlState, report: &UsageReport, now: Time) -> Option<Item> {
    let claims = report.access_token.as_ref().and_then(|token| {
        let (began, now) = (report.started_at.unix_timestamp(), now.0.unix_timestamp());
        state.verifier.vouch(token.expose(), began, now, state.sessions.vouch_max_age).ok()
    });
    let claims = claims.filter(|claims| claims.sub == report.device_id);
    let made_at = claims.as_ref().and_then(|claims| OffsetDateTime::from_unix_timestamp(claims.iat).ok());
    let started_at = made_at.map_or(report.started_at, |made_at| report.started_at.max(made_at));
    Some(Item {
        session: SessionId::from(report.session_id),
        device: DeviceId::from(report.device_id),
        bytes_up: i64::try_from(report.bytes_up).ok()?,
        bytes_down: i64::try_from(report.bytes_down).ok()?,
        started_at: Time(started_at),
        ended_at: report.ended_at.map(Time),
        vouched: claims.is_some(),
        allowed: report.allowed.map(|allowed| i64::try_from(allowed).unwrap_or(i64::MAX)),
        asks: report.asks,
        silent: report.leaving || report.silent_ms.is_some_and(|silent| silent >= millis(state.rules.silent_after)),
    })
}

fn view(outcome: &Outcome, lasts_ms: u64) -> VerdictView {
    let code = match outcome.verdict {
        Verdict::Continue | Verdict::Over => None,
        Verdict::Stop(code) => Some(code.as_str().to_owned()),
        Verdict::Foreign => Some("FORBIDDEN".to_owned()),
        Verdict::Unknown => Some("UNKNOWN_SESSION".to_owned()),
        Verdict::Implausible => Some("IMPLAUSIBLE".to_owned()),
    };
    VerdictView {
        session_id: outcome.session.uuid(),
        go_on: outcome.verdict == Verdict::Continue,
        code,
        remaining_bytes: outcome.remaining,
        lease: outcome.allowed.map(|allowed| Lease { allowed, lasts_ms }),
        rate_limit_mbps: outcome.rate_limit_mbps,
        traffic_limit_bytes: outcome.limit,
        valid_until: outcome.valid_until.map(|until| until.0),
    }
}
