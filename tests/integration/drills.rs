//! What a failure costs, and that it leaves nothing behind: short in `make test`, long in `make soak` (docs/08, "What
//! a failure
//! looks like").

mod clocks;
mod crowd;
mod deployment;
mod disks;
mod kills;
mod load;
mod partitions;
mod readers;

/// The size of a drill: small in tests, large in a soak.
struct Scale {
    /// Idle tunnels.
    idle: usize,
    /// Tunnels that always transfer something.
    busy: usize,
    /// Tunnels whose destinations read nothing.
    stalled: usize,
    /// How long each phase of a drill lasts.
    phase: std::time::Duration,
}

fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

fn scale() -> Scale {
    Scale {
        idle: setting("HTTVPS_DRILL_IDLE", 20),
        busy: setting("HTTVPS_DRILL_BUSY", 4),
        stalled: setting("HTTVPS_DRILL_STALLED", 80),
        phase: std::time::Duration::from_millis(setting("HTTVPS_DRILL_PHASE_MS", 500) as u64),
    }
}
