//! The reference client: a tunnel behind SOCKS5 and HTTP CONNECT (docs/03 is enough to write another).

mod connection;
mod datagrams;
mod dialer;
mod fault;
mod http;
mod local;
mod network;
mod opening;
mod refused;
mod session;
mod socks;
mod transports;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::{self, ConfigError, Source, key};
use crate::lifecycle::Shutdown;
use crate::net::listener;

use connection::Connection;
pub use refused::Refused;

/// A client that is bound and has not connected.
pub struct Client {
    connection: Arc<Connection>,
    socks: Option<TcpListener>,
    http: Option<TcpListener>,
}

impl Client {
    /// Checks the configuration and binds the local listeners.
    pub async fn bind(source: &Source) -> Result<Self, ConfigError> {
        let config: config::Client = source.section()?;
        for (key, missing) in [
            (key!(config::Client, gateway), config.gateway.is_empty()),
            (key!(config::Client, device_id), config.device_id.is_empty()),
            (key!(config::Client, token), config.token.is_empty()),
            (key!(config::Client, region), config.region.is_empty()),
        ] {
            if missing {
                return Err(source.unusable(key, "must be set"));
            }
        }
        let net: config::Net = source.section()?;
        let bind = async |key, address: &str| match address {
            "" => Ok(None),
            address => listener::bind(address, &net).await.map(Some).map_err(|error| source.unusable(key, error)),
        };
        let socks = bind(key!(config::Client, socks), &config.socks).await?;
        let http = bind(key!(config::Client, http), &config.http).await?;
        let connection = Connection::new(source, config)?;
        Ok(Self { connection: Arc::new(connection), socks, http })
    }

    /// Where SOCKS5 and HTTP CONNECT are spoken.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let address = |listener: &Option<TcpListener>| listener.as_ref().and_then(|socket| socket.local_addr().ok());
        (address(&self.socks), address(&self.http))
    }

    /// Keeps a tunnel up and serves programs until drained; `ready` is called once the first tunnel is up.
    pub async fn serve(self, shutdown: &Shutdown, ready: impl FnOnce()) -> Result<(), Refused> {
        let Self { connection, socks, http } = self;
        let (up, mut is_up) = tokio::sync::watch::channel(false);
        let local = async {
            let told = async {
                if is_up.wait_for(|up| *up).await.is_ok() {
                    ready();
                }
            };
            let socks = async {
                if let Some(listener) = socks {
                    local::accept(listener, &connection, shutdown, |socket, connection| {
                        Box::pin(socks::serve(socket, connection))
                    })
                    .await;
                }
            };
            let http = async {
                if let Some(listener) = http {
                    local::accept(listener, &connection, shutdown, |socket, connection| {
                        Box::pin(http::serve(socket, connection))
                    })
                    .await;
                }
            };
            tokio::join!(told, socks, http);
        };
        tokio::select! {
            refused = connection.keep_up(&up) => Err(refused),
            () = async { local.await; shutdown.draining().await } => Ok(()),
            () = shutdown.draining() => Ok(()),
        }
    }
}
