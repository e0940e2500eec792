//! What requests and answers carry, wherever they come from.

use std::error::Error;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::HeaderMap;
use hyper::body::Body as HttpBody;
use hyper::header::CONNECTION;

/// What is of a connection and not of a message (RFC 9110, section 7.6.1), and what HTTP/2 does not have (RFC 9113, 8.2.2).
const CONNECTION_SPECIFIC: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// The body of an answer, or of a request on its way to the site.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Any body as one.
pub(super) fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Removes what is of the connection that a message came on, with the fields that it names itself.
pub(super) fn without_connection(headers: &mut HeaderMap) {
    let named = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
    for name in named.iter().map(String::as_str).chain(CONNECTION_SPECIFIC) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Hop, "), ("x-hop", "1"), ("te", "trailers"), ("x-kept", "1")] {
            headers.append(name, value.parse().unwrap());
        }
        headers.append("connection", "keep-alive".parse().unwrap());
        headers.append("keep-alive", "timeout=5".parse().unwrap());
        without_connection(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-kept"]);
    }
}
