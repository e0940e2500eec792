//! Clients that use a quota up.

use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::support::destination::Destination;
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::drain;

/// What each gateway may overshoot by: what is in flight while it decides.
pub(crate) const IN_FLIGHT: u64 = 4 * 65_536;

pub(crate) const STREAMS: usize = 20;

/// Opens a stream and reads until it ends; gives how much came.
pub(crate) async fn drained(proxy: String, endless: std::net::SocketAddr) -> u64 {
    let Ok(mut socket) = socks::connect(&proxy, endless).await else { return 0 };
    if socket.write_all(b"x").await.is_err() {
        return 0;
    }
    drain(socket).await
}

/// Lets clients stream flat out until each is refused with `LIMIT_REACHED`; gives what came and when each ended.
pub(crate) async fn spend(clients: Vec<Process>, endless: &Destination) -> (u64, Vec<Instant>) {
    let mut reading = tokio::task::JoinSet::new();
    for client in &clients {
        for _ in 0..STREAMS {
            reading.spawn(drained(client.line("socks").to_owned(), endless.address));
        }
    }
    let ends = clients.into_iter().map(|client| async move {
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("error: LIMIT_REACHED"), "{}", ended.stderr);
        Instant::now()
    });
    let ends = futures_util::future::join_all(ends).await;
    (reading.join_all().await.into_iter().sum(), ends)
}
