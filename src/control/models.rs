//! Rows of the data model (docs/02), one file an entity.

mod enrolment;
mod event;
mod gateway;
mod node;
mod period;
mod plan;
mod region;
mod session;
mod stale;
mod subscription;
mod user;

pub(super) use enrolment::{ActivationCode, RefreshFamily, RefusalRow};
pub(super) use event::EventRow;
pub(super) use gateway::{Gateway, GatewayChange, GatewayInstance, InstanceBeat};
pub(super) use node::{Candidate, NodeChange, NodeReport, NodeVerdict, NodeView, OutlineNode};
pub(super) use period::{Counters, Loan};
pub(super) use plan::{Plan, PlanChange};
pub(super) use region::{Endpoint, EndpointChange, Region, RegionChange};
pub(super) use session::{NewSession, Session, empty, holding, live, state};
pub(super) use stale::{Cutoffs, Swept};
pub(super) use subscription::{Payment, Subscription, SubscriptionChange};
pub(super) use user::{Device, DeviceChange, Sighting, User, UserChange};
