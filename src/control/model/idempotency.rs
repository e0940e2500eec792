use diesel::prelude::*;

use crate::control::model::schema::idempotent_requests;
use crate::control::model::types::Time;

/// A request with an `Idempotency-Key`; it is under way until it has an answer.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = idempotent_requests)]
pub struct IdempotentRequest {
    pub key_hash: String,
    pub fingerprint: String,
    #[diesel(embed)]
    pub answer: StoredAnswer,
    pub created_at: Time,
}

/// The answer of such a request; its body is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = idempotent_requests)]
pub struct StoredAnswer {
    pub status: Option<i32>,
    pub body: Option<String>,
    pub etag: Option<String>,
}
