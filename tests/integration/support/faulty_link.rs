//! A link between a client and its gateway that can fail in several ways.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What happens to existing connections when the link fails; new ones pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Both sides are reset.
    Reset,
    /// Data is dropped silently.
    Swallowed,
}

/// Forwards connections, like the network that a client is in.
pub(crate) struct FaultyLink {
    pub(crate) address: SocketAddr,
    to: Arc<Mutex<String>>,
    lost: watch::Sender<Option<Loss>>,
    refused: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl FaultyLink {
    pub(crate) async fn to(gateway: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(Mutex::new(gateway.to_owned()));
        let lost = watch::Sender::new(None);
        let refused = Arc::new(AtomicUsize::new(0));
        let (target, switched, refuse) = (Arc::clone(&to), lost.clone(), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if refuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    continue;
                }
                let target = target.lock().unwrap().clone();
                tokio::spawn(carry(near, target, switched.subscribe()));
            }
        });
        Self { address, to, lost, refused, task: task.abort_handle() }
    }

    /// Fails existing connections, as if the client had changed networks.
    pub(crate) fn switch(&self, loss: Loss) {
        self.lost.send_replace(Some(loss));
    }

    /// Closes the next new connections at once.
    pub(crate) fn refuse(&self, connections: usize) {
        self.refused.store(connections, Ordering::Relaxed);
    }

    /// Sends new connections to another gateway.
    pub(crate) fn lead_to(&self, gateway: &str) {
        gateway.clone_into(&mut self.to.lock().unwrap());
    }
}

impl Drop for FaultyLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, to: String, mut switched: watch::Receiver<Option<Loss>>) -> std::io::Result<()> {
    switched.mark_unchanged();
    let mut far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::select! {
        passed = tokio::io::copy_bidirectional(&mut near, &mut far) => {
            if passed.is_err() {
                near.set_zero_linger()?;
                far.set_zero_linger()?;
            }
            return Ok(());
        }
        changed = switched.changed() => if changed.is_err() { return Ok(()) },
    }
    let loss = *switched.borrow_and_update();
    if loss == Some(Loss::Swallowed) {
        while switched.changed().await.is_ok() {}
    }
    near.set_zero_linger()?;
    far.set_zero_linger()
}
