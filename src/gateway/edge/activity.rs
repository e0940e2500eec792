use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// How often activity is reported.
const EVERY: Duration = Duration::from_millis(500);

/// A connection that reports, now and then, that bytes move to its caller.
pub(in crate::gateway) fn observed<S: AsyncWrite>(socket: S, touch: impl Fn()) -> InspectWriter<S, impl FnMut(&[u8])> {
    let mut reported_at: Option<Instant> = None;
    InspectWriter::new(socket, move |_: &[u8]| {
        let now = Instant::now();
        if reported_at.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            reported_at = Some(now);
            touch();
        }
    })
}
