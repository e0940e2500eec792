use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use fastwebsockets::OpCode;

use super::{Driver, Ended};
use crate::frame::SessionCode;
use crate::mux::{Message, SessionError};
use crate::net::tunnel::carrier::Carrier;

/// What is read and thrown away of a peer that broke the rules, or whose session never opened.
pub(super) const DISCARD_MAX: usize = 64 * 1024;

impl<C: Carrier> Driver<C> {
    /// Whether the session outlives the connection: it is on another one, whatever came by this one, or waits for one.
    pub(super) fn is_lost(&mut self, ended: &Ended) -> bool {
        self.succeed();
        if self.tunnel.attached(self.number).is_err() {
            return true;
        }
        match ended {
            Ended::Replaced => true,
            Ended::Io(_) | Ended::Gone | Ended::Session(SessionError::Silent(_)) => {
                self.tunnel.state().lose(self.number)
            }
            Ended::ByPeer => {
                let mut state = self.tunnel.state();
                state.session.is_resuming() && state.lose(self.number)
            }
            Ended::Closed | Ended::Session(_) | Ended::Violation(_) => false,
        }
    }

    /// Throws away what comes, a little of it, until the session is closed or the peer is gone.
    pub(super) async fn keep_silent(&mut self) -> Ended {
        let tunnel = self.tunnel.clone();
        let closed = poll_fn(|cx| {
            let mut state = tunnel.state();
            if state.session.is_closed() {
                return Poll::Ready(());
            }
            state.driver = Some(cx.waker().clone());
            Poll::Pending
        });
        let discarded = async {
            match self.discard().await {
                Ok(true) => Ended::Gone,
                Ok(false) => std::future::pending().await,
                Err(error) => Ended::Io(error),
            }
        };
        tokio::select! {
            () = closed => Ended::Closed,
            ended = discarded => ended,
        }
    }

    /// Reads until the peer closes; gives whether it did before enough was read.
    async fn discard(&mut self) -> io::Result<bool> {
        while self.discard > 0 {
            self.inbox.discard(self.discard);
            match poll_fn(|cx| self.carrier.poll_read(cx, &mut self.inbox)).await? {
                0 => return Ok(true),
                read => self.discard = self.discard.saturating_sub(read),
            }
        }
        Ok(false)
    }

    /// Says why, closes, and reads on until the peer closes too, so that what was said is not lost to a TCP reset.
    pub(super) async fn linger(&mut self, ended: &Ended) -> io::Result<()> {
        match ended {
            Ended::Io(_) | Ended::Gone | Ended::Replaced => return Ok(()),
            Ended::Closed => {}
            Ended::Session(error) => self.tunnel.close(Some(error.code()), &error.to_string()),
            Ended::ByPeer => self.tunnel.close(None, ""),
            Ended::Violation(violation) => {
                self.tunnel.close(None, "");
                while self.tunnel.state().session.poll_transmit().is_some() {}
                self.queue(Message::from(&violation.close_code().to_be_bytes()[..]), OpCode::Close);
            }
        }
        poll_fn(|cx| match self.poll_write(cx) {
            Ok(true) => self.carrier.poll_shutdown(cx),
            Ok(false) => Poll::Pending,
            Err(Ended::Io(error)) => Poll::Ready(Err(error)),
            Err(_) => Poll::Ready(Ok(())),
        })
        .await?;
        if matches!(ended, Ended::Session(_) | Ended::Violation(_)) {
            self.discard = self.discard.min(DISCARD_MAX);
        }
        self.discard().await.map(|_| ())
    }

    /// Ready when a session that has ended could not send its last messages in time.
    pub(super) fn poll_close_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.close_deadline.is_none() {
            if !self.tunnel.state().session.is_closed() {
                return Poll::Pending;
            }
            self.close_deadline = Some(Box::pin(tokio::time::sleep(self.transport.close_timeout)));
        }
        match &mut self.close_deadline {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The WebSocket status of a session code: 4000 + its number, 1001 for going away.
pub(super) fn close_status(code: SessionCode) -> u16 {
    if code == SessionCode::GoingAway { 1001 } else { 4000 + code.number() }
}
