//! What the gateway and the control plane say to each other, a file a conversation (docs/09).

mod admission;
mod enrollment;
mod events;
mod heartbeat;
mod nodes;
mod problem;
mod text;
mod usage;

pub use admission::{AssignOutline, Assigned, LimitsView, SubscriptionView, UserView, ValidateDevice, Validated};
pub use enrollment::{DeviceView, Enroll, GatewayEnroll, GatewayEnrolled, Refresh, Tokens};
pub use events::{Event, EventAck, EventKind};
pub use heartbeat::{GatewayHeartbeat, GatewayOrders, RefusalNote, Validity};
pub use nodes::{ACCESS_KEYS_MAX, Node, NodeHeartbeat, NodeOpinion};
pub use problem::{FieldError, Problem};
pub use text::{VERSION_MAX, kept_version};
pub use usage::{Lease, UsageReport, UsageReports, UsageVerdicts, Verdict};
