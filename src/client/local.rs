//! Local programs' connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::link::Link;
use crate::frame::Target;
use crate::lifecycle::Shutdown;
use crate::net::listener;
use crate::net::tunnel::{Relay, Tunnel};

/// Most bytes that open a stream: a TLS record less what goes around them.
const FIRST_BYTES: usize = 16_000;

type Serving = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Accepts until draining.
pub(super) async fn accept(
    listener: TcpListener,
    link: &Arc<Link>,
    shutdown: &Shutdown,
    serve: fn(TcpStream, Arc<Link>) -> Serving,
) {
    loop {
        let socket = tokio::select! {
            () = shutdown.draining() => return,
            (socket, _) = listener::accept(&listener) => socket,
        };
        let serving = serve(socket, Arc::clone(link));
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a program's connection ended");
            }
        });
    }
}

/// Opens a stream with the program's first bytes, if it has some at once, and moves bytes until both are done.
pub(super) async fn relay<S>(tunnel: Tunnel, target: &Target, mut socket: S, link: &Link) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = BytesMut::with_capacity(FIRST_BYTES);
    if let Ok(read) = timeout(link.coalesce(), socket.read_buf(&mut first)).await {
        read?;
    }
    let stream = tunnel.open(target, first.freeze()).map_err(io::Error::other)?;
    Relay::new(stream, socket, &(), link.patience()).run().await.map_err(|code| io::Error::other(code.as_str()))
}
