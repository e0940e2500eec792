use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GatewayView, NewGateway, address, exits, shown, taken};
use crate::control::api::admin::text;
use crate::control::api::answer::{Created, Delivered, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, MaybeBody, Path};
use crate::control::api::refs::GatewayRef;
use crate::control::db::dispatch;
use crate::control::model::id::GatewayId;
use crate::control::model::revision::Expected;
use crate::control::model::state::GatewayStatus;
use crate::control::model::{Gateway, GatewayChange};
use crate::digest::{fresh_token, sha256_hex};

/// A gateway with a token, which is shown only now.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::control::api::admin) struct GatewayWithToken {
    #[serde(flatten)]
    gateway: GatewayView,
    token: String,
}

/// A gateway with a one-time token that it trades for one of its own; shown only now.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Invited {
    #[serde(flatten)]
    gateway: GatewayView,
    enroll_token: String,
}

impl View for GatewayWithToken {
    fn revision(&self) -> Option<i32> {
        self.gateway.revision()
    }
}

impl View for Invited {
    fn revision(&self) -> Option<i32> {
        self.gateway.revision()
    }
}

/// When the former token ends.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "now": true })))]
pub(in crate::control::api::admin) struct TokenRenewal {
    /// At once, and not when the new one is used.
    now: Option<bool>,
}

/// A secret and what is kept of it.
struct Fresh {
    token: String,
    hash: String,
}

fn secret() -> Result<Fresh, ApiError> {
    let token = fresh_token().map_err(ApiError::internal)?;
    let hash = sha256_hex(token.as_bytes());
    Ok(Fresh { token, hash })
}

/// Makes a gateway with a token, or with an invitation in its place; both are given by their hashes.
async fn insert(
    admin: &Admin,
    new: NewGateway,
    token_hash: String,
    invitation: Option<String>,
) -> Result<GatewayView, ApiError> {
    text("name", Some(&new.name))?;
    let mut conn = admin.write().await?;
    let row = Gateway {
        id: GatewayId::fresh(),
        region_id: new.region.given(&mut conn, "region").await?,
        name: new.name,
        public_ip: address("public_ip", new.public_ip)?.unwrap_or_default(),
        internal_ip: address("internal_ip", new.internal_ip)?.unwrap_or_default(),
        status: GatewayStatus::Unknown,
        draining: false,
        token_hash,
        old_token_hash: None,
        enrol_until: invitation.is_some().then(|| admin.now.after(admin.state.pool.gateway_code_ttl)),
        enrol_hash: invitation,
        revoked: false,
        acked_seq: 0,
        version: String::new(),
        sessions: 0,
        streams: 0,
        last_heartbeat_at: None,
        created_at: admin.now,
        clock_offset_ms: None,
        certificate_begins: None,
        certificate_ends: None,
        revision: 0,
    };
    let exits = exits(&mut conn, new.exit_regions.as_deref().unwrap_or_default()).await?;
    if let Err(error) = dispatch!(&mut conn, admin::create_gateway(&row, &exits)) {
        drop(conn);
        return Err(taken(admin, error.into(), &row.name).await);
    }
    shown(&mut conn, row).await
}

/// Makes a gateway
///
/// With its token, which is shown only now.
#[utoipa::path(post, path = "/gateways", tag = "gateways", operation_id = "create_gateway",
    request_body = NewGateway, responses((status = CREATED, body = GatewayWithToken)))]
pub(in crate::control::api::admin) async fn create(
    admin: Admin,
    Body(new): Body<NewGateway>,
) -> Result<Created<GatewayWithToken>, ApiError> {
    let fresh = secret()?;
    let gateway = insert(&admin, new, fresh.hash, None).await?;
    Ok(Created(GatewayWithToken { gateway, token: fresh.token }))
}

/// Invites a gateway
///
/// Makes one that has no token yet, and a one-time token that it trades for one.
#[utoipa::path(post, path = "/gateways/invite", tag = "gateways", operation_id = "invite_gateway",
    request_body = NewGateway, responses((status = CREATED, body = Invited)))]
pub(in crate::control::api::admin) async fn invite(
    admin: Admin,
    Body(new): Body<NewGateway>,
) -> Result<Created<Invited>, ApiError> {
    let (nobodys, invitation) = (secret()?, secret()?);
    let gateway = insert(&admin, new, nobodys.hash, Some(invitation.hash)).await?;
    Ok(Created(Invited { gateway, enroll_token: invitation.token }))
}

/// Invites a gateway again
///
/// Its token stays good until the one-time token is traded.
#[utoipa::path(post, path = "/gateways/{id}/invite", tag = "gateways", operation_id = "invite_gateway_again",
    params(("id" = GatewayRef, Path)), responses((status = CREATED, body = Invited)))]
pub(in crate::control::api::admin) async fn invite_again(
    admin: Admin,
    Path(gateway): Path<GatewayRef>,
) -> Result<Created<Invited>, ApiError> {
    let fresh = secret()?;
    let until = admin.now.after(admin.state.pool.gateway_code_ttl);
    let change = GatewayChange {
        enrol_hash: Some(Some(fresh.hash)),
        enrol_until: Some(Some(until)),
        ..GatewayChange::default()
    };
    let mut conn = admin.write().await?;
    let id = gateway.asked(&mut conn).await?;
    let row = dispatch!(&mut conn, admin::gateway::update(id, &change, &Expected::Any))?;
    let gateway = shown(&mut conn, row).await?;
    Ok(Created(Invited { gateway, enroll_token: fresh.token }))
}

/// Gives a gateway another token
///
/// The one in use stays good until the new one is used, or ends now.
#[utoipa::path(post, path = "/gateways/{id}/token", tag = "gateways", operation_id = "renew_gateway_token",
    params(("id" = GatewayRef, Path)), request_body = Option<TokenRenewal>,
    responses((status = CREATED, body = GatewayWithToken)))]
pub(in crate::control::api::admin) async fn rotate_token(
    admin: Admin,
    Path(gateway): Path<GatewayRef>,
    MaybeBody(renewal): MaybeBody<TokenRenewal>,
) -> Result<Created<GatewayWithToken>, ApiError> {
    let fresh = secret()?;
    let end = renewal.now.unwrap_or(false);
    let mut conn = admin.write().await?;
    let id = gateway.asked(&mut conn).await?;
    let renewed = dispatch!(&mut conn, nodes::renew_token(id, &fresh.hash, end))?;
    let row =
        renewed.ok_or_else(|| ApiError::conflict("REVOKED", "the gateway is revoked; invite it to let it back"))?;
    let gateway = shown(&mut conn, row).await?;
    Ok(Created(GatewayWithToken { gateway, token: fresh.token }))
}

/// Revokes a gateway
///
/// It is refused from now on, until it is invited again.
#[utoipa::path(post, path = "/gateways/{id}/revoke", tag = "gateways", operation_id = "revoke_gateway",
    params(("id" = GatewayRef, Path)), responses((status = OK, body = Delivered<GatewayView>)))]
pub(in crate::control::api::admin) async fn revoke(
    admin: Admin,
    Path(gateway): Path<GatewayRef>,
) -> Result<Delivered<GatewayView>, ApiError> {
    let mut conn = admin.write().await?;
    let id = gateway.asked(&mut conn).await?;
    let (row, event_seq) = dispatch!(&mut conn, nodes::revoke(id, admin.now))?;
    let view = shown(&mut conn, row).await?;
    drop(conn);
    Ok(Delivered::of(&admin.state, view, Some(event_seq)).await)
}
