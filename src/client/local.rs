//! Local programs' connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::link::Link;
use crate::lifecycle::Shutdown;
use crate::net::listener;
use crate::net::tunnel::{Relay, TunnelStream};

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

/// Moves bytes between a program and its stream.
pub(super) async fn relay<S>(stream: TunnelStream, socket: S, link: &Link) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Relay::new(stream, socket, &(), link.patience()).run().await.map_err(|code| io::Error::other(code.as_str()))
}
