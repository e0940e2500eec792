//! What those who are no clients meet at a gateway.

mod http1;
mod http2;
mod site;
