use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::connect::Connector;
use super::pg;

/// Hears of events that any replica writes.
pub struct Listener {
    pub(super) connector: Connector,
    pub(super) patience: Duration,
    /// Silence after which the connection is asked whether it is still there.
    pub(super) quiet: Duration,
}

impl Listener {
    /// Listens until the connection is lost; `heard` is called at the start, too.
    pub async fn run(&self, heard: impl Fn()) -> Result<(), String> {
        let failed = |error: diesel::result::Error| error.to_string();
        let mut conn = self.connector.connect().await.map_err(|error| error.to_string())?;
        let listening = format!("LISTEN {}", pg::EVENTS);
        let asked = timeout(self.patience, conn.batch_execute(&listening)).await;
        asked.map_err(|_| "LISTEN is not answered".to_owned())?.map_err(failed)?;
        heard();
        loop {
            {
                let mut notifications = std::pin::pin!(conn.notifications_stream());
                while let Ok(next) = timeout(self.quiet, notifications.next()).await {
                    let Some(notification) = next else { return Err("the connection was closed".into()) };
                    notification.map_err(failed)?;
                    heard();
                }
            }
            let asked = timeout(self.patience, conn.batch_execute("SELECT 1")).await;
            asked.map_err(|_| "the connection is dead".to_owned())?.map_err(failed)?;
        }
    }
}
