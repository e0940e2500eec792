//! How tests wait: for conditions, not for time to pass.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// Polls until a condition returns a value.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(mut condition: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) => assert!(tokio::time::Instant::now() < deadline, "never: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a server listens at an address.
pub(crate) async fn is_listening(address: impl Into<SocketAddr>) {
    let address = address.into();
    eventually(|| async move { TcpStream::connect(address).await.map(|_| ()).map_err(|error| error.to_string()) })
        .await;
}
