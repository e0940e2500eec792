use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::json;

use super::{Created, Listed, Paged, created_with, listed};
use crate::base32::grouped;
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::domain::enrollment::fresh_code;
use crate::control::model::ActivationCode;
use crate::control::model::id::{CodeId, UserId};
use crate::control::runtime::ControlState;
use crate::digest::sha256_hex;

const MAX_HOURS: u64 = 8784;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCode {
    user_id: UserId,
    #[serde(default, deserialize_with = "lenient::value")]
    hours: Option<u64>,
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_codes(page.after(), page.user_id, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<CodeId>,
) -> Result<Json<ActivationCode>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, admin::get_code(id))?))
}

/// Makes a code; it and its link are shown only now.
pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewCode>,
) -> Result<Created, ApiError> {
    let life = match new.hours {
        Some(hours @ 1..=MAX_HOURS) => Duration::from_hours(hours),
        Some(_) => return Err(ApiError::invalid("hours", "OUT_OF_RANGE", format!("must be 1 to {MAX_HOURS}"))),
        None => state.enrollment.code_ttl,
    };
    let code = fresh_code().map_err(ApiError::internal)?;
    let now = state.now();
    let row = ActivationCode {
        id: CodeId::fresh(),
        user_id: new.user_id,
        code_hash: sha256_hex(code.as_bytes()),
        created_at: now,
        expires_at: now.after(life),
        used_at: None,
        device_id: None,
    };
    dispatch!(&mut state.db.get().await?, admin::create_code(&row))?;
    let shown = grouped(&code);
    let base = &state.enrollment.link;
    let link = (!base.is_empty()).then(|| format!("{base}#{shown}"));
    created_with(&row, json!({ "code": shown, "link": link }))
}
