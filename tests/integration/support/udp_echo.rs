//! A UDP echo server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Echoes every datagram and counts the bytes.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) got: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let got = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&got);
        let task = tokio::spawn(async move {
            let mut packet = vec![0; 65_536];
            loop {
                let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                counter.fetch_add(len as u64, Ordering::SeqCst);
                socket.send_to(&packet[..len], from).await.unwrap();
            }
        });
        Self { address, got, task: task.abort_handle() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}
