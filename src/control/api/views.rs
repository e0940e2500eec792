use crate::api::Node;
use crate::control::api::error::ApiError;
use crate::control::model::OutlineNode;
use crate::control::model::state::NodeState;
use crate::control::runtime::ControlState;

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A node with its password opened, for a gateway.
pub(super) fn node_view(state: &ControlState, node: &OutlineNode, region: &str) -> Result<Node, ApiError> {
    let open = |sealed: &str| state.sealer.open(node.id.as_bytes(), sealed).map_err(ApiError::internal);
    Ok(Node {
        id: node.id.uuid(),
        region: region.to_owned(),
        internal_ip: node.internal_ip.clone(),
        port: u16::try_from(node.ss_port).map_err(ApiError::internal)?,
        method: node.ss_method.clone(),
        password: open(&node.ss_password)?,
        old_password: node.ss_password_old.as_deref().map(open).transpose()?,
        generation: node.generation,
        oldest_generation: node.oldest_generation,
        draining: node.state == NodeState::Draining,
    })
}
