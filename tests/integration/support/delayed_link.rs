//! A link to the gateway that delays data and records who sent when.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Client,
    Gateway,
}

/// Delays data in each direction and counts the turns of the conversation.
pub(crate) struct DelayedLink {
    pub(crate) address: SocketAddr,
    spoke: Arc<Mutex<Vec<Speaker>>>,
    task: AbortHandle,
}

impl DelayedLink {
    pub(crate) async fn to(gateway: String, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spoke = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&spoke);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(&gateway).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, delay, Speaker::Client, Arc::clone(&record)));
                tokio::spawn(carry(far_read, near_write, delay, Speaker::Gateway, Arc::clone(&record)));
            }
        });
        Self { address, spoke, task: task.abort_handle() }
    }

    /// The number of round trips: how often the client sent after the gateway had.
    pub(crate) fn round_trips(&self) -> usize {
        let mut spoke = self.spoke.lock().unwrap().clone();
        spoke.dedup();
        spoke.iter().filter(|speaker| **speaker == Speaker::Client).count()
    }
}

impl Drop for DelayedLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    speaker: Speaker,
    spoke: Arc<Mutex<Vec<Speaker>>>,
) {
    let (queue, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            spoke.lock().unwrap().push(speaker);
            queue.send((Instant::now() + delay, buffer[..read].to_vec())).unwrap();
        }
    };
    let writing = async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
