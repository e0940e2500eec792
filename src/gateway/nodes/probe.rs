use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;

use super::{Exit, Nodes};
use crate::api::NodeHeartbeat;
use crate::frame::Target;
use crate::gateway::control::ControlClient;
use crate::lifecycle::Shutdown;
use crate::shadowsocks::NodeStream;

const PROBE_REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";
const SILENT: &str = "no answer: wrong password or cipher?";
const BY_THE_OLD: &str = "answers to the old password only";

const REASONS: [(ErrorKind, &str); 5] = [
    (ErrorKind::ConnectionRefused, "connection refused"),
    (ErrorKind::TimedOut, "timed out"),
    (ErrorKind::ConnectionReset, "connection reset"),
    (ErrorKind::HostUnreachable, "host unreachable"),
    (ErrorKind::NetworkUnreachable, "network unreachable"),
];

impl Nodes {
    /// Probes every node at intervals, and when it is new or has changed, and tells the control plane, until drained.
    pub(crate) async fn run(&self, control: &ControlClient, shutdown: &Shutdown) {
        let mut interval = tokio::time::interval(self.probe.interval.min(self.probe.retry_after));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut probes = FuturesUnordered::new();
        loop {
            let tick = tokio::select! {
                () = shutdown.draining() => return,
                Some(()) = probes.next(), if !probes.is_empty() => continue,
                () = self.wake.notified() => false,
                _ = interval.tick() => true,
            };
            for (exit, old) in self.due(tick) {
                probes.push(self.probe_one(exit, old, control));
            }
        }
    }

    /// The nodes whose turn it is: those never probed; at a tick those that are down or under rotation, too, and the
    /// others at their interval.
    fn due(&self, tick: bool) -> Vec<(Arc<Exit>, Option<Arc<Exit>>)> {
        let now = Instant::now();
        let mut due = Vec::new();
        for entry in self.entries().values_mut().filter(|entry| !entry.is_probing) {
            let is_due = entry.probed.is_none_or(|at| {
                let urgent = entry.is_down || entry.is_rotating();
                tick && (urgent || now.duration_since(at) >= self.probe.interval)
            });
            if is_due {
                entry.probed = Some(now);
                entry.is_probing = true;
                due.push(entry.pair());
            }
        }
        due
    }

    async fn probe_one(&self, exit: Arc<Exit>, old: Option<Arc<Exit>>, control: &ControlClient) {
        let mut started = Instant::now();
        let mut asked = self.ask(&exit).await;
        let mut by_the_old = false;
        if let (Err(reason), Some(old)) = (asked, &old) {
            started = Instant::now();
            by_the_old = self.ask(old).await.is_ok();
            asked = if by_the_old { Ok(()) } else { Err(reason) };
        }
        let healthy = asked.is_ok();
        if !self.settle(&exit, healthy.then_some(by_the_old)) {
            return;
        }
        if let Err(reason) = asked {
            tracing::warn!(node = %exit.id, reason, "a node does not answer its probe");
        }
        let latency_ms = healthy.then(|| i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX));
        let error = if by_the_old { Some(BY_THE_OLD) } else { asked.err() }.map(str::to_owned);
        if let Err(error) = control.node_seen(&NodeHeartbeat { node_id: exit.id, healthy, latency_ms, error }).await {
            tracing::debug!(node = %exit.id, %error, "a probe was not reported");
        }
    }

    /// Notes what a probe found, and whether it was by the old password; false if the node has changed since.
    fn settle(&self, exit: &Arc<Exit>, answered: Option<bool>) -> bool {
        if let Some(entry) = self.entries().get_mut(&exit.id) {
            entry.is_probing = false;
            if !entry.is_current(exit) {
                self.wake.notify_one();
                return false;
            }
            if let Some(to_the_old) = answered {
                entry.answered(to_the_old);
            }
        }
        self.reached(exit.id, answered.is_some());
        true
    }

    /// Connects and, with a probe target, waits for a byte through the node: a wrong password answers nothing.
    async fn ask(&self, exit: &Exit) -> Result<(), &'static str> {
        let target = match self.probe.target.as_str() {
            "" => Target::Name("unused.invalid".into(), 80),
            target => Target::parse(target).map_err(|_| "probe.target is not host:port")?,
        };
        let deadline = tokio::time::Instant::now() + self.probe.timeout;
        let dialled = exit.dial(target, self.probe.timeout, Duration::ZERO).await;
        let stream = dialled.map_err(|error| reason(error.kind()))?;
        if self.probe.target.is_empty() {
            return Ok(());
        }
        match timeout_at(deadline, answers(stream)).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(SILENT),
        }
    }
}

async fn answers(mut stream: NodeStream) -> bool {
    let asked = async {
        stream.write_all(PROBE_REQUEST).await?;
        stream.flush().await?;
        stream.read(&mut [0; 64]).await
    };
    asked.await.is_ok_and(|read| read > 0)
}

fn reason(kind: ErrorKind) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == kind).map_or("cannot be reached", |(_, reason)| reason)
}
