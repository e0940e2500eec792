//! One address in front of several servers.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// One address that forwards to the chosen one of several servers.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    pub(crate) chosen: watch::Sender<String>,
    task: AbortHandle,
}

impl Balancer {
    pub(crate) async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (chosen, seen) = watch::channel(server.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let server = seen.borrow().clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(server).await else { return };
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, chosen, task: task.abort_handle() }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
