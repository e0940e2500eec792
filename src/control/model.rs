//! Rows of the data model (docs/10), one file an entity.

pub mod calendar;
pub(crate) mod called;
pub(crate) mod deletion;
mod enrollment;
mod event;
pub(crate) mod filter;
mod gateway;
pub mod id;
pub mod list;
mod node;
mod period;
mod plan;
mod region;
pub(crate) mod revision;
pub mod schema;
mod session;
pub mod sort;
pub mod state;
mod subscription;
mod sweep;
pub mod types;
mod user;
mod written;

pub(crate) use enrollment::{ActivationCode, RefreshFamily, RefusalRow};
pub(crate) use event::{EventRow, NewEvent};
pub(crate) use gateway::{Gateway, GatewayChange, GatewayInstance, InstanceBeat};
pub(crate) use node::{Candidate, NodeChange, NodeReport, NodeVerdict, NodeView, OutlineNode};
pub(crate) use period::{Counters, OpenLease};
pub(crate) use plan::{Plan, PlanChange};
pub(crate) use region::{Endpoint, EndpointChange, Region, RegionChange};
pub(crate) use session::{NewSession, Session, empty, holding, live};
pub(crate) use subscription::{Payment, Subscription, SubscriptionAndPlan, SubscriptionChange};
pub(crate) use sweep::{Cutoffs, Swept};
pub(crate) use user::{Device, DeviceChange, Sighting, User, UserChange};
pub(crate) use written::Written;
