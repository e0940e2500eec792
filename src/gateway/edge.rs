//! Who a connection belongs to: a client of ours, or the site behind the gateway (docs/04, "The edge").

mod activity;
mod judge;
mod pages;
mod preface;
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
use judge::{Line, Owner};
pub(super) use preface::PREFACE;
use preface::Preface;
pub(super) use site::Site;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, or whatever comes without ALPN.
    Http1,
    Http2,
}

/// Compares the first request of a connection with what it must be to be ours.
enum Judge<'a> {
    Http1(Line<'a>),
    Http2(Box<Preface<'a>>),
}

impl<'a> Judge<'a> {
    fn new(protocol: Protocol, state: &'a GatewayState) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(Line::new(state)),
            Protocol::Http2 => Self::Http2(Box::new(Preface::new(state))),
        }
    }

    /// Judges all that was read so far; none while it may still become either's.
    fn judge(&mut self, read: &[u8]) -> Option<Owner> {
        match self {
            Self::Http1(line) => line.judge(read),
            Self::Http2(preface) => preface.judge(read),
        }
    }

    /// How much of what was read the site may see while nothing is certain.
    fn open(&self, read: &[u8]) -> usize {
        match self {
            Self::Http1(_) => Line::open(read),
            Self::Http2(_) => Preface::open(read),
        }
    }
}

/// What the first bytes of a connection have shown.
pub(super) enum First {
    /// A client's, with what was read and what its first request was let in for.
    Ours(BytesMut, Grant),
    /// The site's.
    Strangers(Handover),
}

impl First {
    fn of(owner: Owner, protocol: Protocol, read: BytesMut, line: Option<(TcpStream, usize)>) -> Self {
        match owner {
            Owner::Client(granted) => Self::Ours(read, granted),
            Owner::Site => Self::Strangers(Handover { protocol, read, line }),
        }
    }
}

/// What was read of a stranger's connection, and the line to the upstream that knows the first of it.
pub(super) struct Handover {
    protocol: Protocol,
    read: BytesMut,
    line: Option<(TcpStream, usize)>,
}

/// Reads until it is certain whose a connection is. One whose first bytes (in HTTP/2: its first request) do not say, or do not
/// come in time, is announced to the upstream, if there is one, as a stranger's is: it gets what was read but what only a client knows, and whatever it does
/// first decides. Without an upstream the time is `due`.
pub(super) async fn first<S>(
    socket: &mut S,
    state: &GatewayState,
    protocol: Protocol,
    ends: Named,
    due: Instant,
) -> io::Result<First>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut judge = Judge::new(protocol, state);
    let mut read = BytesMut::new();
    let begun = async {
        match protocol {
            Protocol::Http1 => step(socket, &mut judge, &mut read).await,
            Protocol::Http2 => decide(socket, &mut judge, &mut read).await.map(Some),
        }
    };
    let begun = timeout(state.site.patience(), begun).await.unwrap_or(Ok(None))?;
    if let Some(owner) = begun {
        return Ok(First::of(owner, protocol, read, None));
    }
    let Some(mut line) = state.site.announce(protocol, ends).await else {
        if protocol == Protocol::Http2 {
            return Ok(First::of(Owner::Site, protocol, read, None));
        }
        let decided = timeout_at(due.into(), decide(socket, &mut judge, &mut read)).await;
        return Ok(First::of(decided??, protocol, read, None));
    };
    let mut passed = 0;
    loop {
        let open = judge.open(&read).max(passed);
        line.write_all(read.get(passed..open).unwrap_or_default()).await?;
        passed = open;
        tokio::select! {
            owner = step(socket, &mut judge, &mut read) => if let Some(owner) = owner? {
                return Ok(First::of(owner, protocol, read, Some((line, passed))));
            },
            readable = line.readable() => {
                readable?;
                return Ok(First::of(Owner::Site, protocol, read, Some((line, passed))));
            }
        }
    }
}

async fn decide<S>(socket: &mut S, judge: &mut Judge<'_>, read: &mut BytesMut) -> io::Result<Owner>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(owner) = step(socket, judge, read).await? {
            return Ok(owner);
        }
    }
}

/// Judges once more has come; a connection that ends undecided is the site's.
async fn step<S>(socket: &mut S, judge: &mut Judge<'_>, read: &mut BytesMut) -> io::Result<Option<Owner>>
where
    S: AsyncRead + Unpin,
{
    read.reserve(judge::PIECE);
    if socket.read_buf(read).await? == 0 {
        return Ok(Some(Owner::Site));
    }
    Ok(judge.judge(read))
}
