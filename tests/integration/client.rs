//! The reference client: its SOCKS5 listener, its transports, what it is refused for.

mod refusals;
mod socks5;
mod transport_fallback;
