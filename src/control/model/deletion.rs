use uuid::Uuid;

use crate::control::model::id::{GatewayId, NodeId, PlanId, SubscriptionId};

/// What became of a deletion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion {
    /// Rows of the kind that was asked for.
    pub(crate) count: usize,
    /// The number of the event that tells of it.
    pub(crate) event_seq: Option<i64>,
}

/// What refers to something that is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("a subscription has the plan")]
    Subscriber(SubscriptionId),
    #[error("a node is in the region")]
    Node(NodeId),
    #[error("a gateway stands in the region")]
    Gateway(GatewayId),
    #[error("a plan is limited to the region")]
    Plan(PlanId),
}

impl Obstacle {
    /// Its id.
    pub(crate) fn uuid(self) -> Uuid {
        match self {
            Self::Subscriber(id) => id.uuid(),
            Self::Node(id) => id.uuid(),
            Self::Gateway(id) => id.uuid(),
            Self::Plan(id) => id.uuid(),
        }
    }
}
