//! Client streams and datagrams through a Shadowsocks node, and access keys (docs/04, docs/05).

mod access_key;
mod datagrams;
mod key;
mod server;
mod stream;

pub use access_key::{AccessKey, AccessKeyError};
pub use datagrams::{NodeSocket, associate};
pub use key::{KeyError, MethodError, NodeKey, PasswordError};
pub use server::{Server, ServerError};
pub use stream::{NodeStream, connect, reach};
