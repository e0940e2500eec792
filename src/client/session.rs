//! The client's session: active, held without a connection, or to be reconnected.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fault::{ConnectionError, TunnelEnd};
use super::network::Route;
use super::refused::Refused;
use super::transports::Transports;
use crate::frame::{Resumable, Token};
use crate::mux::Event;
use crate::net::tunnel::{Ended, Tunnel};

/// How often it is seen whether a tunnel that is left has no streams any more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the next connection has to know of the last one.
pub(super) struct ReconnectState {
    /// A session that the gateway wants to end, and that serves meanwhile.
    pub(super) leaving: Option<ActiveTunnel>,
    /// A session whose connection was lost.
    pub(super) held: Option<HeldSession>,
    /// The last session, unless it serves still.
    pub(super) session: Option<String>,
    /// How packets travelled to the gateway.
    pub(super) route: Option<Route>,
    pub(super) transports: Transports,
}

impl ReconnectState {
    /// Nothing was connected yet.
    pub(super) fn new(transports: Transports) -> Self {
        Self { leaving: None, held: None, session: None, route: None, transports }
    }

    /// Whether no session is there to go on with.
    pub(super) fn is_over(&self) -> bool {
        self.leaving.is_none() && self.held.is_none()
    }
}

/// What became of a connection.
pub(super) enum Outcome {
    /// The gateway said why, and maybe when to come back.
    Told(Refused, Option<Duration>),
    /// The connection failed or was lost.
    Lost(ConnectionError),
    /// The transport did not get through.
    Refused(ConnectionError),
    /// The connection was being made over a network that is not the host's any more.
    Elsewhere,
    /// The connection was lost, and the session may be held.
    Held(HeldSession),
    /// The gateway wants the next tunnel elsewhere or later; this one goes on until then.
    Moved(ActiveTunnel, Duration),
}

/// A session without a connection, and how to go on with it; dropped before it has another one, it is over.
pub(super) struct HeldSession {
    pub(super) tunnel: Tunnel,
    pub(super) ticket: Token,
    until: Instant,
    has_resumed: bool,
}

impl HeldSession {
    pub(super) fn new(tunnel: &Tunnel, Resumable { ticket, hold, .. }: Resumable) -> Self {
        let until = Instant::now() + Duration::from_secs(hold);
        Self { tunnel: tunnel.clone(), ticket, until, has_resumed: false }
    }

    /// The session has another connection, even if that is lost already.
    pub(super) fn has_resumed(mut self) {
        self.has_resumed = true;
    }

    /// Whether the gateway does not hold it any more.
    pub(super) fn is_over(&self) -> bool {
        self.until <= Instant::now() || self.tunnel.is_gone()
    }
}

impl Drop for HeldSession {
    fn drop(&mut self) {
        if !self.has_resumed {
            self.tunnel.give_up();
        }
    }
}

/// A tunnel and what moves its bytes; dropped, the connection ends.
pub(super) struct ActiveTunnel {
    pub(super) tunnel: Tunnel,
    pub(super) driving: JoinHandle<Ended>,
}

impl ActiveTunnel {
    /// Why the connection ended.
    pub(super) async fn end(&mut self) -> TunnelEnd {
        match (&mut self.driving).await {
            Ok(ended) => ended.into(),
            Err(error) => error.into(),
        }
    }

    /// Leaves the connection. Gives whether the session waits for another one; if it cannot, it ends.
    pub(super) fn leave(mut self) -> bool {
        self.tunnel.leave();
        if self.tunnel.is_held() {
            return true;
        }
        self.tunnel.close(None, "");
        tokio::spawn(async move { self.end().await });
        false
    }

    /// Lets the streams go on to their ends, then closes.
    pub(super) async fn finish(mut self) {
        while self.tunnel.stream_count() > 0 {
            tokio::select! {
                event = self.tunnel.next_event() => match event {
                    Some(Event::Held) => self.tunnel.give_up(),
                    Some(_) => {}
                    None => break,
                },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        self.tunnel.close(None, "");
        self.end().await;
    }
}

impl Drop for ActiveTunnel {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tunnel::testing::{connected, resumable};

    #[tokio::test]
    async fn a_session_that_is_not_gone_on_with_is_over() {
        let (client, _gateway) = connected().await;
        client.leave();
        drop(HeldSession::new(&client, resumable()));
        assert!(client.is_gone());
    }

    #[tokio::test]
    async fn a_session_that_was_resumed_outlives_the_loss_of_its_new_connection() {
        let (client, _gateway) = connected().await;
        client.leave();
        let held = HeldSession::new(&client, resumable());
        held.has_resumed();
        assert!(client.is_held());
    }
}
