//! Shutdown in two steps: drain softly, then abort (docs/01).

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What every part of a role watches to end, and where its tasks are counted.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Asks for a soft end: no new work, open work may finish.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything now.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Resolves once draining was asked for.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves once everything has to end.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Whether draining was asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// A shutdown that also ends with this one and has tasks of its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), abort: self.abort.child_token(), tasks: TaskTracker::new() }
    }

    /// Starts a task that [`Shutdown::finished`] waits for.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Whether no task runs.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Resolves when draining was asked for and every task has ended.
    pub async fn finished(&self) {
        self.draining().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// As [`Self::on_signals`]; SIGHUP, which ends a process by default, does nothing here.
    pub fn on_signals_of_a_role(&self) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: certificates are read again, and nothing else");
            }
        });
        self.on_signals()
    }

    /// Drains on SIGTERM or SIGINT, aborts on the second.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if shutdown.is_draining() {
                    tracing::warn!("second signal: ending now");
                    shutdown.abort();
                    return;
                }
                tracing::info!("signal: draining");
                shutdown.drain();
            }
        });
        Ok(())
    }
}

/// SIGHUP, for parts that read something again.
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Hears what comes from now on.
    #[must_use]
    pub fn new() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    /// Resolves with the next one; never where signals cannot be heard.
    pub async fn heard(&mut self) {
        let heard = match &mut self.0 {
            Some(hangup) => hangup.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for Hangup {
    fn default() -> Self {
        Self::new()
    }
}
