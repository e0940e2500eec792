use diesel::prelude::*;

use crate::api::EventKind;
use crate::control::model::id::{DeviceId, GatewayId, NodeId, PlanId, RegionId, SessionId, SubjectId, UserId};
use crate::control::model::schema::events;
use crate::control::model::types::Time;
use crate::frame::SessionCode;

/// A change that gateways hear of.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = events)]
pub struct EventRow {
    pub seq: i64,
    pub kind: String,
    pub subject: Option<SubjectId>,
    pub code: Option<String>,
    pub created_at: Time,
}

/// What a transaction tells gateways; a code is how sessions end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewEvent {
    UserStopped(UserId, SessionCode),
    DeviceStopped(DeviceId, SessionCode),
    SessionStopped(SessionId, SessionCode),
    /// A user's plan, subscription or quota is another.
    UserChanged(UserId),
    PlanChanged(PlanId),
    NodeChanged(NodeId),
    NodesImported,
    RegionDeleted(RegionId),
    GatewayChanged(GatewayId),
}

impl NewEvent {
    /// What happened, as gateways know it.
    pub(crate) fn kind(self) -> EventKind {
        match self {
            Self::UserStopped(..) => EventKind::UserStopped,
            Self::DeviceStopped(..) => EventKind::DeviceStopped,
            Self::SessionStopped(..) => EventKind::SessionStopped,
            Self::UserChanged(_) => EventKind::UserChanged,
            Self::PlanChanged(_) => EventKind::PlanChanged,
            Self::NodeChanged(_) | Self::NodesImported | Self::RegionDeleted(_) => EventKind::NodesChanged,
            Self::GatewayChanged(_) => EventKind::GatewayChanged,
        }
    }

    /// The user, device, session, plan, node, region or gateway.
    pub(crate) fn subject(self) -> Option<SubjectId> {
        let uuid = match self {
            Self::UserStopped(user, _) | Self::UserChanged(user) => user.uuid(),
            Self::DeviceStopped(device, _) => device.uuid(),
            Self::SessionStopped(session, _) => session.uuid(),
            Self::PlanChanged(plan) => plan.uuid(),
            Self::NodeChanged(node) => node.uuid(),
            Self::RegionDeleted(region) => region.uuid(),
            Self::GatewayChanged(gateway) => gateway.uuid(),
            Self::NodesImported => return None,
        };
        Some(uuid.into())
    }

    /// How sessions end.
    pub(crate) fn code(self) -> Option<SessionCode> {
        match self {
            Self::UserStopped(_, code) | Self::DeviceStopped(_, code) | Self::SessionStopped(_, code) => Some(code),
            Self::UserChanged(_)
            | Self::PlanChanged(_)
            | Self::NodeChanged(_)
            | Self::NodesImported
            | Self::RegionDeleted(_)
            | Self::GatewayChanged(_) => None,
        }
    }
}
