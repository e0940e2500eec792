use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use uuid::Uuid;

use super::views::millis;
use crate::api::{Lease, UsageReport, UsageReports, UsageVerdicts, Verdict as VerdictView};
use crate::control::State;
use crate::control::accounting::{Batch, Item, Outcome, Verdict};
use crate::control::db::on;
use crate::control::db::types::{Id, Time};
use crate::control::error::ApiError;
use crate::control::extract::{Body, FromGateway};

pub(in crate::control) async fn report(
    Shared(state): Shared<Arc<State>>,
    FromGateway(known): FromGateway,
    Body(request): Body<UsageReports>,
) -> Result<Json<UsageVerdicts>, ApiError> {
    let reports = match request {
        UsageReports::Batch { reports } => reports,
        UsageReports::One(report) => vec![*report],
    };
    if reports.len() > state.config.report_batch_max {
        let detail = format!("at most {} sessions in one report", state.config.report_batch_max);
        return Err(ApiError::invalid("reports", "TOO_MANY", detail));
    }
    if reports.iter().any(|report| report.gateway_id.is_some_and(|id| id != known.gateway.id.0)) {
        return Err(ApiError::forbidden("`gateway_id` is not the gateway that the token belongs to"));
    }
    let now = Time::now();
    let (items, unusable): (Vec<_>, Vec<_>) =
        reports.iter().map(|report| item(&state, report).ok_or(report.session_id)).partition(Result::is_ok);
    let items = items.into_iter().flatten().collect();
    let batch = Batch::new(known.gateway.id, items, now, state.rules.clone());
    let outcomes = on!(&mut state.db.get().await?, usage::report(&batch))?;
    let lasts_ms = millis(state.rules.session_ttl);
    let mut sessions: Vec<_> = outcomes.iter().map(|outcome| view(outcome, lasts_ms)).collect();
    sessions.extend(unusable.into_iter().filter_map(Result::err).map(out_of_range));
    Ok(Json(UsageVerdicts { sessions }))
}

fn out_of_range(session_id: Uuid) -> VerdictView {
    VerdictView {
        session_id,
        go_on: false,
        code: Some("OUT_OF_RANGE".to_owned()),
        remaining_bytes: None,
        lease: None,
        rate_limit_mbps: None,
        traffic_limit_bytes: None,
        valid_until: None,
    }
}

/// `None` for counters above 2^63 - 1.
fn item(state: &State, report: &UsageReport) -> Option<Item> {
    let vouched = report.access_token.as_ref().is_some_and(|token| {
        let claims = state.verifier.verify_any_age(token.expose());
        claims
            .is_ok_and(|claims| claims.sub == report.device_id && claims.iat <= report.started_at.unix_timestamp() + 60)
    });
    Some(Item {
        session: Id(report.session_id),
        device: Id(report.device_id),
        bytes_up: i64::try_from(report.bytes_up).ok()?,
        bytes_down: i64::try_from(report.bytes_down).ok()?,
        started_at: Time(report.started_at),
        ended_at: report.ended_at.map(Time),
        vouched,
        allowed: report.allowed.map(|allowed| i64::try_from(allowed).unwrap_or(i64::MAX)),
        asks: report.asks,
        silent: report.silent_ms.is_some_and(|silent| silent >= millis(state.rules.silent_after)),
    })
}

fn view(outcome: &Outcome, lasts_ms: u64) -> VerdictView {
    let code = match outcome.verdict {
        Verdict::Continue | Verdict::Over => None,
        Verdict::Stop(code) => Some(code.as_str().to_owned()),
        Verdict::Foreign => Some("FORBIDDEN".to_owned()),
        Verdict::Unknown => Some("UNKNOWN_SESSION".to_owned()),
    };
    VerdictView {
        session_id: outcome.session.0,
        go_on: outcome.verdict == Verdict::Continue,
        code,
        remaining_bytes: outcome.remaining,
        lease: outcome.allowed.map(|allowed| Lease { allowed, lasts_ms }),
        rate_limit_mbps: outcome.rate_limit_mbps,
        traffic_limit_bytes: outcome.limit,
        valid_until: outcome.valid_until.map(|until| until.0),
    }
}
