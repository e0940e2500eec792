use diesel::prelude::*;

use crate::api::EventKind;
use crate::control::model::schema::events;
use crate::control::model::types::{Id, Time};
use crate::frame::SessionCode;

/// A change that gateways hear of.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = events)]
pub struct EventRow {
    pub seq: i64,
    pub kind: String,
    pub subject: Option<Id>,
    pub code: Option<String>,
    pub created_at: Time,
}

/// What a transaction tells gateways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emit {
    pub(crate) kind: EventKind,
    /// The user, device, session, plan, node or gateway.
    pub(crate) subject: Option<Id>,
    /// How sessions end.
    pub(crate) code: Option<SessionCode>,
}

impl Emit {
    /// An event that ends nothing by itself.
    pub(crate) fn changed(kind: EventKind, subject: Id) -> Self {
        Self { kind, subject: Some(subject), code: None }
    }

    /// An event that ends sessions with a code.
    pub(crate) fn stopped(kind: EventKind, subject: Id, code: SessionCode) -> Self {
        Self { kind, subject: Some(subject), code: Some(code) }
    }
}
