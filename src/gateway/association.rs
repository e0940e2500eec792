//! A stream of datagrams: one socket towards the node, a destination in every record (docs/04, "Datagrams").

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::account::Account;
use super::egress::Lookups;
use super::{GatewayState, egress};

use crate::frame::{Datagram, StreamCode, Target};
use crate::net::tunnel::{Meter, TunnelStream};
use crate::shadowsocks::NodeSocket;

/// An association and what it needs of its session.
pub(super) struct Association<'a> {
    pub(super) stream: &'a TunnelStream,
    pub(super) node: &'a NodeSocket,
    pub(super) account: &'a Account,
    pub(super) state: &'a GatewayState,
    pub(super) lookups: &'a Lookups,
}

/// When a datagram moved last.
struct Activity {
    begun: Instant,
    /// Milliseconds from the start.
    last: AtomicU64,
}

impl Activity {
    fn note(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Resolves once nothing has moved for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let until = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// What a name led to, and until when that holds.
type Names = HashMap<Target, (Result<Target, StreamCode>, Instant)>;

/// A datagram that waits for the address of its destination.
type Looking<'a> = Pin<Box<dyn Future<Output = (Datagram, Result<Target, StreamCode>)> + Send + 'a>>;

impl Association<'_> {
    /// Moves datagrams both ways until the client ends the stream or nothing moves for a while.
    pub(super) async fn run(&self) -> Result<(), StreamCode> {
        let activity = Activity { begun: Instant::now(), last: AtomicU64::new(0) };
        let (up, down) = (pin!(self.up(&activity)), pin!(self.down(&activity)));
        tokio::select! {
            () = up => Ok(()),
            error = down => {
                tracing::debug!(%error, "association socket failed");
                Err(StreamCode::NodeDown)
            }
            () = activity.idle(self.state.relay.udp_idle_timeout) => Err(StreamCode::Timeout),
        }
    }

    async fn up(&self, activity: &Activity) {
        let mut names = Names::new();
        let mut looking = FuturesUnordered::<Looking<'_>>::new();
        loop {
            let mut frame = tokio::select! {
                frame = self.stream.next_datagrams() => match frame {
                    Some(frame) => frame,
                    None => break,
                },
                Some((datagram, found)) = looking.next(), if !looking.is_empty() => {
                    let Datagram { peer, payload } = datagram;
                    self.send(found.clone(), &payload).await;
                    if names.len() >= self.state.relay.udp_names {
                        names.clear();
                    }
                    if matches!(found, Ok(_) | Err(StreamCode::Blocked)) {
                        names.insert(peer, (found, Instant::now() + self.state.egress.name_ttl));
                    }
                    continue;
                }
            };
            loop {
                let datagram = match Datagram::decode(&mut frame) {
                    Ok(Some(datagram)) => datagram,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "malformed datagram record");
                        self.state.metrics.drop_datagram("malformed");
                        pause(self.account.unbilled(frame.len())).await;
                        break;
                    }
                };
                activity.note();
                match (&datagram.peer, names.get(&datagram.peer)) {
                    (Target::Ip(_), _) => {
                        let admitted = egress::admit(datagram.peer, &self.state.egress, self.lookups).await;
                        self.send(admitted, &datagram.payload).await;
                    }
                    (Target::Name(..), Some((found, until))) if *until > Instant::now() => {
                        self.send(found.clone(), &datagram.payload).await;
                    }
                    (Target::Name(..), _) if looking.len() >= self.state.relay.udp_names => {
                        self.state.metrics.drop_datagram("names");
                        pause(self.account.unbilled(datagram.payload.len())).await;
                    }
                    (Target::Name(..), _) => looking.push(Box::pin(async move {
                        let found = egress::admit(datagram.peer.clone(), &self.state.egress, self.lookups).await;
                        (datagram, found)
                    })),
                }
            }
        }
        while let Some((datagram, found)) = looking.next().await {
            self.send(found, &datagram.payload).await;
        }
    }

    async fn send(&self, target: Result<Target, StreamCode>, payload: &[u8]) {
        let dropped = match target {
            Err(code) => code.as_str(),
            Ok(_) if self.account.hold().is_some() => "lease",
            Ok(target) => match self.node.send(&target, payload).await {
                Ok(()) => return pause(self.account.sent(payload.len())).await,
                Err(error) => {
                    tracing::debug!(%error, "failed to send a datagram");
                    "not_sent"
                }
            },
        };
        self.state.metrics.drop_datagram(dropped);
        pause(self.account.unbilled(payload.len())).await;
    }

    /// Ends only with the socket's failure; a refusal by the node's host is not one.
    async fn down(&self, activity: &Activity) -> io::Error {
        loop {
            match poll_fn(|cx| self.node.poll_receive(cx)).await {
                Ok(datagram) => {
                    activity.note();
                    if datagram.payload.len() > Datagram::MAX_PAYLOAD {
                        self.state.metrics.drop_datagram("too_large");
                        continue;
                    }
                    if self.account.hold().is_some() {
                        self.state.metrics.drop_datagram("lease");
                        continue;
                    }
                    self.stream.send_datagram(&datagram.peer, &datagram.payload);
                    pause(self.account.received(datagram.payload.len())).await;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return error,
            }
        }
    }
}

async fn pause(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}
