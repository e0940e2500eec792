use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{capacity, fresh, parsed};
use crate::api::ACCESS_KEYS_MAX;
use crate::control::api::answer::{Delivered, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body};
use crate::control::api::refs::RegionRef;
use crate::control::db::dispatch;
use crate::control::model::OutlineNode;
use crate::control::model::id::NodeId;

/// Access keys, each of a node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "region": "eu-1",
    "access_keys": ["ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpzZWNyZXQ@10.0.0.6:8388#fra-6"]
})))]
pub(in crate::control::api::admin) struct Import {
    /// The region's code or id.
    region: RegionRef,
    #[schema(min_items = 1, max_items = 1000)]
    access_keys: Vec<String>,
    #[schema(minimum = 0)]
    max_sessions: Option<i32>,
    #[schema(minimum = 1)]
    weight: Option<i32>,
}

/// A key that became a node.
#[derive(Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Made {
    /// Counts the keys from 1.
    line: usize,
    id: NodeId,
    name: String,
}

/// A key that did not.
#[derive(Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Failed {
    /// Counts the keys from 1.
    line: usize,
    code: String,
    detail: String,
}

/// What became of the keys.
#[derive(Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Imported {
    created: Vec<Made>,
    failed: Vec<Failed>,
}

impl View for Imported {}

impl Failed {
    fn of(line: usize, error: ApiError) -> Self {
        Self { line, code: error.code, detail: error.detail.unwrap_or_default() }
    }
}

/// Makes a node of each access key that is good and new
#[utoipa::path(post, path = "/nodes/import", tag = "nodes", operation_id = "import_nodes", request_body = Import,
    responses((status = OK, body = Delivered<Imported>)))]
pub(in crate::control::api::admin) async fn import(
    admin: Admin,
    Body(keys): Body<Import>,
) -> Result<Delivered<Imported>, ApiError> {
    if keys.access_keys.is_empty() {
        return Err(ApiError::invalid("access_keys", "MISSING", "give at least one key"));
    }
    if keys.access_keys.len() > ACCESS_KEYS_MAX {
        return Err(ApiError::invalid("access_keys", "TOO_MANY", format!("at most {ACCESS_KEYS_MAX} at once")));
    }
    let capacity = capacity(keys.max_sessions, keys.weight)?;
    let region = keys.region.given(&mut admin.read().await?, "region").await?;
    let mut imported = Imported { created: Vec::new(), failed: Vec::new() };
    let (mut rows, mut lines): (Vec<OutlineNode>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut taken = HashMap::new();
    for (line, url) in (1..).zip(&keys.access_keys) {
        let row = parsed(url).and_then(|access| fresh(&admin.state, region, access, capacity, admin.now));
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
    let (made, event_seq) = dispatch!(&mut admin.write().await?, nodes::import(&rows, admin.now))?;
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
    Ok(Delivered::of(&admin.state, imported, event_seq).await)
}
