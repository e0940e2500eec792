use diesel::prelude::*;

use crate::control::model::schema::events;
use crate::control::model::types::{Id, Time};

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
