use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::api::{GatewayEnroll, GatewayEnrolled};
use crate::control::api::error::ApiError;
use crate::control::api::extract::Body;
use crate::control::db::dispatch;
use crate::control::runtime::ControlState;
use crate::digest::{fresh_token, sha256_hex};

/// Trades a gateway's one-time token for one of its own
#[utoipa::path(post, path = "/gateway/enroll", tag = "tokens", operation_id = "enroll_gateway",
    request_body = GatewayEnroll, responses((status = OK, body = GatewayEnrolled)))]
pub(in crate::control) async fn gateway_enroll(
    State(state): State<Arc<ControlState>>,
    Body(request): Body<GatewayEnroll>,
) -> Result<Json<GatewayEnrolled>, ApiError> {
    let token = fresh_token().map_err(ApiError::internal)?;
    let invitation = sha256_hex(request.token.trim().as_bytes());
    let hash = sha256_hex(token.as_bytes());
    let enrolled = dispatch!(&mut state.db.get().await?, nodes::enroll(&invitation, &hash, state.now()))?;
    let gateway = enrolled.ok_or_else(|| ApiError {
        code: "INVALID_CODE".into(),
        detail: Some("the enrollment token is unknown, spent, or past its time".into()),
        ..ApiError::not_found()
    })?;
    state.gateways.forget();
    Ok(Json(GatewayEnrolled { gateway_id: gateway.uuid(), token }))
}
