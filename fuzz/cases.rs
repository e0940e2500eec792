//! What is fuzzed; `tests/integration/protocol/fuzz_seeds.rs` replays the seeds through the same functions.

#[path = "cases/frames.rs"]
mod frames;
#[path = "cases/core.rs"]
mod sessions;
#[path = "cases/websocket.rs"]
mod websockets;

pub use frames::{binary, json};
pub use sessions::core;
pub use websockets::websocket;
