use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jsonwebtoken::jwk::JwkSet;

use super::views::{millis, node_view};
use crate::api::{AssignOutline, Assigned, Lease, LimitsView, SubscriptionView, UserView, ValidateDevice, Validated};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{FromGateway, Relayed};
use crate::control::db::{DbConn, Rejected, dispatch};
use crate::control::domain::admission::{Admission, AdmissionRequest, Refusal};
use crate::control::model::id::{DeviceId, NodeId, SessionId, UserId};
use crate::control::runtime::ControlState;
use crate::control::runtime::gateway_cache::Known;
use crate::digest::fresh_number;
use crate::frame::SessionCode;
use crate::token::TokenError;

/// The keys that access tokens are signed with (RFC 7517)
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "tokens", operation_id = "get_keys",
    responses((status = OK, body = Object)))]
pub(in crate::control) async fn jwks(State(state): State<Arc<ControlState>>) -> Json<JwkSet> {
    Json(state.issuer.key_set().clone())
}

/// Decides whether a device may have a session
///
/// A refusal is an answer too: `ok` is false, and `code` says why.
#[utoipa::path(post, path = "/auth/validate-device", tag = "gateways' calls", operation_id = "validate_device",
    request_body = ValidateDevice, responses((status = OK, body = Validated)))]
pub(in crate::control) async fn validate_device(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Relayed(request): Relayed<ValidateDevice>,
) -> Result<Json<Validated>, ApiError> {
    super::heartbeat::new_enough(&state, &known.gateway.version)?;
    if request.assign && request.session_id.is_none() {
        return Err(ApiError::invalid("session_id", "MISSING", "`assign` needs `session_id`"));
    }
    let claims = match state.verifier.verify(request.access_token.expose(), state.clock.now()) {
        Ok(claims) if claims.sub == request.device_id => claims,
        Ok(_) | Err(TokenError::Invalid | TokenError::UnknownKey) => return Ok(refusal(SessionCode::InvalidToken)),
        Err(TokenError::Expired) => return Ok(refusal(SessionCode::TokenExpired)),
    };
    let wish = AdmissionRequest {
        gateway: known.gateway.clone(),
        exits: Arc::clone(&known.exits),
        user: UserId::from(claims.uid),
        device: DeviceId::from(request.device_id),
        region: request.region,
        session: request.session_id.filter(|_| request.assign).map(SessionId::from),
        fresh: true,
        vouched: true,
        replaces: request.replaces.filter(|_| request.assign).map(SessionId::from),
        nodes: Vec::new(),
        exclude: request.exclude.into_iter().map(NodeId::from).collect(),
        client_version: request.client_version,
        now: state.now(),
        rules: state.rules.clone(),
        random: fresh_number(),
    };
    let (region, device, at) = (wish.region.clone(), wish.device, wish.now);
    let (from, version) = (wish.gateway.id, wish.client_version.clone());
    let mut conn = state.db.get().await?;
    match admit(&state, &mut conn, wish).await {
        Ok(admission) => Ok(Json(grant(&state, admission, &region)?)),
        Err(Rejected::Refused(Refusal::Code(code))) => {
            if let Some(support) = request.support_id.as_deref().filter(|_| code != SessionCode::InvalidToken) {
                let noted = dispatch!(&mut conn, refusals::refused(device, from, code, version, support, at));
                if let Err(error) = noted {
                    tracing::warn!(%error, "a refusal was not noted");
                }
            }
            Ok(refusal(code))
        }
        Err(other) => Err(other.into()),
    }
}

/// Decides on a wish, and remembers what comes of it; a session that is there already was asked for before.
async fn admit(
    state: &ControlState,
    conn: &mut DbConn,
    mut wish: AdmissionRequest,
) -> Result<Admission, Rejected<Refusal>> {
    let mut decided = decide(state, conn, &mut wish).await;
    if wish.fresh && matches!(decided, Err(Rejected::Refused(Refusal::SessionTaken))) {
        wish.fresh = false;
        decided = decide(state, conn, &mut wish).await;
    }
    let admission = decided?;
    if let Some((node, _)) = &admission.assigned {
        state.nodes.took(node.id);
    }
    if admission.event_seq.is_some() {
        state.events.notify();
    }
    if let Some(seen) = admission.seen.clone() {
        state.seen.note(wish.device, seen);
    }
    Ok(admission)
}

/// Chooses among the nodes that are remembered, and if none of them has a place among those that there are.
async fn decide(
    state: &ControlState,
    conn: &mut DbConn,
    wish: &mut AdmissionRequest,
) -> Result<Admission, Rejected<Refusal>> {
    let Some(region) = wish.region_id().filter(|_| wish.session.is_some()) else {
        return dispatch!(conn, admission::admit(wish));
    };
    if let Some(nodes) = state.nodes.remembered(region) {
        wish.nodes = wish.reachable(nodes);
        if !wish.nodes.is_empty() {
            let admission = dispatch!(conn, admission::admit(wish));
            if !matches!(admission, Err(Rejected::Refused(Refusal::Code(SessionCode::NoNodeAvailable)))) {
                return admission;
            }
        }
    }
    wish.nodes = wish.reachable(state.nodes.read(conn, region).await?);
    dispatch!(conn, admission::admit(wish))
}

fn refusal(code: SessionCode) -> Json<Validated> {
    Json(Validated { code: Some(code), ..Validated::default() })
}

fn grant(state: &ControlState, admission: Admission, region: &str) -> Result<Validated, ApiError> {
    let Admission { grant, assigned, allowed, event_seq: _, seen: _ } = admission;
    let (node, alternates) = match assigned {
        Some((node, others)) => {
            (Some(node_view(state, &node, region)?), others.into_iter().map(NodeId::uuid).collect())
        }
        None => (None, Vec::new()),
    };
    Ok(Validated {
        ok: true,
        code: None,
        user: Some(UserView { id: grant.user.id.uuid(), status: grant.user.status.to_string() }),
        limits: Some(LimitsView {
            max_sessions: grant.plan.max_sessions,
            rate_limit_mbps: grant.plan.rate_limit_mbps,
            traffic_limit_bytes: grant.limit,
        }),
        lease: allowed.map(|allowed| Lease { allowed, lasts_ms: millis(state.rules.reservation_ttl) }),
        fail_open_bytes: grant.plan.fail_open_bytes(),
        subscription: Some(SubscriptionView {
            id: grant.subscription.id.uuid(),
            valid_until: grant.subscription.valid_until.0,
            served_until: grant.subscription.served_until(&grant.plan).0,
            plan: grant.plan.name,
        }),
        remaining_bytes: grant.remaining,
        node,
        alternates,
    })
}

/// Assigns a node to a session
#[utoipa::path(post, path = "/nodes/assign-outline", tag = "gateways' calls", operation_id = "assign_node",
    request_body = AssignOutline, responses((status = OK, body = Assigned)))]
pub(in crate::control) async fn assign_outline(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Relayed(request): Relayed<AssignOutline>,
) -> Result<Json<Assigned>, ApiError> {
    let session = request.session_id.map_or_else(SessionId::fresh, SessionId::from);
    let wish = wish_of(&state, &known, &request, session);
    let mut conn = state.db.get().await?;
    let admission = admit(&state, &mut conn, wish).await.map_err(assign_error)?;
    let Some((node, alternates)) = admission.assigned else { return Err(ApiError::internal("no node was reserved")) };
    Ok(Json(Assigned {
        session_id: session.uuid(),
        node: node_view(&state, &node, &request.region)?,
        alternates: alternates.into_iter().map(NodeId::uuid).collect(),
    }))
}

fn wish_of(state: &ControlState, known: &Known, request: &AssignOutline, session: SessionId) -> AdmissionRequest {
    AdmissionRequest {
        gateway: known.gateway.clone(),
        exits: Arc::clone(&known.exits),
        user: UserId::from(request.user_id),
        device: DeviceId::from(request.device_id),
        region: request.region.clone(),
        session: Some(session),
        fresh: request.session_id.is_none(),
        vouched: request.access_token.as_ref().is_some_and(|token| {
            let claims = state.verifier.verify(token.expose(), state.clock.now());
            claims.is_ok_and(|claims| (claims.sub, claims.uid) == (request.device_id, request.user_id))
        }),
        replaces: None,
        nodes: Vec::new(),
        exclude: request.exclude.iter().copied().map(NodeId::from).collect(),
        client_version: None,
        now: state.now(),
        rules: state.rules.clone(),
        random: fresh_number(),
    }
}

/// Without a token there is no invalid token: the device or user is simply not there.
fn assign_error(rejected: Rejected<Refusal>) -> ApiError {
    match rejected {
        Rejected::Refused(Refusal::Code(SessionCode::InvalidToken)) => ApiError::not_found(),
        other @ (Rejected::Refused(_) | Rejected::Database(_)) => other.into(),
    }
}
