//! The streams of a session: to a node and through it, to another one if the first cannot be reached.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::association::Association;
use super::control::ControlError;
use super::egress;
use super::nodes::{Exit, MonitoredStream};
use super::session::Session;
use crate::api::AssignOutline;
use crate::digest::fresh_number;
use crate::frame::{SessionCode, StreamCode, Target, Token};
use crate::net::tunnel::{Relay, Timeouts, TunnelStream};

const NO_NODE: &str = SessionCode::NoNodeAvailable.as_str();

impl Session {
    /// Serves one stream to its end.
    pub(super) async fn run(&self, stream: TunnelStream, target: Option<Target>) -> Result<(), StreamCode> {
        let ended = match target {
            Some(target) => match self.dial_unless_gone(&stream, target).await {
                Ok((node, exit)) => return self.relay(stream, node, &exit).await,
                Err(code) => Err(code),
            },
            None => self.associate(&stream).await,
        };
        match ended {
            Ok(()) => stream.finish(),
            Err(code) => stream.reset(code),
        }
        ended
    }

    async fn dial_unless_gone(
        &self,
        stream: &TunnelStream,
        target: Target,
    ) -> Result<(MonitoredStream, Arc<Exit>), StreamCode> {
        tokio::select! {
            dialled = self.dial(target) => dialled,
            () = stream.gone() => Err(StreamCode::Cancelled),
        }
    }

    async fn relay(&self, stream: TunnelStream, node: MonitoredStream, exit: &Exit) -> Result<(), StreamCode> {
        let idle = self.state.relay.idle_timeout;
        let timeouts = Timeouts { idle, half_open: idle, linger: self.state.relay.linger };
        let doomed = node.doomed();
        let over = async {
            tokio::select! {
                () = exit.retired() => StreamCode::NodeDown,
                () = doomed.cancelled() => StreamCode::NodeDown,
            }
        };
        Relay::new(stream, node, &*self.account, timeouts).run_until(over).await
    }

    async fn associate(&self, stream: &TunnelStream) -> Result<(), StreamCode> {
        let exit = self.place().await;
        let node = exit.associate(self.state.relay.dial_timeout).await.map_err(|error| {
            tracing::warn!(session = %self.id, node = %exit.id, %error, "failed to open a datagram socket to a node");
            StreamCode::NodeDown
        })?;
        let (account, state, lookups) = (&*self.account, &*self.state, &self.lookups);
        let association = Association { stream, node: &node, account, state, lookups };
        tokio::select! {
            ended = association.run() => ended,
            () = exit.retired() => Err(StreamCode::NodeDown),
            () = self.has_left(&exit) => Err(StreamCode::NodeDown),
        }
    }

    /// Resolves once the node is down and there is another one.
    async fn has_left(&self, exit: &Exit) {
        loop {
            exit.went_down().await;
            if self.state.nodes.other(exit, 0).is_some() {
                return;
            }
        }
    }

    fn exit(&self) -> Arc<Exit> {
        Arc::clone(&self.exit.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks the destination and connects to the session's node; if it cannot be reached, moves the session to another one
    /// and tries once more.
    async fn dial(&self, target: Target) -> Result<(MonitoredStream, Arc<Exit>), StreamCode> {
        let is_name = matches!(target, Target::Name(..));
        let target = egress::admit(target, &self.state.egress, &self.lookups).await?;
        let attempt = match &target {
            Target::Ip(address) if is_name => Some(self.lookups.attempt(address.ip(), &self.state.egress)),
            Target::Ip(_) | Target::Name(..) => None,
        };
        let (mut stream, exit) = self.dial_admitted(target).await?;
        if let Some(attempt) = attempt {
            stream.attempts(attempt);
        }
        Ok((stream, exit))
    }

    async fn dial_admitted(&self, target: Target) -> Result<(MonitoredStream, Arc<Exit>), StreamCode> {
        let exit = self.place().await;
        if let Some(stream) = self.try_dial(&exit, target.clone()).await {
            return Ok((stream, exit));
        }
        let exit = self.move_from(&exit).await.ok_or(StreamCode::NodeDown)?;
        let stream = self.try_dial(&exit, target).await.ok_or(StreamCode::NodeDown)?;
        Ok((stream, exit))
    }

    /// The session's node; another one if it is down, draining or withdrawn and there is another.
    async fn place(&self) -> Arc<Exit> {
        let held = self.exit();
        let exit = match self.state.nodes.latest(&held) {
            Some(exit) if exit.is_up() && !exit.is_draining() => return exit,
            Some(exit) => exit,
            None => held,
        };
        self.move_from(&exit).await.unwrap_or(exit)
    }

    /// The device's token, unless it is out of date.
    fn fresh_token(&self) -> Option<Token> {
        let token = self.account.token();
        self.state.keys.check_at_once(token.expose()).is_ok().then(|| token.clone())
    }

    async fn try_dial(&self, exit: &Exit, target: Target) -> Option<MonitoredStream> {
        let started = Instant::now();
        match exit.open(target, &self.state.relay).await? {
            Ok(stream) => {
                let label = exit.id.to_string();
                self.state.metrics.node_dial.with_label_values(&[&label]).observe(started.elapsed().as_secs_f64());
                Some(stream)
            }
            Err(error) => {
                tracing::warn!(session = %self.id, node = %exit.id, %error, "failed to connect to a node");
                None
            }
        }
    }

    /// Another node for the session's new streams; streams that wait for it at once ask once. If there is none, nobody
    /// asks again for a while.
    async fn move_from(&self, failed: &Exit) -> Option<Arc<Exit>> {
        let _turn = self.moving.lock().await;
        let current = self.exit();
        if current.id != failed.id && current.is_up() {
            return Some(current);
        }
        let until = *self.stays_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let other = self.assigned(failed).await;
        if other.is_none() {
            let pause = if failed.is_up() { self.state.tunnel.retry_after } else { self.state.nodes.retry_after() };
            *self.stays_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
        }
        other
    }

    async fn assigned(&self, failed: &Exit) -> Option<Arc<Exit>> {
        let request = AssignOutline {
            access_token: self.fresh_token(),
            region: self.region.clone(),
            user_id: self.user,
            device_id: self.device,
            session_id: Some(self.id),
            exclude: self.state.nodes.down(),
        };
        let exit = match self.state.control.assign(&request).await {
            Ok(assigned) => self.state.nodes.exit(&assigned.node).ok(),
            Err(ControlError::Refused { status, code }) if status.is_client_error() || code == NO_NODE => None,
            Err(_) => self.state.nodes.other(failed, fresh_number()),
        }?;
        *self.exit.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&exit);
        Some(exit)
    }
}
