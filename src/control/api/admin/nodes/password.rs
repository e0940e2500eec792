use serde::Deserialize;
use utoipa::ToSchema;

use super::{NodeView, refused};
use crate::control::api::answer::Delivered;
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, Path};
use crate::control::db::dispatch;
use crate::control::model::NodeChange;
use crate::control::model::id::NodeId;
use crate::control::model::revision::Expected;
use crate::shadowsocks::NodeKey;

/// Another password of a node, or the end of the former one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "password": "another horse battery staple" })))]
pub(in crate::control::api::admin) struct NewPassword {
    #[schema(write_only)]
    password: Option<String>,
    /// Forget the former one now, and move its streams.
    now: Option<bool>,
}

/// Gives a node another password
///
/// The former one stays good; with `now` it is forgotten and its streams are moved.
#[utoipa::path(post, path = "/nodes/{id}/password", tag = "nodes", operation_id = "change_node_password",
    params(("id" = NodeId, Path)), request_body = NewPassword, responses((status = OK, body = Delivered<NodeView>)))]
pub(in crate::control::api::admin) async fn password(
    admin: Admin,
    Path(id): Path<NodeId>,
    Body(new): Body<NewPassword>,
) -> Result<Delivered<NodeView>, ApiError> {
    let forget = new.now.unwrap_or(false);
    if new.password.is_none() && !forget {
        return Err(ApiError::invalid("password", "MISSING", "give a password, or now=true to forget the old one"));
    }
    let node = dispatch!(&mut admin.read().await?, admin::node::get(id))?;
    let mut change = NodeChange::default();
    if let Some(password) = new.password {
        let port = u16::try_from(node.ss_port).map_err(ApiError::internal)?;
        let key = NodeKey { host: node.internal_ip, port, method: node.ss_method, password };
        key.server_config().map_err(refused)?;
        change.ss_password =
            Some(admin.state.sealer.seal(node.id.as_bytes(), &key.password).map_err(ApiError::internal)?);
    }
    let changed =
        dispatch!(&mut admin.write().await?, nodes::change(node.id, &change, &Expected::Any, forget, admin.now))?;
    Ok(Delivered::of(&admin.state, changed.row.into(), changed.event_seq).await)
}
