//! A stream of events, followed as a gateway follows it.

use httvps::api::Event;
use reqwest::{Client, Response};
use tokio::time::timeout;

use crate::support::wait::TIMEOUT;

/// A stream of events, followed as a gateway follows it.
pub(crate) struct Follower {
    response: Response,
    waiting: Vec<u8>,
}

impl Follower {
    /// Starts with a snapshot, or after an event of an epoch.
    pub(crate) async fn open(http: &Client, url: &str, token: &str, behind: Option<(&str, i64)>) -> Self {
        let query = behind.map_or_else(String::new, |(epoch, seq)| format!("?after={seq}&epoch={epoch}"));
        let request = http.get(format!("{url}/api/v1/gateway/events{query}")).bearer_auth(token);
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, waiting: Vec::new() }
    }

    /// The next event, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.waiting.windows(2).position(|two| two == b"\n\n") {
                let rest = self.waiting.split_off(end + 2);
                let block = String::from_utf8(std::mem::replace(&mut self.waiting, rest)).unwrap();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let Some(data) = field("data: ") else { continue };
                let event: Event = serde_json::from_str(data).unwrap();
                assert_eq!(field("id: "), Some(event.seq.to_string().as_str()), "{block}");
                return Some(event);
            }
            let chunk = timeout(TIMEOUT, self.response.chunk()).await.expect("a sign of life").ok()??;
            self.waiting.extend_from_slice(&chunk);
        }
    }
}
