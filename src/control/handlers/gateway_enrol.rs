use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;

use crate::api::{GatewayEnroll, GatewayEnrolled};
use crate::control::State;
use crate::control::db::on;
use crate::control::db::types::Time;
use crate::control::error::ApiError;
use crate::control::extract::Body;
use crate::digest::{fresh_token, sha256_hex};

/// Trades a one-time enrolment token for a gateway's token.
pub(in crate::control) async fn gateway_enroll(
    Shared(state): Shared<Arc<State>>,
    Body(request): Body<GatewayEnroll>,
) -> Result<Json<GatewayEnrolled>, ApiError> {
    let token = fresh_token().map_err(ApiError::internal)?;
    let invitation = sha256_hex(request.token.trim().as_bytes());
    let hash = sha256_hex(token.as_bytes());
    let enrolled = on!(&mut state.db.get().await?, nodes::enrol(&invitation, &hash, Time::now()))?;
    let gateway = enrolled.ok_or_else(|| ApiError {
        code: "INVALID_CODE".into(),
        detail: Some("the enrolment token is unknown, spent, or past its time".into()),
        ..ApiError::not_found()
    })?;
    state.gateways.forget();
    Ok(Json(GatewayEnrolled { gateway_id: gateway.0, token }))
}
