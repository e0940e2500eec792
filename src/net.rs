//! Sockets: listeners, TLS, HTTP, the tunnel's transport and the operations listener (docs/04).

pub mod buffer_pool;
pub mod buffered;
pub mod dial;
pub mod forwarded;
pub mod host;
pub mod http;
pub mod http2;
pub mod listener;
pub mod metered;
pub mod ops;
pub mod proxy_protocol;
pub mod resolver;
pub mod slots;
pub mod socket;
pub mod tls;
pub mod tunnel;
pub mod websocket;
