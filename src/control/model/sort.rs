use super::list::{Cursor, Key, SortKey, Sorted};
use super::{
    ActivationCode, Device, Endpoint, Gateway, OutlineNode, Plan, Region, Session, Subscription, SubscriptionAndPlan,
    User,
};

/// The orders of lists: by id, and by columns that are never null.
macro_rules! sorts {
    ($($(#[$doc:meta])* $sort:ident of $row:ty { $($variant:ident => $column:ident $kind:ident),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $sort {
            Id,
            $($variant,)*
        }

        impl SortKey for $sort {
            const KEYS: &'static [Self] = &[Self::Id, $(Self::$variant),*];

            fn name(self) -> &'static str {
                match self {
                    Self::Id => "id",
                    $(Self::$variant => stringify!($column),)*
                }
            }
        }

        impl Sorted<$sort> for $row {
            fn cursor(&self, by: $sort) -> Cursor {
                let key = match by {
                    $sort::Id => Key::Id,
                    $($sort::$variant => Key::$kind(self.$column.clone()),)*
                };
                Cursor { key, id: self.id.into() }
            }
        }
    )+};
}

sorts! {
    /// Orders of users.
    UserSort of User { Identifier => identifier Text }
    /// Orders of devices.
    DeviceSort of Device {}
    /// Orders of activation codes.
    CodeSort of ActivationCode { ExpiresAt => expires_at Time }
    /// Orders of plans.
    PlanSort of Plan { Name => name Text }
    /// Orders of subscriptions.
    SubscriptionSort of Subscription { ValidUntil => valid_until Time }
    /// Orders of regions.
    RegionSort of Region { Code => code Text }
    /// Orders of endpoints.
    EndpointSort of Endpoint {}
    /// Orders of nodes.
    NodeSort of OutlineNode { Name => name Text }
    /// Orders of gateways.
    GatewaySort of Gateway { Name => name Text }
    /// Orders of sessions.
    SessionSort of Session { StartedAt => started_at Time }
}

impl Sorted<SubscriptionSort> for SubscriptionAndPlan {
    fn cursor(&self, by: SubscriptionSort) -> Cursor {
        self.subscription.cursor(by)
    }
}
