//! Local programs' connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::connection::Connection;
use crate::frame::Target;
use crate::lifecycle::Shutdown;
use crate::net::listener;
use crate::net::tunnel::{Relay, ResetOnClose};

/// Most bytes that open a stream: a TLS record less what goes around them.
const FIRST_BYTES: usize = 16_000;

type Serving = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Accepts until draining.
pub(super) async fn accept(
    listener: TcpListener,
    connection: &Arc<Connection>,
    shutdown: &Shutdown,
    serve: fn(TcpStream, Arc<Connection>) -> Serving,
) {
    loop {
        let socket = tokio::select! {
            () = shutdown.draining() => return,
            (socket, _) = listener::accept(&listener) => socket,
        };
        let serving = serve(socket, Arc::clone(connection));
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "local connection closed with an error");
            }
        });
    }
}

/// Opens a stream with the program's first bytes, waiting a moment for them if there are none yet, and moves bytes until
/// both are done. Whatever goes wrong resets the program's connection.
pub(super) async fn relay(
    target: &Target,
    mut socket: TcpStream,
    mut first: BytesMut,
    connection: &Connection,
) -> io::Result<()> {
    socket.reset_on_close(true);
    first.reserve(FIRST_BYTES);
    if first.is_empty()
        && let Ok(read) = timeout(connection.coalesce(), socket.read_buf(&mut first)).await
    {
        read?;
    }
    let stream = connection.open(target, &first.freeze()).await.map_err(io::Error::other)?;
    Relay::new(stream, socket, &(), connection.timeouts()).run().await.map_err(|code| io::Error::other(code.as_str()))
}
