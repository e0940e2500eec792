//! The nodes a gateway may use, and which of them it cannot reach now (docs/05).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::shadowsocks::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::control::ControlClient;
use super::metrics::GatewayMetrics;
use crate::api::{Node, NodeHeartbeat};
use crate::config::Probe;
use crate::frame::Target;
use crate::lifecycle::Shutdown;
use crate::shadowsocks::{NodeKey, NodeSocket, NodeStream, associate, connect};

const PROBE_REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// A node ready to be dialled.
pub(crate) struct Exit {
    pub(crate) id: Uuid,
    config: ServerConfig,
    key: NodeKey,
    region: String,
}

impl Exit {
    /// Derives the key of a node.
    pub(crate) fn new(node: Node) -> Result<Self, String> {
        let key = NodeKey { host: node.internal_ip, port: node.port, method: node.method, password: node.password };
        Ok(Self { id: node.id, config: key.server_config()?, key, region: node.region })
    }

    /// Connects within a time and prepares a stream to a target, which waits `coalesce` for first bytes.
    pub(crate) async fn dial(&self, target: Target, within: Duration, coalesce: Duration) -> io::Result<NodeStream> {
        match tokio::time::timeout(within, connect(&self.config, target, coalesce)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Opens a socket for datagrams through the node.
    pub(crate) async fn associate(&self) -> io::Result<NodeSocket> {
        associate(&self.config).await
    }

    fn same_as(&self, node: &Node) -> bool {
        self.key.host == node.internal_ip
            && self.key.port == node.port
            && self.key.method == node.method
            && self.key.password == node.password
            && self.region == node.region
    }
}

struct Entry {
    exit: Arc<Exit>,
    is_down: bool,
    probed: Option<Instant>,
}

impl Entry {
    fn new(exit: Arc<Exit>) -> Self {
        Self { exit, is_down: false, probed: None }
    }
}

/// The nodes by id.
pub(crate) struct Nodes {
    entries: Mutex<HashMap<Uuid, Entry>>,
    probe: Probe,
    metrics: GatewayMetrics,
}

impl Nodes {
    pub(crate) fn new(probe: Probe, metrics: GatewayMetrics) -> Self {
        Self { entries: Mutex::default(), probe, metrics }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the control plane's list.
    pub(crate) fn replace(&self, nodes: Vec<Node>) {
        let mut entries = self.entries();
        let mut kept = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let id = node.id;
            match entries.remove(&id).filter(|entry| entry.exit.same_as(&node)) {
                Some(entry) => {
                    kept.insert(id, entry);
                }
                None => match Exit::new(node) {
                    Ok(exit) => {
                        kept.insert(id, Entry::new(Arc::new(exit)));
                    }
                    Err(reason) => tracing::error!(node = %id, reason, "a node cannot be used"),
                },
            }
        }
        for id in entries.keys() {
            self.metrics.forget_node(*id);
        }
        *entries = kept;
    }

    /// The exit of a node the control plane assigned.
    pub(crate) fn exit(&self, node: Node) -> Result<Arc<Exit>, String> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&node.id)
            && entry.exit.same_as(&node)
        {
            return Ok(Arc::clone(&entry.exit));
        }
        let id = node.id;
        let exit = Arc::new(Exit::new(node)?);
        entries.insert(id, Entry::new(Arc::clone(&exit)));
        Ok(exit)
    }

    /// Notes whether a node could be reached.
    pub(crate) fn reached(&self, id: Uuid, reached: bool) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.is_down = !reached;
            self.metrics.node_healthy.with_label_values(&[&id.to_string()]).set(i64::from(reached));
        }
    }

    /// The same node with the address and password it has now, if it is still in the pool.
    pub(crate) fn latest(&self, exit: &Exit) -> Option<Arc<Exit>> {
        self.entries().get(&exit.id).map(|entry| Arc::clone(&entry.exit))
    }

    /// Nodes that could not be reached lately.
    pub(crate) fn down(&self) -> Vec<Uuid> {
        self.entries().values().filter(|entry| entry.is_down).map(|entry| entry.exit.id).collect()
    }

    /// Another node of the same region that is not known to be down, chosen by a random number.
    pub(crate) fn other(&self, than: &Exit, random: u64) -> Option<Arc<Exit>> {
        let mut others: Vec<_> = self
            .entries()
            .values()
            .filter(|entry| entry.exit.region == than.region && entry.exit.id != than.id && !entry.is_down)
            .map(|entry| Arc::clone(&entry.exit))
            .collect();
        let count = others.len() as u64;
        let at = random.checked_rem(count).and_then(|at| usize::try_from(at).ok())?;
        Some(others.swap_remove(at))
    }

    /// Probes every node at intervals and tells the control plane, until drained.
    pub(crate) async fn run(&self, control: &ControlClient, shutdown: &Shutdown) {
        let mut interval = tokio::time::interval(self.probe.interval.min(self.probe.retry_after));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = interval.tick() => {}
            }
            let exits = self.due();
            let probes = exits.iter().map(|exit| self.probe_one(exit, control));
            tokio::select! {
                () = shutdown.draining() => return,
                _ = futures_util::future::join_all(probes) => {}
            }
        }
    }

    /// The nodes whose turn it is: those that are down at every turn, the others at their interval.
    fn due(&self) -> Vec<Arc<Exit>> {
        let now = Instant::now();
        let mut due = Vec::new();
        for entry in self.entries().values_mut() {
            let fresh = entry.probed.is_some_and(|at| now.duration_since(at) < self.probe.interval);
            if entry.is_down || !fresh {
                entry.probed = Some(now);
                due.push(Arc::clone(&entry.exit));
            }
        }
        due
    }

    async fn probe_one(&self, exit: &Exit, control: &ControlClient) {
        let started = Instant::now();
        let probed = tokio::time::timeout(self.probe.timeout, self.ask(exit)).await;
        let healthy = matches!(probed, Ok(Ok(())));
        if let Ok(Err(error)) = &probed {
            tracing::warn!(node = %exit.id, %error, "a node does not answer its probe");
        }
        self.reached(exit.id, healthy);
        let latency_ms = healthy.then(|| i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX));
        if let Err(error) = control.node_seen(&NodeHeartbeat { node_id: exit.id, healthy, latency_ms }).await {
            tracing::debug!(node = %exit.id, %error, "a probe was not reported");
        }
    }

    /// Connects and, with a probe target, waits for a byte through the node: a wrong password answers nothing.
    async fn ask(&self, exit: &Exit) -> io::Result<()> {
        let target = match self.probe.target.as_str() {
            "" => Target::Name("unused.invalid".into(), 80),
            target => Target::parse(target).map_err(io::Error::other)?,
        };
        let mut stream = exit.dial(target, self.probe.timeout, Duration::ZERO).await?;
        if self.probe.target.is_empty() {
            return Ok(());
        }
        stream.write_all(PROBE_REQUEST).await?;
        stream.flush().await?;
        match stream.read(&mut [0; 64]).await? {
            0 => Err(io::Error::other("the node closed without an answer")),
            _ => Ok(()),
        }
    }
}
