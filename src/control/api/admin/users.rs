use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control::api::answer::{Created, Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::identifier::{self, IdentifierFault};
use crate::control::model::filter::UserFilter;
use crate::control::model::id::UserId;
use crate::control::model::sort::UserSort;
use crate::control::model::state::{IdentifierKind, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{NewEvent, User, UserChange};
use crate::frame::SessionCode;

/// A customer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(in crate::control::api) struct UserView {
    id: UserId,
    identifier_kind: IdentifierKind,
    /// What the user is known by, in its one spelling.
    #[schema(examples("ann@example.com"))]
    identifier: String,
    status: UserStatus,
    created_at: Time,
    updated_at: Time,
    /// Counts administrators' changes; the `ETag` is made of it.
    revision: i32,
}

impl From<User> for UserView {
    fn from(row: User) -> Self {
        let User { id, identifier_kind, identifier, status, created_at, updated_at, revision } = row;
        Self { id, identifier_kind, identifier, status, created_at, updated_at, revision }
    }
}

impl View for UserView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A user to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "identifier": "ann@example.com" })))]
pub(super) struct NewUser {
    /// An e-mail address, a telephone number with its country code, or a Telegram id.
    #[schema(min_length = 1, max_length = 255)]
    identifier: String,
    /// What the identifier is; made out from it if absent.
    identifier_kind: Option<IdentifierKind>,
    /// `active` if absent.
    status: Option<UserStatus>,
}

/// What is to be changed of a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "status": "banned" })))]
pub(super) struct UserPatch {
    #[schema(min_length = 1, max_length = 255)]
    identifier: Option<String>,
    identifier_kind: Option<IdentifierKind>,
    status: Option<UserStatus>,
}

/// Which users.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UserQuery {
    /// Known by exactly this, however it is written, whatever its kind.
    identifier: Option<String>,
    /// Known by what begins with this.
    identifier_prefix: Option<String>,
    identifier_kind: Option<IdentifierKind>,
    status: Option<UserStatus>,
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

pages! { UserQuery => UserSort }

fn fault(fault: IdentifierFault) -> ApiError {
    let code = if fault == IdentifierFault::TooLong { "TOO_LONG" } else { "INVALID" };
    ApiError::invalid("identifier", code, fault.to_string())
}

/// Names the user who has an identifier already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, kind: IdentifierKind, identifier: &str) -> ApiError {
    existing!(admin, error, names::user(kind, identifier), format!("a user with this {} exists", kind.in_words()))
}

/// Lists users
#[utoipa::path(get, path = "/users", tag = "users", operation_id = "list_users", params(UserQuery),
    responses((status = OK, body = Page<UserView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<UserQuery>) -> Result<Json<Page<UserView>>, ApiError> {
    let paging = paging(&query)?;
    let prefix = query.identifier_prefix.map(|prefix| prefix.trim_start().to_owned());
    let filter = UserFilter {
        identifiers: query.identifier.map(|text| identifier::candidates(&text)),
        prefix: prefix.filter(|prefix| !prefix.is_empty()),
        kind: query.identifier_kind,
        status: query.status,
    };
    let found = dispatch!(&mut admin.read().await?, lists::users(&filter, &paging))?;
    Page::of(found, &paging, UserView::from)
}

/// Shows a user
#[utoipa::path(get, path = "/users/{id}", tag = "users", operation_id = "get_user",
    params(("id" = UserId, Path)), responses((status = OK, body = UserView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<UserId>) -> Result<One<UserView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, admin::user::get(id))?.into()))
}

/// Makes a user
#[utoipa::path(post, path = "/users", tag = "users", operation_id = "create_user", request_body = NewUser,
    responses((status = CREATED, body = UserView)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewUser>) -> Result<Created<UserView>, ApiError> {
    let kind = new.identifier_kind.unwrap_or_else(|| identifier::kind_of(&new.identifier));
    let row = User {
        id: UserId::fresh(),
        identifier_kind: kind,
        identifier: identifier::canonical(kind, &new.identifier).map_err(fault)?,
        status: new.status.unwrap_or(UserStatus::Active),
        created_at: admin.now,
        updated_at: admin.now,
        revision: 0,
    };
    let made = dispatch!(&mut admin.write().await?, admin::create_user(&row));
    match made {
        Ok(()) => Ok(Created(row.into())),
        Err(error) => Err(taken(&admin, error.into(), kind, &row.identifier).await),
    }
}

/// Changes a user
///
/// One who is banned loses the tunnels at once.
#[utoipa::path(patch, path = "/users/{id}", tag = "users", operation_id = "update_user",
    params(("id" = UserId, Path)), request_body = UserPatch, responses((status = OK, body = Delivered<UserView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(id): Path<UserId>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<UserPatch>,
) -> Result<Delivered<UserView>, ApiError> {
    let kind = match (patch.identifier_kind, &patch.identifier) {
        (None, Some(_)) => Some(dispatch!(&mut admin.read().await?, admin::user::get(id))?.identifier_kind),
        (kind, _) => kind,
    };
    let named = match (kind, &patch.identifier) {
        (Some(kind), Some(text)) => Some((kind, identifier::canonical(kind, text).map_err(fault)?)),
        (Some(_), None) => {
            return Err(ApiError::invalid("identifier", "MISSING", "another kind needs another identifier"));
        }
        (None, _) => None,
    };
    let change = UserChange {
        identifier_kind: named.as_ref().map(|(kind, _)| *kind),
        identifier: named.as_ref().map(|(_, identifier)| identifier.clone()),
        status: patch.status,
        updated_at: Some(admin.now),
    };
    let event = patch.status.map(|status| match status {
        UserStatus::Banned => NewEvent::UserStopped(id, SessionCode::UserBanned),
        UserStatus::Pending => NewEvent::UserStopped(id, SessionCode::UserPending),
        UserStatus::Active => NewEvent::UserChanged(id),
    });
    let changed = dispatch!(&mut admin.write().await?, admin::change_user(id, &change, &expected, event, admin.now));
    match (changed, named) {
        (Ok(changed), _) => Ok(Delivered::of(&admin.state, changed.row.into(), changed.event_seq).await),
        (Err(error), Some((kind, identifier))) => Err(taken(&admin, error.into(), kind, &identifier).await),
        (Err(error), None) => Err(error.into()),
    }
}

/// Deletes a user
///
/// With everything that belongs to the user; the tunnels end at once.
#[utoipa::path(delete, path = "/users/{id}", tag = "users", operation_id = "delete_user",
    params(("id" = UserId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<UserId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::User(id)).await
}
