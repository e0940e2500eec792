use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, SqlType};
use diesel::sqlite::{Sqlite, SqliteValue};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

const MICROS: i128 = 1_000;
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// `uuid` in PostgreSQL, a 16-byte blob in SQLite.
#[derive(Clone, Copy, Debug, SqlType, QueryId)]
#[diesel(postgres_type(oid = 2950, array_oid = 2951))]
#[diesel(sqlite_type(name = "Binary"))]
pub struct SqlUuid;

/// `timestamptz` in PostgreSQL, microseconds since 1970 in SQLite.
#[derive(Clone, Copy, Debug, SqlType, QueryId)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185))]
#[diesel(sqlite_type(name = "Long"))]
pub struct SqlTime;

/// A moment with microseconds, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, AsExpression, FromSqlRow, Serialize, ToSchema)]
#[diesel(sql_type = SqlTime)]
#[serde(transparent)]
#[schema(value_type = String, format = DateTime)]
pub struct Time(#[serde(with = "time::serde::rfc3339")] pub OffsetDateTime);

impl Time {
    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.try_into().unwrap_or(time::Duration::MAX)))
    }

    /// So much earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.try_into().unwrap_or(time::Duration::MAX)))
    }

    fn micros(self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos().div_euclid(MICROS)).unwrap_or(i64::MAX)
    }

    fn from_micros(micros: i64) -> Result<Self, time::error::ComponentRange> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * MICROS).map(Self)
    }
}

impl From<OffsetDateTime> for Time {
    /// A moment, cut to the microseconds that databases keep.
    fn from(moment: OffsetDateTime) -> Self {
        Self::from_micros(Self(moment).micros()).unwrap_or(Self(OffsetDateTime::UNIX_EPOCH))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let read = OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|at| Self::from_micros(Self(at).micros()).ok());
        read.ok_or_else(|| D::Error::custom("a date and time with an offset, such as 2027-01-31T00:00:00Z"))
    }
}

impl ToSql<SqlTime, Pg> for Time {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&(self.micros() - PG_EPOCH_MICROS).to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<SqlTime, Sqlite> for Time {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.micros());
        Ok(IsNull::No)
    }
}

impl FromSql<SqlTime, Pg> for Time {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let since = i64::from_be_bytes(value.as_bytes().try_into()?);
        Ok(Self::from_micros(since.saturating_add(PG_EPOCH_MICROS))?)
    }
}

impl FromSql<SqlTime, Sqlite> for Time {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self::from_micros(<i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?)?)
    }
}
