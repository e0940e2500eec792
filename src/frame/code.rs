/// Enums whose variants have a name: in JSON, in the database and in messages.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every one, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one of a name, if there is one.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($text),+]))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::from_name(&name).ok_or_else(|| {
                    serde::de::Error::custom(format_args!("must be one of {}", [$($text),+].join(", ")))
                })
            }
        }
    };
}
pub(crate) use named;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal => $text:literal,)+ }) => {
        named! { $(#[$meta])* pub $name { $($(#[$doc])* $variant => $text,)+ } }

        impl $name {
            /// The number used by v2 frames.
            pub const fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The code of a number, if there is one.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// Why a session ends or is refused (docs/03, "Codes").
    SessionCode {
        ProtocolError = 1 => "PROTOCOL_ERROR",
        UnsupportedVersion = 2 => "UNSUPPORTED_VERSION",
        UpgradeRequired = 3 => "UPGRADE_REQUIRED",
        InvalidToken = 4 => "INVALID_TOKEN",
        TokenExpired = 5 => "TOKEN_EXPIRED",
        DeviceBanned = 6 => "DEVICE_BANNED",
        UserBanned = 7 => "USER_BANNED",
        UserPending = 8 => "USER_PENDING",
        NoSubscription = 9 => "NO_SUBSCRIPTION",
        SubscriptionExpired = 10 => "SUBSCRIPTION_EXPIRED",
        LimitReached = 11 => "LIMIT_REACHED",
        TooManySessions = 12 => "TOO_MANY_SESSIONS",
        DeviceLimit = 13 => "DEVICE_LIMIT",
        UnknownRegion = 14 => "UNKNOWN_REGION",
        NoNodeAvailable = 15 => "NO_NODE_AVAILABLE",
        SessionKilled = 16 => "SESSION_KILLED",
        Overloaded = 17 => "OVERLOADED",
        GoingAway = 18 => "GOING_AWAY",
        ControlUnavailable = 19 => "CONTROL_UNAVAILABLE",
        Internal = 20 => "INTERNAL",
    }
}

codes! {
    /// Why one stream was reset (docs/03, "Codes").
    StreamCode {
        Refused = 256 => "REFUSED",
        Timeout = 257 => "TIMEOUT",
        Unreachable = 258 => "UNREACHABLE",
        Blocked = 259 => "BLOCKED",
        Limit = 260 => "LIMIT",
        NodeDown = 261 => "NODE_DOWN",
        Cancelled = 262 => "CANCELLED",
        StreamProtocol = 263 => "STREAM_PROTOCOL",
    }
}

impl SessionCode {
    /// Whether another attempt with the same token and region is pointless.
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::NoNodeAvailable
                | Self::TooManySessions
                | Self::Overloaded
                | Self::GoingAway
                | Self::ControlUnavailable
                | Self::Internal
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_frozen() {
        let numbers: Vec<_> = SessionCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        let numbers: Vec<_> = StreamCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, (256..=263).collect::<Vec<_>>());
        for code in SessionCode::ALL {
            assert_eq!(SessionCode::from_number(code.number()), Some(*code));
            assert_eq!(SessionCode::from_name(code.as_str()), Some(*code));
        }
        assert_eq!(StreamCode::from_number(0), None);
    }
}
