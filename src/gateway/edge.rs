//! Who a connection belongs to: a client of ours, or the site behind the gateway (docs/04, "The edge").

mod activity;
mod classify;
mod http2;
mod pages;
mod site;
mod upstream;

use std::io;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use super::GatewayState;
use super::upgrade::Grant;
use crate::net::proxy_protocol::Named;
pub(super) use activity::observed;
use classify::{Http1Classifier, Owner};
use http2::Http2Classifier;
pub(super) use http2::PREFACE;
pub(super) use site::Site;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, or whatever comes without ALPN.
    Http1,
    Http2,
}

/// Compares the first request of a connection with what it must be to be ours.
enum Classifier<'a> {
    Http1(Http1Classifier<'a>),
    Http2(Box<Http2Classifier<'a>>),
}

impl<'a> Classifier<'a> {
    fn new(protocol: Protocol, state: &'a GatewayState) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(Http1Classifier::new(state)),
            Protocol::Http2 => Self::Http2(Box::new(Http2Classifier::new(state))),
        }
    }

    /// Classifies all that was read so far; none while it may still become either's.
    fn classify(&mut self, read: &[u8]) -> Option<Owner> {
        match self {
            Self::Http1(request) => request.classify(read),
            Self::Http2(preface) => preface.classify(read),
        }
    }

    /// How much of what was read the site may see while nothing is certain.
    fn open(&self, read: &[u8]) -> usize {
        match self {
            Self::Http1(_) => Http1Classifier::open(read),
            Self::Http2(_) => Http2Classifier::open(read),
        }
    }
}

/// What the first bytes of a connection have shown.
pub(super) enum FirstRequest {
    /// A client's, with what was read and what its first request was let in for.
    Client(BytesMut, Grant),
    /// The site's.
    Site(Handover),
}

impl FirstRequest {
    fn of(owner: Owner, protocol: Protocol, read: BytesMut, upstream: Option<(TcpStream, usize)>) -> Self {
        match owner {
            Owner::Client(granted) => Self::Client(read, granted),
            Owner::Site => Self::Site(Handover { protocol, read, upstream }),
        }
    }
}

/// What was read of a connection that is the site's, and the connection to the upstream that has had the first of it.
pub(super) struct Handover {
    protocol: Protocol,
    read: BytesMut,
    upstream: Option<(TcpStream, usize)>,
}

/// Reads until it is certain whose a connection is. One whose first bytes (in HTTP/2: its first request) do not say, or do not
/// come in time, is announced to the upstream, if there is one, as one that is the site's: it gets what was read but what only a client knows, and whatever it does
/// first decides. Without an upstream the time is `due`.
pub(super) async fn first<S>(
    socket: &mut S,
    state: &GatewayState,
    protocol: Protocol,
    ends: Named,
    due: Instant,
) -> io::Result<FirstRequest>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut classifier = Classifier::new(protocol, state);
    let mut read = BytesMut::new();
    let begun = async {
        match protocol {
            Protocol::Http1 => step(socket, &mut classifier, &mut read).await,
            Protocol::Http2 => decide(socket, &mut classifier, &mut read).await.map(Some),
        }
    };
    let begun = timeout(state.site.decision_timeout(), begun).await.unwrap_or(Ok(None))?;
    if let Some(owner) = begun {
        return Ok(FirstRequest::of(owner, protocol, read, None));
    }
    let Some(mut upstream) = state.site.announce(protocol, ends).await else {
        if protocol == Protocol::Http2 {
            return Ok(FirstRequest::of(Owner::Site, protocol, read, None));
        }
        let decided = timeout_at(due.into(), decide(socket, &mut classifier, &mut read)).await;
        return Ok(FirstRequest::of(decided??, protocol, read, None));
    };
    let mut passed = 0;
    loop {
        let open = classifier.open(&read).max(passed);
        upstream.write_all(read.get(passed..open).unwrap_or_default()).await?;
        passed = open;
        tokio::select! {
            owner = step(socket, &mut classifier, &mut read) => if let Some(owner) = owner? {
                return Ok(FirstRequest::of(owner, protocol, read, Some((upstream, passed))));
            },
            readable = upstream.readable() => {
                readable?;
                return Ok(FirstRequest::of(Owner::Site, protocol, read, Some((upstream, passed))));
            }
        }
    }
}

async fn decide<S>(socket: &mut S, classifier: &mut Classifier<'_>, read: &mut BytesMut) -> io::Result<Owner>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(owner) = step(socket, classifier, read).await? {
            return Ok(owner);
        }
    }
}

/// Classifies once more has come; a connection that ends undecided is the site's.
async fn step<S>(socket: &mut S, classifier: &mut Classifier<'_>, read: &mut BytesMut) -> io::Result<Option<Owner>>
where
    S: AsyncRead + Unpin,
{
    read.reserve(classify::PIECE);
    if socket.read_buf(read).await? == 0 {
        return Ok(Some(Owner::Site));
    }
    Ok(classifier.classify(read))
}
