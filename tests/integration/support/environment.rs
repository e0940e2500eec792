//! Variables and ports of processes that tests start.

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) type Env = Vec<(String, String)>;

pub(crate) fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(key, value)| (format!("HTTVPS_{key}"), (*value).to_owned())).collect()
}

/// A port of no other test, below those that connections are given by themselves: it stays free while its process is dead.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (number % 10_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Of a gateway that serves TLS and nothing else.
pub(crate) fn alone(state: &str, more: &[(&str, &str)]) -> Env {
    let mut all = env(&[
        ("GATEWAY__LISTEN", "127.0.0.1:0"),
        ("GATEWAY__CONTROL_URL", "http://127.0.0.1:9"),
        ("GATEWAY__TOKEN", "t"),
        ("GATEWAY__STATE_DIR", state),
        ("TUNNEL__PATH", "/p"),
        ("OPS__GATEWAY_LISTEN", "127.0.0.1:0"),
    ]);
    all.extend(env(more));
    all
}
