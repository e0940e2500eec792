//! The nodes a gateway may use, and which of them it cannot reach now (docs/05).

mod exit;
mod health;
mod probe;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::metrics::GatewayMetrics;
use crate::api::Node;
use crate::config::{Probe, Relay};
use crate::net::dial::Dialer;
use crate::shadowsocks::KeyError;

pub(crate) use exit::Exit;
use exit::NodeEntry;
use health::Limits;
pub(crate) use watch::MonitoredStream;
use watch::NodeMonitor;

/// The nodes by id.
pub(crate) struct Nodes {
    entries: Mutex<HashMap<Uuid, NodeEntry>>,
    probe: Probe,
    limits: Limits,
    wake: Arc<Notify>,
    dialer: Dialer,
    metrics: GatewayMetrics,
}

impl Nodes {
    pub(crate) fn new(probe: Probe, relay: &Relay, dialer: Dialer, metrics: GatewayMetrics) -> Self {
        let limits = Limits {
            first_byte: relay.first_byte_timeout,
            interval: probe.interval,
            retry_min: probe.retry_min,
            retry_max: probe.retry_after,
        };
        Self { entries: Mutex::default(), probe, limits, wake: Arc::default(), dialer, metrics }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, NodeEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the control plane's list; nodes that are new or have changed are probed at once.
    pub(crate) fn replace(&self, nodes: Vec<Node>) {
        let mut entries = self.entries();
        let mut kept = HashMap::with_capacity(nodes.len());
        for node in nodes {
            match self.updated(entries.remove(&node.id), &node) {
                Ok(entry) => {
                    kept.insert(node.id, entry);
                }
                Err(reason) => tracing::error!(node = %node.id, %reason, "cannot use a node"),
            }
        }
        for id in entries.keys() {
            self.metrics.forget_node(*id);
        }
        *entries = kept;
    }

    /// The exit of a node the control plane assigned.
    pub(crate) fn exit(&self, node: &Node) -> Result<Arc<Exit>, KeyError> {
        let mut entries = self.entries();
        let entry = self.updated(entries.remove(&node.id), node)?;
        let exit = Arc::clone(entry.exit());
        entries.insert(node.id, entry);
        Ok(exit)
    }

    fn updated(&self, entry: Option<NodeEntry>, node: &Node) -> Result<NodeEntry, KeyError> {
        if let Some(mut entry) = entry {
            return entry.update(node).map(|()| entry);
        }
        self.wake.notify_one();
        NodeEntry::new(node, Arc::new(NodeMonitor::new(self.limits, Arc::clone(&self.wake), self.dialer.clone())))
    }

    /// The same node with the address and password that it answers to now, if it is still in the pool.
    pub(crate) fn latest(&self, exit: &Exit) -> Option<Arc<Exit>> {
        self.entries().get(&exit.id).map(|entry| Arc::clone(entry.exit()))
    }

    /// Nodes that are down.
    pub(crate) fn down(&self) -> Vec<Uuid> {
        self.entries().values().filter(|entry| !entry.watch.is_up()).map(|entry| entry.exit().id).collect()
    }

    /// How soon a node that is down may be back.
    pub(crate) fn retry_after(&self) -> Duration {
        self.probe.retry_after
    }

    /// Another node of the same region that is not down, chosen by a random number.
    pub(crate) fn other(&self, than: &Exit, random: u64) -> Option<Arc<Exit>> {
        self.pick(random, |exit| exit.region == than.region && exit.id != than.id)
    }

    /// A node of a region that is not down, chosen by a random number.
    pub(crate) fn any(&self, region: &str, random: u64) -> Option<Arc<Exit>> {
        self.pick(random, |exit| exit.region == region)
    }

    fn pick(&self, random: u64, fits: impl Fn(&Exit) -> bool) -> Option<Arc<Exit>> {
        let mut fitting: Vec<_> = self
            .entries()
            .values()
            .filter(|entry| entry.watch.is_up())
            .map(|entry| Arc::clone(entry.exit()))
            .filter(|exit| !exit.is_draining() && fits(exit))
            .collect();
        let count = fitting.len() as u64;
        let at = random.checked_rem(count).and_then(|at| usize::try_from(at).ok())?;
        Some(fitting.swap_remove(at))
    }
}
