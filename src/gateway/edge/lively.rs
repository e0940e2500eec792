use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// How often a connection that moves says so.
const EVERY: Duration = Duration::from_millis(500);

/// A connection that tells, now and then, that bytes move to its caller.
pub(in crate::gateway) fn lively<S: AsyncWrite>(socket: S, tell: impl Fn()) -> InspectWriter<S, impl FnMut(&[u8])> {
    let mut told: Option<Instant> = None;
    InspectWriter::new(socket, move |_: &[u8]| {
        let now = Instant::now();
        if told.is_none_or(|told| now.saturating_duration_since(told) >= EVERY) {
            told = Some(now);
            tell();
        }
    })
}
