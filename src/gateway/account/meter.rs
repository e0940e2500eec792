use tokio::time::Instant;

use super::Account;
use crate::gateway::circuit::Availability;
use crate::net::buffered::CHUNK;
use crate::net::tunnel::Meter;

impl Meter for Account {
    fn hold(&self) -> Option<Instant> {
        if !self.is_out() {
            return None;
        }
        self.ask();
        match self.breaker.availability(self.lease.asked_at()) {
            Availability::Answering => {}
            Availability::Doubtful => {
                self.lease.bridge(&self.counters);
            }
            Availability::Away => self.open_up(),
        }
        self.is_out().then(|| Instant::now() + self.lease.look_again_in())
    }

    fn sent(&self, bytes: usize) -> Option<Instant> {
        self.counters.add_up(bytes);
        self.enforce();
        self.rate_limiter.up(bytes)
    }

    fn received(&self, bytes: usize) -> Option<Instant> {
        self.counters.add_down(bytes);
        self.enforce();
        self.rate_limiter.down(bytes)
    }

    fn chunk_limit(&self) -> usize {
        let limit = self.rate_limiter.chunk_limit().min(CHUNK);
        match usize::try_from(self.lease.left(self.counters.spent())) {
            Ok(left @ 1..) => left.min(limit),
            Ok(0) | Err(_) => limit,
        }
    }
}
