//! A type for every id, so that one row's cannot be taken for another's.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::Binary;
use diesel::sqlite::{Sqlite, SqliteValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::types::SqlUuid;

macro_rules! ids {
    ($($(#[$doc:meta])+ $name:ident)+) => {$(
        $(#[$doc])+
        #[derive(
            Clone,
            Copy,
            Debug,
            PartialEq,
            Eq,
            Hash,
            PartialOrd,
            Ord,
            AsExpression,
            FromSqlRow,
            Serialize,
            Deserialize,
            ToSchema,
        )]
        #[diesel(sql_type = SqlUuid)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id, UUIDv7: it sorts by time.
            pub fn fresh() -> Self {
                Self(Uuid::now_v7())
            }

            /// An id that no row has.
            pub const fn nil() -> Self {
                Self(Uuid::nil())
            }

            /// The id on the wire.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Its 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl ToSql<SqlUuid, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                out.write_all(self.as_bytes())?;
                Ok(IsNull::No)
            }
        }

        impl ToSql<SqlUuid, Sqlite> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                out.set_value(self.as_bytes().as_slice());
                Ok(IsNull::No)
            }
        }

        impl FromSql<SqlUuid, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Ok(Self(Uuid::from_slice(value.as_bytes())?))
            }
        }

        impl FromSql<SqlUuid, Sqlite> for $name {
            fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
                let bytes = <Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value)?;
                Ok(Self(Uuid::from_slice(&bytes)?))
            }
        }
    )+};
}

ids! {
    /// A user.
    UserId
    /// A user's device.
    DeviceId
    /// A plan.
    PlanId
    /// A subscription.
    SubscriptionId
    /// A region.
    RegionId
    /// A Shadowsocks server.
    NodeId
    /// A gateway.
    GatewayId
    /// A process that acts for a gateway.
    InstanceId
    /// One way to a gateway.
    EndpointId
    /// A tunnel.
    SessionId
    /// An activation code.
    CodeId
    /// Refresh tokens that follow each other.
    FamilyId
    /// A refused session.
    RefusalId
    /// What an event is about; the event's kind says what sort of thing that is.
    SubjectId
    /// A database as far as the numbers of its events can be compared.
    EpochId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_and_read_as_a_uuid() {
        let (first, second) = (UserId::fresh(), UserId::fresh());
        assert!(UserId::nil() < first && first < second);
        assert_eq!(first.to_string(), first.uuid().to_string());
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(serde_json::to_value(first).unwrap(), first.to_string());
        assert_eq!(serde_json::from_value::<UserId>(first.to_string().into()).unwrap(), first);
        assert!("0".parse::<UserId>().is_err());
    }
}
