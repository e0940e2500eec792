//! Nodes that may take sessions, remembered for a moment: each admission chooses among them (docs/10, "Replicas").

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;

use crate::control::db::{DbConn, dispatch};
use crate::control::model::Candidate;
use crate::control::model::id::{NodeId, RegionId};

struct Known {
    nodes: Vec<Candidate>,
    at: Instant,
}

/// The assignable nodes of regions that were asked for lately. The database has the last word on each place.
pub(crate) struct NodeCache {
    known: Mutex<HashMap<RegionId, Known>>,
    fresh: Duration,
}

impl NodeCache {
    /// Remembers what is known of a region for so long.
    pub(crate) fn new(fresh: Duration) -> Self {
        Self { known: Mutex::default(), fresh }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<RegionId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes of a region, if they are remembered.
    pub(crate) fn remembered(&self, region: RegionId) -> Option<Vec<Candidate>> {
        self.known().get(&region).filter(|known| known.at.elapsed() < self.fresh).map(|known| known.nodes.clone())
    }

    /// The nodes of a region as they are now.
    pub(crate) async fn read(&self, conn: &mut DbConn, region: RegionId) -> QueryResult<Vec<Candidate>> {
        let at = Instant::now();
        let nodes = dispatch!(conn, admission::candidates(region))?;
        self.known().insert(region, Known { nodes: nodes.clone(), at });
        Ok(nodes)
    }

    /// A session was given a place on a node.
    pub(crate) fn took(&self, node: NodeId) {
        for node in self.known().values_mut().flat_map(|known| &mut known.nodes).filter(|other| other.id == node) {
            node.active_sessions = node.active_sessions.saturating_add(1);
        }
    }

    /// Something of a node has changed.
    pub(crate) fn forget(&self) {
        self.known().clear();
    }
}
