//! The reference client: its SOCKS5 listener, its transports, and refusals.

mod refusals;
mod socks5;
mod transport_fallback;
