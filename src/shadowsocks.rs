//! Client streams and datagrams through a Shadowsocks node, and access keys (docs/04, docs/05).

mod access_key;
mod datagrams;
mod key;
mod server;
mod stream;

pub use access_key::AccessKey;
pub use datagrams::{NodeSocket, associate};
pub use key::{KeyError, NodeKey};
pub use server::Server;
pub use stream::{NodeStream, connect, reach};
