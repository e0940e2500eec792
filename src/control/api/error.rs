use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use diesel::result::{DatabaseErrorKind, Error as Diesel};

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
    pub(crate) devices: Vec<DeviceView>,
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &str) -> Self {
        Self { status, code: code.into(), detail: None, errors: Vec::new(), devices: Vec::new(), retry_after: None }
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
        if Fault::of(&error) != Fault::Statement {
            return Self::unavailable(&error.to_string());
        }
        match error {
            Diesel::NotFound => Self::not_found(),
            Diesel::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => {
                Self::conflict("CONFLICT", "something with the same name, identifier or address exists")
            }
            Diesel::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
                Self::conflict("IN_USE", "it refers to something that does not exist, or something refers to it")
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
            Refused::DeviceLimit(devices) => Self { devices, ..Self::refused(SessionCode::DeviceLimit) },
        }
    }
}
