use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::text;
use crate::control::api::answer::{Created, Deleted, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::RegionRef;
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::catalog;
use crate::control::model::id::RegionId;
use crate::control::model::sort::RegionSort;
use crate::control::model::{Region, RegionChange};

const LANGUAGES_MAX: usize = 200;
const LANGUAGE_LENGTH: usize = 35;
const RESOLVERS_MAX: usize = 8;

/// Where traffic leaves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Region)]
pub(super) struct RegionView {
    id: RegionId,
    #[schema(examples("eu-1"))]
    code: String,
    name: String,
    /// By language (BCP 47).
    names: BTreeMap<String, String>,
    /// ISO 3166 code of the country that destinations see; empty if it is not said.
    exit_country: String,
    udp: bool,
    ipv6: bool,
    /// IP addresses.
    resolvers: Vec<String>,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl From<Region> for RegionView {
    fn from(row: Region) -> Self {
        let shown = catalog::RegionView::from(&row);
        Self {
            id: row.id,
            code: shown.code,
            name: shown.name,
            names: shown.names,
            exit_country: shown.exit_country,
            udp: shown.udp,
            ipv6: shown.ipv6,
            resolvers: shown.resolvers,
            revision: row.revision,
        }
    }
}

impl View for RegionView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A region to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "code": "eu-1", "name": "Germany", "exit_country": "DE" })))]
pub(super) struct NewRegion {
    #[schema(min_length = 1, max_length = 255)]
    code: String,
    /// The code if absent.
    #[schema(max_length = 255)]
    name: Option<String>,
    /// By language (BCP 47).
    names: Option<BTreeMap<String, String>>,
    #[schema(pattern = "^([A-Z]{2})?$")]
    exit_country: Option<String>,
    /// True if absent.
    udp: Option<bool>,
    /// False if absent.
    ipv6: Option<bool>,
    /// IP addresses.
    #[schema(max_items = 8)]
    resolvers: Option<Vec<String>>,
}

/// What is to be changed of a region.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "names": { "de": "Deutschland" } })))]
pub(super) struct RegionPatch {
    #[schema(min_length = 1, max_length = 255)]
    code: Option<String>,
    #[schema(max_length = 255)]
    name: Option<String>,
    /// By language (BCP 47).
    names: Option<BTreeMap<String, String>>,
    #[schema(pattern = "^([A-Z]{2})?$")]
    exit_country: Option<String>,
    udp: Option<bool>,
    ipv6: Option<bool>,
    /// IP addresses.
    #[schema(max_items = 8)]
    resolvers: Option<Vec<String>>,
}

/// Which regions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RegionQuery {
    /// A field, or `-` and a field for the other direction.
    #[param(inline)]
    sort: Option<Sorting>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Also count the items of all pages.
    count: Option<bool>,
}

pages! { RegionQuery => RegionSort }

impl RegionPatch {
    fn change(self) -> Result<RegionChange, ApiError> {
        text("code", self.code.as_deref())?;
        text("name", self.name.as_deref().filter(|name| !name.is_empty()))?;
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

/// Names the region that has a code already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, code: &str) -> ApiError {
    existing!(admin, error, names::region_coded(code), format!("a region {code:?} exists"))
}

/// Lists regions
#[utoipa::path(get, path = "/regions", tag = "regions", operation_id = "list_regions", params(RegionQuery),
    responses((status = OK, body = Page<RegionView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<RegionQuery>) -> Result<Json<Page<RegionView>>, ApiError> {
    let paging = paging(&query)?;
    let found = dispatch!(&mut admin.read().await?, lists::regions(&(), &paging))?;
    Page::of(found, &paging, RegionView::from)
}

/// Shows a region
#[utoipa::path(get, path = "/regions/{id}", tag = "regions", operation_id = "get_region",
    params(("id" = RegionRef, Path)), responses((status = OK, body = RegionView)))]
pub(super) async fn get(admin: Admin, Path(region): Path<RegionRef>) -> Result<One<RegionView>, ApiError> {
    let mut conn = admin.read().await?;
    let id = region.asked(&mut conn).await?;
    Ok(One(dispatch!(&mut conn, admin::region::get(id))?.into()))
}

/// Makes a region
#[utoipa::path(post, path = "/regions", tag = "regions", operation_id = "create_region", request_body = NewRegion,
    responses((status = CREATED, body = RegionView)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewRegion>) -> Result<Created<RegionView>, ApiError> {
    let code = new.code.clone();
    let given = RegionPatch {
        code: Some(new.code),
        name: new.name,
        names: new.names,
        exit_country: new.exit_country,
        udp: new.udp,
        ipv6: new.ipv6,
        resolvers: new.resolvers,
    };
    let given = given.change()?;
    let row = Region {
        id: RegionId::fresh(),
        name: given.name.unwrap_or_else(|| code.clone()),
        code,
        names: given.names.unwrap_or_else(|| "{}".into()),
        exit_country: given.exit_country.unwrap_or_default(),
        udp: given.udp.unwrap_or(true),
        ipv6: given.ipv6.unwrap_or(false),
        resolvers: given.resolvers.unwrap_or_default(),
        revision: 0,
    };
    let made = dispatch!(&mut admin.write().await?, admin::create_region(&row));
    match made {
        Ok(()) => Ok(Created(row.into())),
        Err(error) => Err(taken(&admin, error.into(), &row.code).await),
    }
}

/// Changes a region
#[utoipa::path(patch, path = "/regions/{id}", tag = "regions", operation_id = "update_region",
    params(("id" = RegionRef, Path)), request_body = RegionPatch, responses((status = OK, body = RegionView)))]
pub(super) async fn update(
    admin: Admin,
    Path(region): Path<RegionRef>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<RegionPatch>,
) -> Result<One<RegionView>, ApiError> {
    let change = patch.change()?;
    let mut conn = admin.write().await?;
    let id = region.asked(&mut conn).await?;
    let changed = dispatch!(&mut conn, admin::region::update(id, &change, &expected));
    drop(conn);
    match (changed, change.code) {
        (Ok(row), _) => Ok(One(row.into())),
        (Err(error), Some(code)) => Err(taken(&admin, error.into(), &code).await),
        (Err(error), None) => Err(error.into()),
    }
}

/// Deletes a region in which nothing is
#[utoipa::path(delete, path = "/regions/{id}", tag = "regions", operation_id = "delete_region",
    params(("id" = RegionRef, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(region): Path<RegionRef>) -> Result<Deleted, ApiError> {
    let id = region.asked(&mut admin.read().await?).await?;
    admin.delete(Deletable::Region(id)).await
}
