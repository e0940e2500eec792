use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::shadowsocks::ServerConfig;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::watch::{MonitoredStream, NodeMonitor};
use crate::api::{Node, NodeHeartbeat};
use crate::config::Relay;
use crate::frame::Target;
use crate::shadowsocks::{KeyError, NodeKey, NodeSocket, NodeStream, associate, connect};

/// A node under one of its passwords, ready to be dialled.
pub(crate) struct Exit {
    pub(crate) id: Uuid,
    pub(super) region: String,
    config: Arc<ServerConfig>,
    key: NodeKey,
    generation: i32,
    draining: AtomicBool,
    retired: CancellationToken,
    watch: Arc<NodeMonitor>,
}

impl Exit {
    /// Derives the key of a node's password.
    fn new(node: &Node, password: &str, generation: i32, watch: &Arc<NodeMonitor>) -> Result<Self, KeyError> {
        let key = NodeKey {
            host: node.internal_ip.clone(),
            port: node.port,
            method: node.method.clone(),
            password: password.to_owned(),
        };
        Ok(Self {
            id: node.id,
            region: node.region.clone(),
            config: Arc::new(key.server_config()?),
            key,
            generation,
            draining: AtomicBool::new(node.draining),
            retired: CancellationToken::new(),
            watch: Arc::clone(watch),
        })
    }

    /// Connects and prepares a stream to a target; `None` if the node is down and another stream is trying it.
    pub(crate) async fn open(&self, target: Target, relay: &Relay) -> Option<io::Result<MonitoredStream>> {
        let guard = self.watch.begin()?;
        let doomed = guard.doomed();
        let dialled = tokio::select! {
            dialled = self.dial(target, relay.dial_timeout, relay.coalesce) => dialled,
            () = doomed.cancelled() => return Some(Err(io::ErrorKind::TimedOut.into())),
        };
        Some(match dialled {
            Ok(stream) => Ok(MonitoredStream::new(stream, guard, Arc::clone(&self.config), relay.end_check)),
            Err(error) => {
                guard.failed(&error);
                Err(error)
            }
        })
    }

    /// Connects within a time and prepares a stream to a target, which waits `coalesce` for first bytes.
    pub(super) async fn dial(&self, target: Target, within: Duration, coalesce: Duration) -> io::Result<NodeStream> {
        let connecting = connect(&self.watch.dialer, &self.config, target, coalesce);
        match tokio::time::timeout(within, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether new streams may go there.
    pub(crate) fn is_up(&self) -> bool {
        self.watch.is_up()
    }

    /// Resolves once the node is down.
    pub(crate) async fn went_down(&self) {
        self.watch.went_down().await;
    }

    /// Whether a wrong clock silences the node, as AEAD-2022 has it.
    pub(super) fn is_timed(&self) -> bool {
        self.config.method().is_aead_2022()
    }

    /// Opens a socket for datagrams through the node, within a time.
    pub(crate) async fn associate(&self, within: Duration) -> io::Result<NodeSocket> {
        let associating = associate(&self.watch.dialer, &self.config);
        tokio::time::timeout(within, associating).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether new streams should go elsewhere, if there is an elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves once the password is forgotten and its streams have to end.
    pub(crate) async fn retired(&self) {
        self.retired.cancelled().await;
    }

    fn same_as(&self, node: &Node, password: &str, generation: i32) -> bool {
        self.generation == generation
            && self.key.host == node.internal_ip
            && self.key.port == node.port
            && self.key.method == node.method
            && self.key.password == password
            && self.region == node.region
    }
}

/// Whether a node keeps half closes, and when that was found out.
pub(super) type HalfClose = Option<(bool, Instant)>;

/// What is to be reported of a node.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) latest: Option<NodeHeartbeat>,
    /// Somebody is telling it.
    pub(super) busy: bool,
}

/// A node with the password it has and, during a rotation, the one it had.
pub(super) struct NodeEntry {
    current: Arc<Exit>,
    old: Option<Arc<Exit>>,
    /// Exits that are not dialled any more and may have streams.
    former: Vec<Weak<Exit>>,
    prefers_old: bool,
    pub(super) watch: Arc<NodeMonitor>,
    pub(super) reports: Reports,
    pub(super) half_close: HalfClose,
    /// It closes streams to a destination that refuses: without a probe target, silence is a bad sign then.
    pub(super) reacts: bool,
}

impl NodeEntry {
    /// A node that was not probed; during a rotation it is taken to have the old password still.
    pub(super) fn new(node: &Node, watch: Arc<NodeMonitor>) -> Result<Self, KeyError> {
        let (current, old) = exits(node, &[], &watch)?;
        let prefers_old = old.is_some();
        let (reports, former) = (Reports::default(), Vec::new());
        Ok(Self { current, old, former, prefers_old, watch, reports, half_close: None, reacts: false })
    }

    /// Takes what the control plane says now, unless it is older than what is known.
    pub(super) fn update(&mut self, node: &Node) -> Result<(), KeyError> {
        if node.generation < self.current.generation {
            return Ok(());
        }
        let dialled = Arc::clone(self.exit());
        let known = self.known();
        let (current, old) = exits(node, &known, &self.watch)?;
        if !Arc::ptr_eq(&current, &self.current) || old.is_some() != self.old.is_some() {
            (self.half_close, self.reacts) = (None, false);
            self.watch.act(|health, now| health.probe_within(Duration::ZERO, now));
        }
        self.prefers_old = old.as_ref().is_some_and(|old| Arc::ptr_eq(old, &dialled));
        for exit in [Some(&current), old.as_ref()].into_iter().flatten() {
            exit.draining.store(node.draining, Ordering::Relaxed);
        }
        for exit in known.iter().filter(|exit| exit.generation < node.oldest_generation) {
            exit.retired.cancel();
        }
        self.former = known.iter().filter(|exit| !exit.retired.is_cancelled()).map(Arc::downgrade).collect();
        (self.current, self.old) = (current, old);
        Ok(())
    }

    /// What is to be dialled: the password that the node answered to last.
    pub(super) fn exit(&self) -> &Arc<Exit> {
        match &self.old {
            Some(old) if self.prefers_old => old,
            Some(_) | None => &self.current,
        }
    }

    /// Both passwords.
    pub(super) fn pair(&self) -> (Arc<Exit>, Option<Arc<Exit>>) {
        (Arc::clone(&self.current), self.old.clone())
    }

    /// Whether an exit is still the node's newest.
    pub(super) fn is_current(&self, exit: &Arc<Exit>) -> bool {
        Arc::ptr_eq(&self.current, exit)
    }

    pub(super) fn is_rotating(&self) -> bool {
        self.old.is_some()
    }

    /// Notes which password the node answered to.
    pub(super) fn answered(&mut self, to_the_old: bool) {
        self.prefers_old = to_the_old;
    }

    fn known(&self) -> Vec<Arc<Exit>> {
        let mut known: Vec<Arc<Exit>> = self.former.iter().filter_map(Weak::upgrade).collect();
        for exit in [Some(&self.current), self.old.as_ref()].into_iter().flatten() {
            if !known.iter().any(|other| Arc::ptr_eq(other, exit)) {
                known.push(Arc::clone(exit));
            }
        }
        known
    }
}

/// The exits of a node's passwords, the same as before where nothing has changed. An old password that does not fit the
/// cipher is left out.
fn exits(
    node: &Node,
    known: &[Arc<Exit>],
    watch: &Arc<NodeMonitor>,
) -> Result<(Arc<Exit>, Option<Arc<Exit>>), KeyError> {
    let of = |password: &str, generation: i32| {
        let same = known.iter().find(|exit| exit.same_as(node, password, generation));
        match same {
            Some(exit) => Ok(Arc::clone(exit)),
            None => Exit::new(node, password, generation, watch).map(Arc::new),
        }
    };
    let current = of(&node.password, node.generation)?;
    let old = node.old_password.as_ref().and_then(|password| of(password, node.generation.saturating_sub(1)).ok());
    Ok((current, old))
}

#[cfg(test)]
mod tests {
    use super::super::health::{Limits, Outcome};
    use super::*;
    use crate::net::dial::Dialer;

    fn node(generation: i32, oldest: i32, password: &str, old: Option<&str>) -> Node {
        Node {
            id: Uuid::nil(),
            region: "eu-1".into(),
            internal_ip: "10.0.0.1".into(),
            port: 1,
            method: "aes-256-gcm".into(),
            password: password.into(),
            old_password: old.map(str::to_owned),
            generation,
            oldest_generation: oldest,
            draining: false,
        }
    }

    fn entry(node: &Node) -> NodeEntry {
        let second = Duration::from_secs(1);
        let limits = Limits { first_byte: second, interval: second * 30, retry_min: second / 4, retry_max: second };
        let entry =
            NodeEntry::new(node, Arc::new(NodeMonitor::new(limits, Arc::default(), Dialer::of_defaults()))).unwrap();
        assert!(entry.watch.turn().0, "it is probed at once");
        entry.watch.act(|health, now| health.probed(Outcome::Answered, now));
        entry
    }

    #[test]
    fn the_old_password_is_dialled_until_the_node_answers_to_the_new_one() {
        let mut entry = entry(&node(1, 1, "a", None));
        let first = Arc::clone(entry.exit());
        assert!(!entry.watch.turn().0);
        entry.update(&node(2, 1, "b", Some("a"))).unwrap();
        assert!(Arc::ptr_eq(entry.exit(), &first) && entry.watch.turn().0 && entry.is_rotating());
        entry.answered(false);
        assert_eq!(entry.exit().key.password, "b");
        entry.update(&node(1, 1, "a", None)).unwrap();
        assert_eq!(entry.exit().key.password, "b", "what is older is not taken");
        entry.update(&node(2, 1, "b", Some("a"))).unwrap();
        assert_eq!(entry.exit().key.password, "b", "repetition changes nothing");
        assert!(!first.retired.is_cancelled());
        entry.update(&node(2, 2, "b", None)).unwrap();
        assert!(first.retired.is_cancelled() && !entry.exit().retired.is_cancelled());
        assert!(!entry.is_rotating());
    }

    #[test]
    fn every_older_generation_is_retired() {
        let mut entry = entry(&node(1, 1, "a", None));
        let first = Arc::clone(entry.exit());
        entry.update(&node(2, 1, "b", Some("a"))).unwrap();
        entry.update(&node(3, 1, "c", Some("b"))).unwrap();
        assert_eq!(entry.exit().key.password, "c", "the one that was dialled is forgotten");
        assert!(!first.retired.is_cancelled());
        let mut moved = node(3, 3, "c", None);
        moved.draining = true;
        entry.update(&moved).unwrap();
        assert!(first.retired.is_cancelled() && entry.exit().is_draining());
    }

    #[test]
    fn the_same_password_may_begin_a_generation() {
        let mut entry = entry(&node(1, 1, "a", None));
        let first = Arc::clone(entry.exit());
        entry.update(&node(2, 2, "a", None)).unwrap();
        assert!(first.retired.is_cancelled() && !entry.exit().retired.is_cancelled());
    }
}
