//! Client streams to a Shadowsocks node, and access keys (docs/04, docs/05).

mod key;
mod server;
mod stream;

pub use key::NodeKey;
pub use server::Server;
pub use stream::{NodeStream, connect};
