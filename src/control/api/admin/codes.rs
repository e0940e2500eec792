use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base32::grouped;
use crate::control::api::answer::{Created, Deleted, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, Path, Query};
use crate::control::api::page::{Page, pages, paging};
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::enrollment::fresh_code;
use crate::control::model::ActivationCode;
use crate::control::model::filter::CodeFilter;
use crate::control::model::id::{CodeId, DeviceId, UserId};
use crate::control::model::sort::CodeSort;
use crate::control::model::types::Time;
use crate::digest::sha256_hex;

const MAX_HOURS: u64 = 8784;

/// An activation code; what it says is kept nowhere.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ActivationCode)]
pub(super) struct CodeView {
    id: CodeId,
    user_id: UserId,
    created_at: Time,
    expires_at: Time,
    used_at: Option<Time>,
    /// The device that it made.
    device_id: Option<DeviceId>,
}

impl From<ActivationCode> for CodeView {
    fn from(row: ActivationCode) -> Self {
        let ActivationCode { id, user_id, code_hash: _, created_at, expires_at, used_at, device_id } = row;
        Self { id, user_id, created_at, expires_at, used_at, device_id }
    }
}

impl View for CodeView {}

/// An activation code with what it says, which is shown only now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FreshCode {
    #[serde(flatten)]
    row: CodeView,
    #[schema(examples("7KQ2-M9XD-4T6W-1RCF"))]
    code: String,
    /// `enrollment.link` with the code; null if that is not set.
    link: Option<String>,
}

impl View for FreshCode {}

/// A code to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "user_id": "01997b5e-7c00-7000-8000-000000000001", "hours": 48 })))]
pub(super) struct NewCode {
    user_id: UserId,
    /// How long it can be used; `enrollment.code_ttl` if absent.
    #[schema(minimum = 1, maximum = 8784)]
    hours: Option<u64>,
}

/// Which codes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CodeQuery {
    user_id: Option<UserId>,
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

pages! { CodeQuery => CodeSort }

/// Lists activation codes
#[utoipa::path(get, path = "/codes", tag = "codes", operation_id = "list_codes", params(CodeQuery),
    responses((status = OK, body = Page<CodeView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<CodeQuery>) -> Result<Json<Page<CodeView>>, ApiError> {
    let paging = paging(&query)?;
    let filter = CodeFilter { user: query.user_id };
    let found = dispatch!(&mut admin.read().await?, lists::codes(&filter, &paging))?;
    Page::of(found, &paging, CodeView::from)
}

/// Shows an activation code
#[utoipa::path(get, path = "/codes/{id}", tag = "codes", operation_id = "get_code",
    params(("id" = CodeId, Path)), responses((status = OK, body = CodeView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<CodeId>) -> Result<One<CodeView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, admin::get_code(id))?.into()))
}

/// Makes an activation code
///
/// It and its link are shown only now.
#[utoipa::path(post, path = "/codes", tag = "codes", operation_id = "create_code", request_body = NewCode,
    responses((status = CREATED, body = FreshCode)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewCode>) -> Result<Created<FreshCode>, ApiError> {
    let life = match new.hours {
        Some(hours @ 1..=MAX_HOURS) => Duration::from_hours(hours),
        Some(_) => return Err(ApiError::invalid("hours", "OUT_OF_RANGE", format!("must be 1 to {MAX_HOURS}"))),
        None => admin.state.enrollment.code_ttl,
    };
    let code = fresh_code().map_err(ApiError::internal)?;
    let row = ActivationCode {
        id: CodeId::fresh(),
        user_id: new.user_id,
        code_hash: sha256_hex(code.as_bytes()),
        created_at: admin.now,
        expires_at: admin.now.after(life),
        used_at: None,
        device_id: None,
    };
    dispatch!(&mut admin.write().await?, admin::create_code(&row))
        .map_err(|error| ApiError::from(error).unknown("user_id", "user"))?;
    let code = grouped(&code);
    let base = &admin.state.enrollment.link;
    let link = (!base.is_empty()).then(|| format!("{base}#{code}"));
    Ok(Created(FreshCode { row: row.into(), code, link }))
}

/// Deletes an activation code
#[utoipa::path(delete, path = "/codes/{id}", tag = "codes", operation_id = "delete_code",
    params(("id" = CodeId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<CodeId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::Code(id)).await
}
