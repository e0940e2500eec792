//! Who a connection belongs to: a client of ours, or the site behind the gateway (docs/04, "The edge").

mod judge;
mod pages;
mod site;
mod upstream;

use std::io;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use super::Shared;
use crate::net::proxy_protocol::Named;
use judge::{Judge, Owner};
pub(super) use site::{Body, Site};

/// What the first bytes of a connection have shown.
pub(super) enum First {
    /// A client's, with what was read.
    Ours(BytesMut),
    /// The site's.
    Strangers(Handover),
}

impl First {
    fn of(owner: Owner, read: BytesMut, line: Option<(TcpStream, usize)>) -> Self {
        match owner {
            Owner::Client => Self::Ours(read),
            Owner::Site => Self::Strangers(Handover { read, line }),
        }
    }
}

/// What was read of a stranger's connection, and the line to the upstream that knows the first of it.
pub(super) struct Handover {
    read: BytesMut,
    line: Option<(TcpStream, usize)>,
}

impl Handover {
    /// Of a connection that no upstream has heard of.
    pub(super) fn of(read: BytesMut) -> Self {
        Self { read, line: None }
    }
}

/// Reads until it is certain whose a connection is. One that takes its time is announced to the upstream, if there is one:
/// it gets what was read but what only a client knows, and whatever it does first decides. Otherwise the time is `due`.
pub(super) async fn first<S>(socket: &mut S, shared: &Shared, ends: Named, due: Instant) -> io::Result<First>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut judge = Judge::new(shared);
    let mut read = BytesMut::new();
    let decided = timeout(shared.site.patience(), decide(socket, &mut judge, &mut read)).await;
    if let Ok(decided) = decided {
        return Ok(First::of(decided?, read, None));
    }
    let Some(mut line) = shared.site.announce(ends).await else {
        let decided = timeout_at(due.into(), decide(socket, &mut judge, &mut read)).await;
        return Ok(First::of(decided??, read, None));
    };
    let mut passed = 0;
    loop {
        if let Some(open) = read.get(passed..).filter(|_| !judge.is_private()) {
            tokio::io::AsyncWriteExt::write_all(&mut line, open).await?;
            passed = read.len();
        }
        tokio::select! {
            owner = step(socket, &mut judge, &mut read) => if let Some(owner) = owner? {
                return Ok(First::of(owner, read, Some((line, passed))));
            },
            readable = line.readable() => {
                readable?;
                return Ok(First::of(Owner::Site, read, Some((line, passed))));
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
