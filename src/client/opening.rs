//! New streams, one after the other as fast as the gateway takes them.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore};

use super::connection::Connection;
use super::fault::OpeningError;
use crate::config;
use crate::frame::Target;
use crate::mux::OpenError;
use crate::net::tunnel::{Tunnel, TunnelStream};

/// How often a stream that finds no room looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The streams that wait to be opened: the first of them looks, the others stand behind it.
pub(super) struct Openings {
    waiting: Semaphore,
    turn: Mutex<()>,
    timeout: Duration,
}

impl Openings {
    pub(super) fn new(config: &config::Client) -> Self {
        let queue = config.open_queue.min(Semaphore::MAX_PERMITS);
        Self { waiting: Semaphore::new(queue), turn: Mutex::default(), timeout: config.open_timeout }
    }

    /// Opens a stream on the tunnel there is then, in its turn.
    pub(super) async fn open(
        &self,
        connection: &Connection,
        target: &Target,
        first: &Bytes,
    ) -> Result<TunnelStream, OpeningError> {
        self.in_turn(connection, |tunnel| tunnel.open(target, first.clone())).await
    }

    /// The same for datagrams.
    pub(super) async fn open_udp(&self, connection: &Connection) -> Result<TunnelStream, OpeningError> {
        self.in_turn(connection, Tunnel::open_udp).await
    }

    async fn in_turn(
        &self,
        connection: &Connection,
        open: impl Fn(&Tunnel) -> Result<TunnelStream, OpenError>,
    ) -> Result<TunnelStream, OpeningError> {
        let _place = self.waiting.try_acquire().map_err(|_| OpeningError::QueueFull)?;
        let opening = async {
            let _turn = self.turn.lock().await;
            loop {
                match open(&connection.tunnel().await?) {
                    Ok(stream) => return Ok(stream),
                    Err(OpenError::Later(until)) => tokio::time::sleep_until(until.into()).await,
                    Err(OpenError::Limit | OpenError::NotOpen) => tokio::time::sleep(LOOK_AGAIN).await,
                    Err(error @ OpenError::Unsupported) => return Err(error.into()),
                }
            }
        };
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(OpeningError::TimedOut),
        }
    }
}
