use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{capacity, delivered, fresh, parsed, region};
use crate::api::ACCESS_KEYS_MAX;
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::model::OutlineNode;
use crate::control::model::id::NodeId;
use crate::control::runtime::ControlState;

/// Access keys, each of a node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::control::api::admin) struct Import {
    region: String,
    access_keys: Vec<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    max_sessions: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    weight: Option<i32>,
}

#[derive(Serialize)]
struct Made {
    line: usize,
    id: NodeId,
    name: String,
}

#[derive(Serialize)]
struct Failed {
    line: usize,
    code: String,
    detail: String,
}

/// What became of the keys; `line` counts them from 1.
#[derive(Serialize)]
struct Imported {
    created: Vec<Made>,
    failed: Vec<Failed>,
}

impl Failed {
    fn of(line: usize, error: ApiError) -> Self {
        Self { line, code: error.code, detail: error.detail.unwrap_or_default() }
    }
}

/// Makes a node of each key that is good and new.
pub(in crate::control::api::admin) async fn import(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(keys): Body<Import>,
) -> Result<Json<Value>, ApiError> {
    if keys.access_keys.is_empty() {
        return Err(ApiError::invalid("access_keys", "MISSING", "give at least one key"));
    }
    if keys.access_keys.len() > ACCESS_KEYS_MAX {
        return Err(ApiError::invalid("access_keys", "TOO_MANY", format!("at most {ACCESS_KEYS_MAX} at once")));
    }
    let capacity = capacity(keys.max_sessions, keys.weight)?;
    let region = region(&mut state.db.read().await?, "region", &keys.region).await?;
    let mut imported = Imported { created: Vec::new(), failed: Vec::new() };
    let (mut rows, mut lines): (Vec<OutlineNode>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut taken = HashMap::new();
    for (line, url) in (1..).zip(&keys.access_keys) {
        let row = parsed(url).and_then(|access| fresh(&state, region, (access.key, access.name), capacity));
        match row {
            Ok(row) => {
                let first = *taken.entry((row.internal_ip.clone(), row.ss_port)).or_insert(line);
                if first == line {
                    rows.push(row);
                    lines.push(line);
                } else {
                    let detail = format!("line {first} has the same address");
                    imported.failed.push(Failed::of(line, ApiError::conflict("CONFLICT", &detail)));
                }
            }
            Err(error) => imported.failed.push(Failed::of(line, error)),
        }
    }
    let (made, event_seq) = dispatch!(&mut state.db.get().await?, nodes::import(&rows, state.now()))?;
    let made: HashSet<NodeId> = made.into_iter().collect();
    for (line, row) in lines.into_iter().zip(rows) {
        if made.contains(&row.id) {
            imported.created.push(Made { line, id: row.id, name: row.name });
        } else {
            let detail = format!("there is a node at {}:{} already", row.internal_ip, row.ss_port);
            imported.failed.push(Failed::of(line, ApiError::conflict("CONFLICT", &detail)));
        }
    }
    imported.failed.sort_by_key(|failed| failed.line);
    delivered(&state, &imported, event_seq).await
}
