use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::{Created, Listed, Paged, created, listed, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::domain::catalog::RegionView;
use crate::control::model::id::RegionId;
use crate::control::model::{Region, RegionChange};
use crate::control::runtime::ControlState;

const LANGUAGES_MAX: usize = 200;
const LANGUAGE_LENGTH: usize = 35;
const RESOLVERS_MAX: usize = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    code: Option<String>,
    name: Option<String>,
    #[serde(default, deserialize_with = "names")]
    names: Option<BTreeMap<String, String>>,
    exit_country: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    udp: Option<bool>,
    #[serde(default, deserialize_with = "lenient::value")]
    ipv6: Option<bool>,
    #[serde(default, deserialize_with = "lenient::list")]
    resolvers: Option<Vec<String>>,
}

/// An object, or its JSON as text; empty text is an empty object.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        Object(BTreeMap<String, String>),
        Text(String),
    }
    match Option::<Names>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Names::Object(names)) => Ok(Some(names)),
        Some(Names::Text(text)) if text.trim().is_empty() => Ok(Some(BTreeMap::new())),
        Some(Names::Text(text)) => serde_json::from_str(&text).map(Some).map_err(D::Error::custom),
    }
}

impl Fields {
    fn change(self) -> Result<RegionChange, ApiError> {
        text("code", self.code.as_deref())?;
        Ok(RegionChange {
            names: self.names.map(|names| localised(&names)).transpose()?,
            exit_country: self.exit_country.map(country).transpose()?,
            resolvers: self.resolvers.map(|list| addresses(&list)).transpose()?,
            code: self.code,
            name: self.name,
            udp: self.udp,
            ipv6: self.ipv6,
        })
    }
}

fn localised(names: &BTreeMap<String, String>) -> Result<String, ApiError> {
    if names.len() > LANGUAGES_MAX {
        return Err(ApiError::invalid("names", "TOO_MANY", format!("at most {LANGUAGES_MAX} languages")));
    }
    for (language, name) in names {
        let fits = (1..=LANGUAGE_LENGTH).contains(&language.len());
        if !fits || !language.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(ApiError::invalid("names", "INVALID", format!("{language:?} is no language tag (BCP 47)")));
        }
        text("names", Some(name))?;
    }
    serde_json::to_string(names).map_err(ApiError::internal)
}

fn country(code: String) -> Result<String, ApiError> {
    if code.is_empty() || (code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())) {
        return Ok(code);
    }
    Err(ApiError::invalid("exit_country", "INVALID", "must be two capital letters (ISO 3166) or empty"))
}

fn addresses(list: &[String]) -> Result<String, ApiError> {
    if list.len() > RESOLVERS_MAX {
        return Err(ApiError::invalid("resolvers", "TOO_MANY", format!("at most {RESOLVERS_MAX}")));
    }
    let mut addresses = Vec::new();
    for item in list {
        match item.trim().parse::<IpAddr>() {
            Ok(address) => addresses.push(address.to_string()),
            Err(_) => return Err(ApiError::invalid("resolvers", "INVALID", format!("{item:?} is no IP address"))),
        }
    }
    Ok(addresses.join(","))
}

/// A region as it is answered.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: RegionId,
    #[serde(flatten)]
    region: RegionView,
}

impl From<&Region> for Shown {
    fn from(row: &Region) -> Self {
        Self { id: row.id, region: RegionView::from(row) }
    }
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_regions(page.after(), limit))?;
    let shown: Vec<Shown> = rows.iter().map(Shown::from).collect();
    listed(&shown, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<RegionId>,
) -> Result<Json<Shown>, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::region::get(id))?;
    Ok(Json(Shown::from(&row)))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<Fields>,
) -> Result<Created, ApiError> {
    let new = new.change()?;
    let code = new.code.ok_or_else(|| ApiError::invalid("code", "MISSING", "missing field `code`"))?;
    let row = Region {
        id: RegionId::fresh(),
        name: new.name.unwrap_or_else(|| code.clone()),
        code,
        names: new.names.unwrap_or_else(|| "{}".into()),
        exit_country: new.exit_country.unwrap_or_default(),
        udp: new.udp.unwrap_or(true),
        ipv6: new.ipv6.unwrap_or(false),
        resolvers: new.resolvers.unwrap_or_default(),
    };
    dispatch!(&mut state.db.get().await?, admin::create_region(&row))?;
    created(&Shown::from(&row))
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<RegionId>,
    Body(patch): Body<Fields>,
) -> Result<Json<Shown>, ApiError> {
    let change = patch.change()?;
    let row = dispatch!(&mut state.db.get().await?, admin::region::update(id, &change))?;
    Ok(Json(Shown::from(&row)))
}
