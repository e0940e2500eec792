//! States and kinds of rows: the names that the database, JSON and messages have for them.

use std::io::Write;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::Text;
use diesel::sqlite::{Sqlite, SqliteValue};

use crate::frame::named;

macro_rules! stored {
    ($($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ })+) => {$(
        named! {
            $(#[$meta])*
            #[derive(AsExpression, FromSqlRow)]
            #[diesel(sql_type = Text)]
            pub $name { $($(#[$doc])* $variant => $text,)+ }
        }

        impl $name {
            fn stored(name: &str) -> deserialize::Result<Self> {
                Self::from_name(name).ok_or_else(|| format!("{name:?} is no {}", stringify!($name)).into())
            }
        }

        impl ToSql<Text, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                out.write_all(self.as_str().as_bytes())?;
                Ok(IsNull::No)
            }
        }

        impl ToSql<Text, Sqlite> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                out.set_value(self.as_str());
                Ok(IsNull::No)
            }
        }

        impl FromSql<Text, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Self::stored(std::str::from_utf8(value.as_bytes())?)
            }
        }

        impl FromSql<Text, Sqlite> for $name {
            fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
                Self::stored(&<String as FromSql<Text, Sqlite>>::from_sql(value)?)
            }
        }
    )+};
}

stored! {
    /// What a user is known by.
    IdentifierKind {
        Email => "email",
        TelegramId => "telegram_id",
        Phone => "phone",
    }

    /// Whether a user is served.
    UserStatus {
        Active => "active",
        Banned => "banned",
        /// Not let in yet.
        Pending => "pending",
    }

    /// Whether a device is served.
    DeviceStatus {
        Active => "active",
        Revoked => "revoked",
    }

    /// What a plan's traffic limit is counted by (docs/02, "Periods").
    PeriodKind {
        /// The calendar month.
        Month => "month",
        /// So many days from the subscription's start.
        Days => "days",
        /// The subscription's whole term.
        Term => "term",
    }

    /// What was decided of a subscription; the clock decides the rest.
    SubscriptionStatus {
        Active => "active",
        /// Ended before its time.
        Expired => "expired",
        Cancelled => "cancelled",
    }

    /// What a payment bought.
    PaymentKind {
        Renew => "renew",
        TopUp => "top_up",
    }

    /// What an administrator wants of a node.
    NodeState {
        Active => "active",
        /// No new sessions.
        Draining => "draining",
        /// No sessions, and gateways do not hear of it.
        Maintenance => "maintenance",
    }

    /// What the gateways together hold of a node (docs/05).
    NodeHealth {
        /// Never probed; assignable.
        Unknown => "unknown",
        Healthy => "healthy",
        Unhealthy => "unhealthy",
        /// Nobody has probed it for a while.
        Offline => "offline",
    }

    /// Whether a gateway is heard of.
    GatewayStatus {
        /// Never heard of.
        Unknown => "unknown",
        Online => "online",
        Offline => "offline",
    }

    /// Whether clients are told of an endpoint.
    EndpointState {
        Active => "active",
        /// Kept for when others are blocked.
        Reserve => "reserve",
        Blocked => "blocked",
    }

    /// How far a session has come (docs/02, "Sessions").
    SessionState {
        /// A node is reserved; nothing was reported yet.
        Reserved => "reserved",
        /// Reported and alive.
        Active => "active",
        /// Reported as over; sticky.
        Ended => "ended",
        /// The reservation was never used; reopens with a report.
        Expired => "expired",
        /// Its gateway fell silent; reopens with a report.
        Reaped => "reaped",
        /// Ended by an administrator; does not reopen.
        Killed => "killed",
    }
}

named! {
    /// What a node is: what an administrator wants of it, or that nobody reaches it.
    pub NodeStatus {
        Active => "active",
        /// Active, and not reachable.
        Offline => "offline",
        Draining => "draining",
        Maintenance => "maintenance",
    }
}

named! {
    /// What a subscription is at a moment.
    pub SubscriptionState {
        /// It has not begun.
        Pending => "pending",
        Active => "active",
        /// Its time is over, and it is served still.
        Grace => "grace",
        Expired => "expired",
        Cancelled => "cancelled",
    }
}

impl IdentifierKind {
    /// What people call it.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Email => "e-mail address",
            Self::TelegramId => "Telegram id",
            Self::Phone => "telephone number",
        }
    }
}

impl NodeHealth {
    /// With these gateways found the node wanting, or nobody looks after it.
    pub(crate) const BAD: [Self; 2] = [Self::Unhealthy, Self::Offline];
    /// With these a node may take sessions.
    pub(crate) const ASSIGNABLE: [Self; 2] = [Self::Healthy, Self::Unknown];

    /// Whether gateways found the node wanting, or nobody looks after it.
    pub(crate) fn is_bad(self) -> bool {
        Self::BAD.contains(&self)
    }
}

impl SessionState {
    /// The states that hold a place on a node.
    pub(crate) const LIVE: [Self; 2] = [Self::Reserved, Self::Active];
    /// The states that no report reopens.
    pub(crate) const OVER: [Self; 2] = [Self::Ended, Self::Killed];
    /// The states that may hold a lease: a gateway may not have heard of a kill yet.
    pub(crate) const LEASING: [Self; 3] = [Self::Reserved, Self::Active, Self::Killed];
    /// The states of sessions that are over; nothing was charged for those that never moved a byte.
    pub(crate) const UNUSED: [Self; 2] = [Self::Ended, Self::Expired];

    /// Whether it holds a place on a node.
    pub(crate) fn is_live(self) -> bool {
        Self::LIVE.contains(&self)
    }

    /// Whether no report reopens it.
    pub(crate) fn is_over(self) -> bool {
        Self::OVER.contains(&self)
    }

    /// A condition on a column, as SQL. The states are part of the text, so that a plan that is made once may use an index
    /// of these only.
    pub(crate) fn one_of(column: &str, states: &[Self]) -> String {
        let names: Vec<String> = states.iter().map(|state| format!("'{state}'")).collect();
        format!("{column} IN ({})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All migrations of a database, one behind the other.
    fn migrations(database: &str) -> String {
        let folder = format!("{}/migrations/{database}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("up.sql")).collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    #[test]
    fn the_schema_allows_what_there_is() {
        let check = |column: &str, names: Vec<&str>| format!("CHECK ({column} IN ('{}'))", names.join("', '"));
        macro_rules! checks {
            ($($column:literal $name:ident),+) => {
                [$(check($column, $name::ALL.iter().map(|one| one.as_str()).collect())),+]
            };
        }
        let checks = checks!(
            "identifier_kind" IdentifierKind, "status" UserStatus, "status" DeviceStatus, "period" PeriodKind,
            "status" SubscriptionStatus, "kind" PaymentKind, "state" NodeState, "health_status" NodeHealth,
            "status" GatewayStatus, "state" EndpointState, "state" SessionState
        );
        for database in ["postgres", "sqlite"] {
            let text = migrations(database);
            for check in &checks {
                assert!(text.contains(check.as_str()), "{database}: {check}");
            }
        }
    }
}
