//! One address in front of several servers.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// One address in front of several gateways.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    pub(crate) chosen: watch::Sender<String>,
    task: AbortHandle,
}

impl Balancer {
    pub(crate) async fn to(gateway: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (chosen, seen) = watch::channel(gateway.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let gateway = seen.borrow().clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(gateway).await.unwrap();
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
