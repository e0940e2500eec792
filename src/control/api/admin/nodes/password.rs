use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::Value;

use super::{Shown, delivered, refused};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::model::NodeChange;
use crate::control::model::id::NodeId;
use crate::control::runtime::ControlState;
use crate::shadowsocks::NodeKey;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::control::api::admin) struct NewPassword {
    #[serde(alias = "ss_password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    now: Option<bool>,
}

/// Gives a node another password, the old one staying good; with `now`, forgets the old one and moves its streams.
pub(in crate::control::api::admin) async fn password(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<NodeId>,
    Body(new): Body<NewPassword>,
) -> Result<Json<Value>, ApiError> {
    let forget = new.now.unwrap_or(false);
    if new.password.is_none() && !forget {
        return Err(ApiError::invalid("password", "MISSING", "give a password, or now=true to forget the old one"));
    }
    let node = dispatch!(&mut state.db.read().await?, admin::node::get(id))?;
    let mut change = NodeChange::default();
    if let Some(password) = new.password {
        let port = u16::try_from(node.ss_port).map_err(ApiError::internal)?;
        let key = NodeKey { host: node.internal_ip, port, method: node.ss_method, password };
        key.server_config().map_err(refused)?;
        change.ss_password = Some(state.sealer.seal(node.id, &key.password).map_err(ApiError::internal)?);
    }
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, nodes::change(node.id, &change, forget, state.now()))?;
    delivered(&state, &Shown::from(row), event_seq).await
}
