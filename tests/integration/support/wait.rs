//! How tests wait: for a condition, never for a time.

use std::time::Duration;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until a condition gives a value.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(mut condition: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) => assert!(tokio::time::Instant::now() < deadline, "never: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
