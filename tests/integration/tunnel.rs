//! Bytes and datagrams through the tunnel, by every transport.

mod datagrams;
mod egress;
mod http2;
mod http2_foreign;
mod http2_shared;
mod memory;
mod python_clients;
mod resets;
mod transfer;
