//! Clients that use up a quota.

use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::support::destination::Destination;
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::read_until_closed;

/// How far each gateway may exceed a quota: the bytes in flight while it decides.
pub(crate) const IN_FLIGHT: u64 = 4 * 65_536;

pub(crate) const STREAMS: usize = 20;

/// Opens a stream and reads until it ends; returns the number of bytes.
pub(crate) async fn open_and_read_until_closed(proxy: String, endless: std::net::SocketAddr) -> u64 {
    let Ok(mut socket) = socks::connect(&proxy, endless).await else { return 0 };
    if socket.write_all(b"x").await.is_err() {
        return 0;
    }
    read_until_closed(socket).await
}

/// Lets clients stream at full speed until each is refused with `LIMIT_REACHED`; returns the bytes received and when
/// each client ended.
pub(crate) async fn use_up_quota(clients: Vec<Process>, endless: &Destination) -> (u64, Vec<Instant>) {
    let mut reading = tokio::task::JoinSet::new();
    for client in &clients {
        for _ in 0..STREAMS {
            reading.spawn(open_and_read_until_closed(client.line("socks").to_owned(), endless.address));
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
