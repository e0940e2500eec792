//! Rows of the data model (docs/02), one file an entity.

mod gateway;
mod node;
mod plan;
mod session;
mod stale;
mod user;

pub(super) use gateway::{Gateway, GatewayChange};
pub(super) use node::{NodeChange, NodeView, OutlineNode};
pub(super) use plan::{Plan, PlanChange, Region, RegionChange, Subscription, SubscriptionChange};
pub(super) use session::{NewSession, Session, state};
pub(super) use stale::{Cutoffs, Swept};
pub(super) use user::{Device, DeviceChange, User, UserChange};
