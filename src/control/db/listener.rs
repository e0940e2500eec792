use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::connect::Connector;
use super::pg;

/// Why events are not heard of, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Connection(#[from] diesel::ConnectionError),
    #[error(transparent)]
    Failed(#[from] diesel::result::Error),
    #[error("LISTEN is not answered")]
    Unanswered,
    #[error("the connection was closed")]
    Closed,
    #[error("the connection is dead")]
    Dead,
}

/// Hears of events that any replica writes.
pub struct Listener {
    pub(super) connector: Connector,
    pub(super) patience: Duration,
    /// Silence after which the connection is asked whether it is still there.
    pub(super) quiet: Duration,
}

impl Listener {
    /// Listens until the connection is lost; `heard` is called at the start, too.
    pub async fn run(&self, heard: impl Fn()) -> Result<(), ListenError> {
        let mut conn = self.connector.connect().await?;
        let listening = format!("LISTEN {}", pg::EVENTS);
        let asked = timeout(self.patience, conn.batch_execute(&listening)).await;
        asked.map_err(|_| ListenError::Unanswered)??;
        heard();
        loop {
            {
                let mut notifications = std::pin::pin!(conn.notifications_stream());
                while let Ok(next) = timeout(self.quiet, notifications.next()).await {
                    let Some(notification) = next else { return Err(ListenError::Closed) };
                    notification?;
                    heard();
                }
            }
            let asked = timeout(self.patience, conn.batch_execute("SELECT 1")).await;
            asked.map_err(|_| ListenError::Dead)??;
        }
    }
}
