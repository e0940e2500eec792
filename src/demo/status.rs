use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::net::tls;

const EVERY: Duration = Duration::from_secs(1);

/// Keeps a line with sessions, streams and bytes on a terminal; does nothing elsewhere. Never ends.
pub(super) async fn show(ops: Option<SocketAddr>) {
    let Some(ops) = ops.filter(|_| std::io::stdout().is_terminal()) else {
        return std::future::pending().await;
    };
    let url = format!("http://{ops}/metrics");
    let tls = tls::client_for(&url, None).map(|config| config.as_ref().clone());
    let client = tls.map(|config| reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config).build());
    let Ok(Ok(client)) = client else { return std::future::pending().await };
    let mut shown = String::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(response) = client.get(&url).send().await else { continue };
        let Ok(text) = response.text().await else { continue };
        let line = line(&text);
        if line != shown {
            let mut out = std::io::stdout().lock();
            if write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()).is_err() {
                return std::future::pending().await;
            }
            shown = line;
        }
    }
}

fn line(metrics: &str) -> String {
    let values: HashMap<&str, u64> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let value = |name: &str| values.get(name).copied().unwrap_or(0);
    format!(
        "sessions {}  streams {}  up {}  down {}",
        value("httvps_sessions"),
        value("httvps_streams"),
        ByteSize(value("httvps_bytes_total{direction=\"up\"}")),
        ByteSize(value("httvps_bytes_total{direction=\"down\"}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_gateway_shows() {
        let metrics = "# HELP x\nhttvps_sessions 1\nhttvps_streams 2\n\
            httvps_bytes_total{direction=\"up\"} 1024\nhttvps_bytes_total{direction=\"down\"} 2048\n";
        assert_eq!(line(metrics), "sessions 1  streams 2  up 1.0 KiB  down 2.0 KiB");
    }
}
