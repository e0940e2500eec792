//! The nodes a gateway may use, and which of them it cannot reach now (docs/05).

mod exit;
mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::metrics::GatewayMetrics;
use crate::api::Node;
use crate::config::Probe;

use exit::Entry;
pub(crate) use exit::Exit;

/// The nodes by id.
pub(crate) struct Nodes {
    entries: Mutex<HashMap<Uuid, Entry>>,
    probe: Probe,
    wake: Notify,
    metrics: GatewayMetrics,
}

impl Nodes {
    pub(crate) fn new(probe: Probe, metrics: GatewayMetrics) -> Self {
        Self { entries: Mutex::default(), probe, wake: Notify::new(), metrics }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the control plane's list; nodes that are new or have changed are probed at once.
    pub(crate) fn replace(&self, nodes: Vec<Node>) {
        let mut entries = self.entries();
        let mut kept = HashMap::with_capacity(nodes.len());
        for node in nodes {
            match updated(entries.remove(&node.id), &node) {
                Ok(entry) => {
                    kept.insert(node.id, entry);
                }
                Err(reason) => tracing::error!(node = %node.id, reason, "a node cannot be used"),
            }
        }
        for id in entries.keys() {
            self.metrics.forget_node(*id);
        }
        *entries = kept;
        self.wake.notify_one();
    }

    /// The exit of a node the control plane assigned.
    pub(crate) fn exit(&self, node: &Node) -> Result<Arc<Exit>, String> {
        let mut entries = self.entries();
        let entry = updated(entries.remove(&node.id), node)?;
        let exit = Arc::clone(entry.exit());
        if entry.probed.is_none() {
            self.wake.notify_one();
        }
        entries.insert(node.id, entry);
        Ok(exit)
    }

    /// Notes whether a node could be reached.
    pub(crate) fn reached(&self, id: Uuid, reached: bool) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.is_down = !reached;
            self.metrics.node_healthy.with_label_values(&[&id.to_string()]).set(i64::from(reached));
        }
    }

    /// The same node with the address and password that it answers to now, if it is still in the pool.
    pub(crate) fn latest(&self, exit: &Exit) -> Option<Arc<Exit>> {
        self.entries().get(&exit.id).map(|entry| Arc::clone(entry.exit()))
    }

    /// Nodes that could not be reached lately.
    pub(crate) fn down(&self) -> Vec<Uuid> {
        self.entries().values().filter(|entry| entry.is_down).map(|entry| entry.exit().id).collect()
    }

    /// Another node of the same region that is not known to be down, chosen by a random number.
    pub(crate) fn other(&self, than: &Exit, random: u64) -> Option<Arc<Exit>> {
        self.pick(random, |exit| exit.region == than.region && exit.id != than.id)
    }

    /// A node of a region that is not known to be down, chosen by a random number.
    pub(crate) fn any(&self, region: &str, random: u64) -> Option<Arc<Exit>> {
        self.pick(random, |exit| exit.region == region)
    }

    fn pick(&self, random: u64, fits: impl Fn(&Exit) -> bool) -> Option<Arc<Exit>> {
        let mut fitting: Vec<_> = self
            .entries()
            .values()
            .filter(|entry| !entry.is_down)
            .map(|entry| Arc::clone(entry.exit()))
            .filter(|exit| !exit.is_draining() && fits(exit))
            .collect();
        let count = fitting.len() as u64;
        let at = random.checked_rem(count).and_then(|at| usize::try_from(at).ok())?;
        Some(fitting.swap_remove(at))
    }
}

fn updated(entry: Option<Entry>, node: &Node) -> Result<Entry, String> {
    match entry {
        Some(mut entry) => entry.update(node).map(|()| entry),
        None => Entry::new(node),
    }
}
