use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use diesel::result::{DatabaseErrorKind, Error as Diesel};
use uuid::Uuid;

use crate::api::{DeviceView, FieldError};
use crate::control::db::fault::Fault;
use crate::control::db::{DbError, Rejected};
use crate::control::domain::admission::Refusal;
use crate::control::domain::enrollment::Refused;
use crate::frame::SessionCode;

/// Why a request is refused; answered as problem+json by the router's outermost layer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) detail: Option<String>,
    pub(crate) errors: Vec<FieldError>,
    pub(crate) devices: Box<[DeviceView]>,
    pub(crate) retry_after: Option<u32>,
    /// What is in the way.
    pub(crate) existing: Option<Uuid>,
    /// Whether the database may have done it nevertheless.
    pub(crate) is_unsure: bool,
}

/// Something with the same name is there.
const CONFLICT: &str = "CONFLICT";
/// Something refers to it, or it refers to nothing.
const IN_USE: &str = "IN_USE";

impl ApiError {
    fn new(status: StatusCode, code: &str) -> Self {
        Self {
            status,
            code: code.into(),
            detail: None,
            errors: Vec::new(),
            devices: Box::default(),
            retry_after: None,
            existing: None,
            is_unsure: false,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
    }

    pub(crate) fn forbidden(detail: &str) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(StatusCode::FORBIDDEN, "FORBIDDEN") }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND")
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST") }
    }

    pub(crate) fn invalid(field: &str, code: &str, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            errors: vec![FieldError { field: field.into(), code: code.into() }],
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID")
        }
    }

    pub(crate) fn conflict(code: &str, detail: &str) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(StatusCode::CONFLICT, code) }
    }

    /// Whether something with the same name is there.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code == CONFLICT
    }

    /// Whether something refers to what was to be deleted.
    pub(crate) fn is_in_use(&self) -> bool {
        self.code == IN_USE
    }

    /// Something with the same name is there, and which.
    pub(crate) fn exists(what: impl std::fmt::Display, id: Uuid) -> Self {
        Self::conflict(CONFLICT, "").because(what, id)
    }

    /// The same error, with what is in the way.
    pub(crate) fn because(self, what: impl std::fmt::Display, id: Uuid) -> Self {
        Self { detail: Some(format!("{what}: {id}")), existing: Some(id), ..self }
    }

    /// The same error; if a row refers to nothing, that is the one of a field.
    pub(crate) fn unknown(self, field: &str, what: &str) -> Self {
        if self.is_in_use() {
            Self::invalid(field, "UNKNOWN", format!("there is no {what} with this id"))
        } else {
            self
        }
    }

    /// The row is of another revision than the change is meant for.
    fn stale() -> Self {
        let detail = "it was changed meanwhile: read it again, and send its ETag";
        Self { detail: Some(detail.into()), ..Self::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED") }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other variant is treated alike")]
    pub(crate) fn refused(code: SessionCode) -> Self {
        let status = match code {
            SessionCode::UnknownRegion => StatusCode::NOT_FOUND,
            SessionCode::NoNodeAvailable | SessionCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            SessionCode::DeviceLimit | SessionCode::TooManySessions => StatusCode::CONFLICT,
            _ => StatusCode::FORBIDDEN,
        };
        Self::new(status, code.as_str())
    }

    fn unavailable(cause: &str) -> Self {
        tracing::warn!(cause, "the database is not available");
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "DATABASE_UNAVAILABLE") }
    }

    /// It took longer than `control.request_timeout`.
    pub(crate) fn given_up() -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::GATEWAY_TIMEOUT, "GATEWAY_TIMEOUT") }
    }

    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Diesel> for ApiError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other variant is treated alike")]
    fn from(error: Diesel) -> Self {
        let fault = Fault::of(&error);
        if fault != Fault::Statement {
            let is_unsure = matches!(fault, Fault::Connection | Fault::Unanswered);
            return Self { is_unsure, ..Self::unavailable(&error.to_string()) };
        }
        match error {
            Diesel::NotFound => Self::not_found(),
            Diesel::RollbackTransaction => Self::stale(),
            Diesel::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => {
                Self::conflict(CONFLICT, "something with the same name, identifier or address exists")
            }
            Diesel::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
                Self::conflict(IN_USE, "it refers to something that does not exist, or something refers to it")
            }
            Diesel::DatabaseError(DatabaseErrorKind::CheckViolation, info) => Self::invalid(
                info.column_name().or(info.constraint_name()).unwrap_or("body"),
                "OUT_OF_RANGE",
                info.message(),
            ),
            other => Self::internal(other),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Query(error) => error.into(),
            DbError::Unavailable(cause) => Self::unavailable(&cause),
        }
    }
}

impl<R> From<Rejected<R>> for ApiError
where
    Self: From<R>,
{
    fn from(rejected: Rejected<R>) -> Self {
        match rejected {
            Rejected::Refused(reason) => reason.into(),
            Rejected::Database(error) => error.into(),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Code(code) => Self::refused(code),
            Refusal::SessionTaken => Self::conflict("SESSION_TAKEN", "the session id is another device's or gateway's"),
            Refusal::NotVouched => {
                Self::forbidden("without a fresh token of the device a gateway moves only its own live sessions")
            }
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Code => Self::new(StatusCode::NOT_FOUND, "INVALID_CODE"),
            Refused::Token | Refused::Reused(_) => {
                Self::new(StatusCode::UNAUTHORIZED, SessionCode::InvalidToken.as_str())
            }
            Refused::Banned(code) => Self::refused(code),
            Refused::Replace => Self::invalid("replace", "UNKNOWN", "the user has no such device"),
            Refused::DeviceLimit(devices) => {
                Self { devices: devices.into(), ..Self::refused(SessionCode::DeviceLimit) }
            }
        }
    }
}
