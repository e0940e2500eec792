use hyper::{Method, Request, Uri, Version};

use crate::gateway::GatewayState;
use crate::gateway::upgrade::Grant;

/// What is read at once of a first request.
pub(super) const PIECE: usize = 4 * 1024;
/// Header fields of a request of ours.
const FIELDS_MAX: usize = 64;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Whose a connection is.
#[derive(Debug)]
pub(super) enum Owner {
    /// A client's: its first request is one that the gateway answers.
    Client(Grant),
    /// The site's: what came cannot be ours any more.
    Site,
}

impl Owner {
    /// By what the first request was let in for.
    pub(super) fn of(granted: Option<Grant>) -> Self {
        granted.map_or(Self::Site, Self::Client)
    }
}

/// How bytes compare with what requests of ours begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// They are a part of it.
    Part,
    /// They have all of it.
    Whole,
    Other,
}

/// Compares the first request of a connection over HTTP/1.1 with what it must be to be ours.
pub(super) struct Http1Classifier<'a> {
    state: &'a GatewayState,
    beginning: Beginning,
    /// Where the end of the head is looked for.
    scanned: usize,
}

impl<'a> Http1Classifier<'a> {
    pub(super) fn new(state: &'a GatewayState) -> Self {
        Self { state, beginning: Beginning::Part, scanned: 0 }
    }

    /// How much of what was read says nothing of the path, which only clients know.
    pub(super) fn open(read: &[u8]) -> usize {
        read.iter().position(|byte| *byte == b'/').unwrap_or(read.len())
    }

    /// Classifies all that was read so far; none while it may still become either's.
    pub(super) fn classify(&mut self, read: &[u8]) -> Option<Owner> {
        if self.beginning == Beginning::Part {
            self.beginning = beginning(read, &self.state.tunnel.path);
        }
        match self.beginning {
            Beginning::Part => return None,
            Beginning::Other => return Some(Owner::Site),
            Beginning::Whole => {}
        }
        let fresh = read.get(self.scanned..).unwrap_or_default();
        let Some(at) = fresh.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
            let most = usize::try_from(self.state.tunnel.request_max.as_u64()).unwrap_or(usize::MAX);
            self.scanned = read.len().saturating_sub(HEAD_END.len() - 1);
            return (read.len() > most).then_some(Owner::Site);
        };
        let head = read.get(..self.scanned + at + HEAD_END.len()).unwrap_or(read);
        Some(Owner::of(request_of(head).and_then(|request| Grant::of(&request, self.state))))
    }
}

/// Compares with a method of ours, the path, and what may follow it.
fn beginning(read: &[u8], path: &str) -> Beginning {
    let mut part = false;
    for method in ["GET ", "POST ", "DELETE ", "PATCH "] {
        let expected = method.bytes().chain(path.bytes());
        let same = read.iter().zip(expected).take_while(|(byte, wanted)| **byte == *wanted).count();
        let whole = method.len() + path.len();
        match read.get(whole) {
            Some(b' ' | b'/' | b'?') if same == whole => return Beginning::Whole,
            None if same == read.len() => part = true,
            _ => {}
        }
    }
    if part { Beginning::Part } else { Beginning::Other }
}

/// A request's head, if it is one that clients write: HTTP/1.1 with one Host.
fn request_of(head: &[u8]) -> Option<Request<()>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let parsed = match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => parsed,
        _ => return None,
    };
    if parsed.version != Some(1) {
        return None;
    }
    let mut request = Request::builder()
        .method(Method::from_bytes(parsed.method?.as_bytes()).ok()?)
        .uri(parsed.path?.parse::<Uri>().ok()?)
        .version(Version::HTTP_11);
    for field in &*parsed.headers {
        request = request.header(field.name, field.value);
    }
    let request = request.body(()).ok()?;
    (request.headers().get_all(hyper::header::HOST).iter().count() == 1).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_decides() {
        let compare = |read: &str| beginning(read.as_bytes(), "/k3b");
        for part in ["", "G", "GET", "GET ", "GET /", "GET /k3b", "PO", "P", "PATCH /k3", "DELETE "] {
            assert_eq!(compare(part), Beginning::Part, "{part:?}");
        }
        for other in ["H", "g", "GET  ", "GET /x", "GET /k3bb", "GET /k3b\r", "GETX", "PRI * ", "\r\n", "POST /k3"] {
            let expected = if other == "POST /k3" { Beginning::Part } else { Beginning::Other };
            assert_eq!(compare(other), expected, "{other:?}");
        }
        for whole in ["GET /k3b ", "GET /k3b HTTP/1.1\r\n", "POST /k3b/api", "GET /k3b?"] {
            assert_eq!(compare(whole), Beginning::Whole, "{whole:?}");
        }
    }

    #[test]
    fn heads_of_ours_are_whole_and_plain() {
        let parse = |head: &str| request_of(head.as_bytes());
        let request = parse("GET /x HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\n\r\n").unwrap();
        assert_eq!((request.uri().path(), request.headers().len()), ("/x", 2));
        for wrong in [
            "GET /x HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /x HTTP/1.1\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET /x\r\n\r\n",
        ] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
        let many = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX));
        assert!(parse(&many).is_none());
    }
}
