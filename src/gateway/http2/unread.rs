use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use h2::FlowControl;
use tokio::task::AbortHandle;

/// Streams of a connection that are no tunnel that was admitted, and what they hold unread of its window.
#[derive(Default)]
pub(super) struct Unread(Vec<Stream>);

struct Stream {
    flow: FlowControl,
    task: AbortHandle,
    /// Set once a tunnel was admitted.
    admitted: Option<Arc<AtomicBool>>,
}

impl Stream {
    fn counts(&self) -> bool {
        !self.task.is_finished() && !self.admitted.as_ref().is_some_and(|admitted| admitted.load(Ordering::Relaxed))
    }
}

impl Unread {
    /// One more that a task serves.
    pub(super) fn watch(&mut self, flow: FlowControl, task: AbortHandle, admitted: Option<Arc<AtomicBool>>) {
        self.0.push(Stream { flow, task, admitted });
    }

    /// Gives up those that are over, so that HTTP/2 can.
    pub(super) fn forget_ended(&mut self) {
        self.0.retain(Stream::counts);
    }

    /// Ends those that hold most, until the others together hold no more than `most` bytes; says how many.
    pub(super) fn bound(&mut self, most: usize) -> usize {
        let held = |streams: &[Stream]| streams.iter().map(|stream| stream.flow.used_capacity()).sum::<usize>();
        let mut ended = 0;
        while held(&self.0) > most {
            self.forget_ended();
            let largest = self.0.iter().enumerate().max_by_key(|(_, stream)| stream.flow.used_capacity());
            let Some(largest) = largest.map(|(at, _)| at) else { return ended };
            if held(&self.0) > most {
                self.0.swap_remove(largest).task.abort();
                ended += 1;
            }
        }
        ended
    }
}
