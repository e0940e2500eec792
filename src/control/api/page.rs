//! Pages of lists (docs/02, "Lists").

use std::borrow::Cow;

use axum::Json;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::error::ApiError;
use crate::control::model::list::{Cursor, Found, Key, Order, Paging, SortKey, Sorted};
use crate::control::model::types::Time;

/// Items of a page, and the most of them; the contract says so.
const USUAL: i64 = 50;
const MOST: i64 = 200;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The `cursor` of the next page; null on the last.
    #[schema(required)]
    pub(crate) next: Option<String>,
    /// Items of all pages, if `count=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) total: Option<i64>,
}

/// A key, or a key behind a `-` for the other direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sort<S>(pub(crate) Order<S>);

impl<S: SortKey> Sort<S> {
    fn read(text: &str) -> Option<Self> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let by = S::KEYS.iter().copied().find(|key| key.name() == name)?;
        Some(Self(Order { by, descending }))
    }

    fn names() -> Vec<String> {
        S::KEYS.iter().flat_map(|key| [key.name().to_owned(), format!("-{}", key.name())]).collect()
    }
}

impl<'de, S: SortKey> Deserialize<'de> for Sort<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| D::Error::custom(format_args!("must be one of {}", Self::names().join(", "))))
    }
}

impl<S: SortKey> PartialSchema for Sort<S> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Self::names())).into()
    }
}

impl<S: SortKey> ToSchema for Sort<S> {}

/// What every list is asked.
pub(crate) trait ListQuery {
    type Key: SortKey;

    fn sort(&self) -> Option<Sort<Self::Key>>;
    fn limit(&self) -> Option<i64>;
    fn cursor(&self) -> Option<&str>;
    fn count(&self) -> bool;
}

/// Lets a query's fields `sort`, `limit`, `cursor` and `count` ask for a page.
macro_rules! pages {
    ($query:ty => $key:ty) => {
        /// The orders that can be asked for.
        type Sorting = $crate::control::api::page::Sort<$key>;

        impl $crate::control::api::page::ListQuery for $query {
            type Key = $key;

            fn sort(&self) -> Option<Sorting> {
                self.sort
            }

            fn limit(&self) -> Option<i64> {
                self.limit
            }

            fn cursor(&self) -> Option<&str> {
                self.cursor.as_deref()
            }

            fn count(&self) -> bool {
                self.count.unwrap_or(false)
            }
        }
    };
}
pub(crate) use pages;

/// What a cursor says, as JSON in base 64.
#[derive(Serialize, Deserialize)]
struct Place<'a> {
    /// The order that it is of.
    #[serde(borrow)]
    sort: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    time: Option<OffsetDateTime>,
    id: Uuid,
}

fn sign<S: SortKey>(order: Order<S>) -> String {
    format!("{}{}", if order.descending { "-" } else { "" }, order.by.name())
}

fn written<S: SortKey>(order: Order<S>, cursor: Cursor) -> Result<String, ApiError> {
    let (text, time) = match cursor.key {
        Key::Text(text) => (Some(text), None),
        Key::Time(time) => (None, Some(time.0)),
        Key::Id => (None, None),
    };
    let place = Place { sort: sign(order).into(), text, time, id: cursor.id };
    serde_json::to_vec(&place).map(|json| BASE64_URL_SAFE_NO_PAD.encode(json)).map_err(ApiError::internal)
}

fn read<S: SortKey>(order: Order<S>, text: &str) -> Result<Cursor, ApiError> {
    let bad = |detail: &str| ApiError::invalid("cursor", "INVALID", detail);
    let json = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("must be the `next` of a page of this list"))?;
    let place: Place = serde_json::from_slice(&json).map_err(|_| bad("must be the `next` of a page of this list"))?;
    if place.sort != sign(order) {
        return Err(bad("is of another order: ask for the first page again"));
    }
    if place.text.as_ref().is_some_and(|text| text.contains(char::is_control)) {
        return Err(bad("must be the `next` of a page of this list"));
    }
    let key = match (place.text, place.time) {
        (Some(text), _) => Key::Text(text),
        (None, Some(time)) => Key::Time(Time(time)),
        (None, None) => Key::Id,
    };
    Ok(Cursor { key, id: place.id })
}

/// The page that a query asks for.
pub(crate) fn paging<Q: ListQuery>(query: &Q) -> Result<Paging<Q::Key>, ApiError> {
    let limit = query.limit().unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::invalid("limit", "OUT_OF_RANGE", format!("must be 1 to {MOST}")));
    }
    let first = || Q::Key::KEYS.first().copied().map(|by| Order { by, descending: false });
    let order = query.sort().map(|sort| sort.0).or_else(first);
    let order = order.ok_or_else(|| ApiError::internal("a list without an order"))?;
    let after = query.cursor().map(|text| read(order, text)).transpose()?;
    Ok(Paging { order, after, limit, count: query.count() })
}

impl<T> Page<T> {
    /// The page that was found, each row as it is shown.
    pub(crate) fn of<R, S>(found: Found<R>, paging: &Paging<S>, show: impl Fn(R) -> T) -> Result<Json<Self>, ApiError>
    where
        R: Sorted<S>,
        S: SortKey,
    {
        let Found { mut rows, total } = found;
        let limit = usize::try_from(paging.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| has_more).map(|row| row.cursor(paging.order.by));
        let next = last.map(|cursor| written(paging.order, cursor)).transpose()?;
        Ok(Json(Self { items: rows.into_iter().map(show).collect(), next, total }))
    }

    /// Everything there is.
    pub(crate) fn whole(items: Vec<T>) -> Json<Self> {
        Json(Self { items, next: None, total: None })
    }
}
