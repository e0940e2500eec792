use std::borrow::Cow;
use std::future::pending;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;
use uuid::Uuid;

use super::health::{Health, Outcome};
use super::{Exit, Nodes};
use crate::api::NodeHeartbeat;
use crate::frame::Target;
use crate::gateway::control::ControlClient;
use crate::gateway::control_clock::ControlClock;
use crate::lifecycle::Shutdown;
use crate::shadowsocks::NodeStream;

const PROBE_REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";
const SILENT: &str = "no answer: wrong password or cipher?";
const SILENT_TIMED: &str = "no answer: wrong password or cipher, or a clock that is off by more than 30 s?";
const CLOSED: &str = "closed without an answer: can the node reach probe.target?";
const BY_THE_OLD: &str = "answers to the old password only";
/// Beyond this offset an AEAD-2022 node's silence is the clock's doing: 30 s are allowed.
const OFFSET_MAX: Duration = Duration::from_secs(25);
/// What no server listens on: a node that works closes a stream to it at once. Its own host's, for it must need no network.
const REFUSING: Target = Target::Ip(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1));

const REASONS: [(ErrorKind, &str); 5] = [
    (ErrorKind::ConnectionRefused, "connection refused"),
    (ErrorKind::TimedOut, "timed out"),
    (ErrorKind::ConnectionReset, "connection reset"),
    (ErrorKind::HostUnreachable, "host unreachable"),
    (ErrorKind::NetworkUnreachable, "network unreachable"),
];

type Reason = Cow<'static, str>;

/// A node whose turn it is.
struct Subject {
    exit: Arc<Exit>,
    /// During a rotation, under the password before.
    old: Option<Arc<Exit>>,
    reacts: bool,
    wants_half_close: bool,
}

/// What came back through a node.
enum Reply {
    Bytes,
    Closed,
    Nothing,
}

impl Nodes {
    /// Probes every node when its health asks for it, and tells the control plane, until drained.
    pub(crate) async fn run(&self, control: &ControlClient, clock: &ControlClock, shutdown: &Shutdown) {
        let mut probes = FuturesUnordered::new();
        loop {
            let (due, next) = self.due();
            for subject in due {
                probes.push(self.probe_one(subject, control, clock));
            }
            let time = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = shutdown.draining() => return,
                Some(()) = probes.next(), if !probes.is_empty() => {}
                () = self.wake.notified() => {}
                () = time => {}
            }
        }
    }

    /// The nodes whose turn it is, and when to look again.
    fn due(&self) -> (Vec<Subject>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        let every = self.probe.half_close_interval;
        for entry in self.entries().values_mut() {
            let (is_due, at) = entry.watch.turn();
            next = [next, at].into_iter().flatten().min();
            if entry.watch.act(|health, _| health.take_change()) {
                self.show(entry.exit().id, entry.watch.is_up());
            }
            if is_due {
                let (exit, old) = entry.pair();
                let known = entry.half_close.is_some_and(|(_, at)| at.elapsed() < every);
                let wants_half_close = !known && !every.is_zero() && !self.probe.target.is_empty();
                due.push(Subject { exit, old, reacts: entry.reacts, wants_half_close });
            }
        }
        (due, next)
    }

    fn show(&self, id: Uuid, is_up: bool) {
        self.metrics.node_healthy.with_label_values(&[&id.to_string()]).set(i64::from(is_up));
        if is_up {
            tracing::info!(node = %id, "node is up again");
        } else {
            tracing::warn!(node = %id, "node is down; its sessions use other nodes for new streams");
        }
    }

    async fn probe_one(&self, subject: Subject, control: &ControlClient, clock: &ControlClock) {
        let exit = &subject.exit;
        let mut started = Instant::now();
        let (mut outcome, mut reason) = self.ask(exit, subject.reacts, clock).await;
        let mut by_the_old = false;
        if let Some(old) = subject.old.as_ref().filter(|_| outcome != Outcome::Answered) {
            let again = Instant::now();
            if self.ask(old, subject.reacts, clock).await.0 == Outcome::Answered {
                (outcome, reason, by_the_old, started) = (Outcome::Answered, Some(BY_THE_OLD.into()), true, again);
            }
        }
        let healthy = outcome == Outcome::Answered;
        if !healthy {
            tracing::warn!(node = %exit.id, reason = reason.as_deref(), "node failed its probe");
        }
        let latency_ms = healthy.then(|| i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX));
        let report = NodeHeartbeat {
            node_id: exit.id,
            healthy,
            latency_ms,
            error: reason.map(Cow::into_owned),
            settled: false,
            half_close: None,
        };
        if self.note(exit, outcome, by_the_old, report) {
            self.report(exit.id, control).await;
        }
        if subject.wants_half_close && healthy {
            let kept =
                self.keeps_half_closes(if by_the_old { subject.old.as_ref().unwrap_or(exit) } else { exit }).await;
            self.note_half_close(exit, kept);
        }
    }

    /// Takes what a probe found; true if somebody has to tell the control plane. Nothing is noted if the node is another
    /// one by now.
    fn note(&self, exit: &Arc<Exit>, outcome: Outcome, by_the_old: bool, mut report: NodeHeartbeat) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&exit.id) else { return false };
        if !entry.is_current(exit) {
            entry.watch.act(Health::forget_probe);
            return false;
        }
        if outcome == Outcome::Answered {
            entry.answered(by_the_old);
        }
        let pause = entry.is_rotating().then_some(self.probe.retry_after);
        let is_up = entry.watch.act(|health, now| {
            health.probed(outcome, now);
            pause.inspect(|pause| health.probe_within(*pause, now));
            health.is_up()
        });
        self.metrics.node_healthy.with_label_values(&[&exit.id.to_string()]).set(i64::from(is_up));
        report.settled = !is_up;
        report.half_close = entry.half_close.map(|(kept, _)| kept);
        entry.reports.latest = Some(report);
        !std::mem::replace(&mut entry.reports.busy, true)
    }

    fn note_half_close(&self, exit: &Arc<Exit>, kept: bool) {
        if let Some(entry) = self.entries().get_mut(&exit.id).filter(|entry| entry.is_current(exit)) {
            let before = entry.half_close.replace((kept, Instant::now()));
            if before.is_none_or(|(before, _)| before != kept) {
                entry.watch.act(|health, now| health.probe_within(Duration::ZERO, now));
            }
        }
    }

    /// Tells the control plane what was found last, until nothing newer is left to tell.
    async fn report(&self, node: Uuid, control: &ControlClient) {
        loop {
            let report = {
                let mut entries = self.entries();
                let Some(entry) = entries.get_mut(&node) else { return };
                let report = entry.reports.latest.take();
                entry.reports.busy = report.is_some();
                report
            };
            let Some(report) = report else { return };
            let agreed = match control.report_node(&report).await {
                Ok(opinion) => {
                    let held = opinion.settled.unwrap_or(opinion.health_status == "healthy");
                    Some(held == report.healthy)
                }
                Err(error) => {
                    tracing::debug!(%node, %error, "failed to report a probe");
                    None
                }
            };
            if let Some(entry) = self.entries().get(&node) {
                entry.watch.act(|health, now| health.reported(agreed, now));
            }
        }
    }

    /// Connects and waits for what comes back: a byte of the probe target's, or without one the end of a stream that the
    /// node cannot connect. A wrong password is not answered.
    async fn ask(&self, exit: &Exit, reacts: bool, clock: &ControlClock) -> (Outcome, Option<Reason>) {
        let target = match self.probe.target.as_str() {
            "" => REFUSING,
            target => match Target::parse(target) {
                Ok(target) => target,
                Err(_) => return (Outcome::Unreachable, Some("probe.target is not host:port".into())),
            },
        };
        let asks = !self.probe.target.is_empty();
        let deadline = tokio::time::Instant::now() + self.probe.timeout;
        let stream = match exit.dial(target, self.probe.timeout, Duration::ZERO).await {
            Ok(stream) => stream,
            Err(error) => return (Outcome::Unreachable, Some(reason(error.kind()).into())),
        };
        let reply = timeout_at(deadline, reply(stream, asks, false)).await.unwrap_or(Reply::Nothing);
        match reply {
            Reply::Closed if asks => (Outcome::Silent, Some(CLOSED.into())),
            Reply::Closed => {
                if let Some(entry) = self.entries().get_mut(&exit.id) {
                    entry.reacts = true;
                }
                (Outcome::Answered, None)
            }
            Reply::Nothing if asks || reacts => (Outcome::Silent, Some(silence(exit, clock))),
            Reply::Bytes | Reply::Nothing => (Outcome::Answered, None),
        }
    }

    /// Whether answers come although the gateway has ended its direction.
    async fn keeps_half_closes(&self, exit: &Exit) -> bool {
        let Ok(target) = Target::parse(&self.probe.target) else { return false };
        for _ in 0..self.probe.half_closes {
            let deadline = tokio::time::Instant::now() + self.probe.timeout;
            let Ok(stream) = exit.dial(target.clone(), self.probe.timeout, Duration::ZERO).await else { return false };
            if !matches!(timeout_at(deadline, reply(stream, true, true)).await, Ok(Reply::Bytes)) {
                return false;
            }
        }
        true
    }
}

/// Sends the request, if there is one, ends the direction if asked to, and waits.
async fn reply(mut stream: NodeStream, asks: bool, ends: bool) -> Reply {
    let asked = async {
        if asks {
            stream.write_all(PROBE_REQUEST).await?;
        }
        if ends {
            stream.shutdown().await?;
        } else {
            stream.flush().await?;
        }
        stream.read(&mut [0; 64]).await
    };
    match asked.await {
        Ok(1..) => Reply::Bytes,
        Ok(0) | Err(_) => Reply::Closed,
    }
}

/// Why a node that takes connections may say nothing.
fn silence(exit: &Exit, clock: &ControlClock) -> Reason {
    if !exit.is_timed() {
        return SILENT.into();
    }
    match clock.offset() {
        Some(offset) if Duration::from_millis(offset.unsigned_abs()) > OFFSET_MAX => {
            let direction = if offset < 0 { "behind" } else { "ahead of" };
            let seconds = Duration::from_millis(offset.unsigned_abs()).as_secs_f64();
            format!(
                "no answer: the gateway's clock is {seconds:.1} s {direction} the control plane's, AEAD-2022 allows 30 s; \
                 synchronize it by NTP"
            )
            .into()
        }
        Some(_) | None => SILENT_TIMED.into(),
    }
}

fn reason(kind: ErrorKind) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == kind).map_or("cannot be reached", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use time::macros::datetime;

    use super::*;
    use crate::api::Node;
    use crate::clock::ManualClock;
    use crate::config::Source;
    use crate::gateway::control_clock::tests::config;
    use crate::gateway::metrics::GatewayMetrics;
    use crate::net::dial::Dialer;

    fn exit(method: &str) -> Arc<Exit> {
        let source = Source::with::<&str, &str>([]).unwrap();
        let nodes = Nodes::new(
            source.section().unwrap(),
            &source.section().unwrap(),
            Dialer::of_defaults(),
            GatewayMetrics::new(),
        );
        let node = Node {
            id: Uuid::nil(),
            region: "eu-1".into(),
            internal_ip: "10.0.0.1".into(),
            port: 1,
            method: method.into(),
            password: BASE64_STANDARD.encode([1; 32]),
            old_password: None,
            generation: 1,
            oldest_generation: 1,
            draining: false,
        };
        nodes.exit(&node).unwrap()
    }

    #[test]
    fn silence_is_explained_by_the_clock_where_the_cipher_asks_for_the_time() {
        let manual = ManualClock::at(datetime!(2026-11-28 12:00 UTC));
        let clock = ControlClock::new(manual.clock(), config(), &GatewayMetrics::new());
        let (timed, untimed) = (exit("2022-blake3-aes-256-gcm"), exit("aes-256-gcm"));
        assert_eq!((silence(&timed, &clock), silence(&untimed, &clock)), (SILENT_TIMED.into(), SILENT.into()));
        clock.measured(manual.now() + Duration::from_secs(20), Instant::now());
        assert_eq!(silence(&timed, &clock), SILENT_TIMED);
        clock.measured(manual.now() + Duration::from_millis(45_020), Instant::now());
        assert_eq!(
            silence(&timed, &clock),
            "no answer: the gateway's clock is 45.0 s behind the control plane's, AEAD-2022 allows 30 s; synchronize it by NTP"
        );
        assert_eq!(silence(&untimed, &clock), SILENT);
    }
}
