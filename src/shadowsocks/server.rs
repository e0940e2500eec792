mod datagrams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ::shadowsocks::config::ServerType;
use ::shadowsocks::context::Context;
use ::shadowsocks::crypto::CipherKind;
use ::shadowsocks::relay::socks5::Address;
use ::shadowsocks::relay::tcprelay::proxy_listener::ProxyListener;
use ::shadowsocks::relay::tcprelay::proxy_stream::ProxyServerStream;
use ::shadowsocks::relay::tcprelay::utils::copy_encrypted_bidirectional;
use ::shadowsocks::relay::udprelay::proxy_socket::{ProxySocket, ProxySocketError};
use ::shadowsocks::{ServerAddr, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{KeyError, NodeKey};
use crate::lifecycle::Shutdown;
use crate::net::tunnel::ResetOnClose;

/// A small Shadowsocks server for the demo and for tests; `allow` decides on every address after resolution.
pub struct Server {
    listener: ProxyListener,
    datagrams: datagrams::Node,
    method: CipherKind,
    allow: fn(SocketAddr) -> bool,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Listener(#[from] io::Error),
    #[error(transparent)]
    Datagrams(#[from] ProxySocketError),
}

impl Server {
    /// Binds to a key's address.
    pub async fn bind(key: &NodeKey, allow: fn(SocketAddr) -> bool) -> Result<Self, ServerError> {
        let mut config: ServerConfig = key.server_config()?;
        let context = Context::new_shared(ServerType::Server);
        let listener = ProxyListener::bind(context.clone(), &config).await?;
        config.set_addr(ServerAddr::SocketAddr(listener.local_addr()?));
        let datagrams = ProxySocket::bind(context, &config).await?;
        Ok(Self { listener, datagrams: Arc::new(datagrams), method: config.method(), allow })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Relays until aborted.
    pub async fn serve(self, shutdown: Shutdown) {
        let datagrams = tokio::spawn(datagrams::serve(self.datagrams, self.allow));
        loop {
            let accepted = tokio::select! {
                () = shutdown.aborted() => return datagrams.abort(),
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (method, allow, lifetime) = (self.method, self.allow, shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = lifetime.aborted() => {}
                            ended = relay(stream, method, allow) => if let Err(error) = ended {
                                tracing::debug!(%error, "a node's stream ended");
                            }
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "the node cannot accept"),
            }
        }
    }
}

async fn relay(
    mut stream: ProxyServerStream<TcpStream>,
    method: CipherKind,
    allow: fn(SocketAddr) -> bool,
) -> io::Result<()> {
    let target = stream.handshake().await?;
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in resolve(target).await? {
        if !allow(address) {
            refused = io::ErrorKind::PermissionDenied.into();
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(mut socket) => {
                socket.set_nodelay(true)?;
                socket.reset_on_close(true);
                stream.get_ref().reset_on_close(true);
                copy_encrypted_bidirectional(method, &mut stream, &mut socket).await?;
                stream.shutdown().await?;
                socket.reset_on_close(false);
                stream.get_ref().reset_on_close(false);
                return Ok(());
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn resolve(target: Address) -> io::Result<Vec<SocketAddr>> {
    match target {
        Address::SocketAddress(address) => Ok(vec![address]),
        Address::DomainNameAddress(name, port) => Ok(tokio::net::lookup_host((name, port)).await?.collect()),
    }
}
