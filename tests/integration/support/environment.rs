//! Variables and ports of processes that tests start.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) type Env = Vec<(String, String)>;

/// Configuration keys, such as `CONTROL__LISTEN`, as environment variables.
pub(crate) fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(key, value)| (format!("HTTVPS_{key}"), (*value).to_owned())).collect()
}

/// A port that no other test has. It lies below the ephemeral range, so that it stays free while its process is down.
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

/// The variables of a gateway that serves TLS and nothing else.
pub(crate) fn standalone_gateway_env(state: &str, more: &[(&str, &str)]) -> Env {
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

/// The same without a key.
pub(crate) fn without(env: &Env, key: &str) -> Env {
    env.iter().filter(|(name, _)| name != &format!("HTTVPS_{key}")).cloned().collect()
}

/// The same with another value for a key.
pub(crate) fn with(env: &Env, key: &str, value: &str) -> Env {
    let mut env = without(env, key);
    env.push((format!("HTTVPS_{key}"), value.to_owned()));
    env
}

pub(crate) fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

pub(crate) const TO_MOUNT: &str = "root, to mount a small disk";
pub(crate) const TO_MAKE_NAMESPACES: &str = "root and iproute2, to make a network namespace";
pub(crate) const TO_SHIFT_CLOCKS: &str = "Debian's faketime";

/// Reports a skipped test and what it needs, on standard error even where the harness captures output.
pub(crate) fn skip(test: &str, needs: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: needs {needs}");
}
