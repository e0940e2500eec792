//! Rows of the data model (docs/02), one file an entity.

mod gateway;
mod node;
mod plan;
mod session;
mod user;

pub use gateway::{Gateway, GatewayChange};
pub use node::{NodeChange, NodeView, OutlineNode};
pub use plan::{Plan, PlanChange, Region, RegionChange, Subscription, SubscriptionChange};
pub use session::{NewSession, Session, state};
pub use user::{Device, DeviceChange, User, UserChange};
