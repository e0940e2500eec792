use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;
use uuid::Uuid;

/// The conversation's only version so far.
pub(super) const VERSION: u32 = 1;
/// Most descriptors of one message; Linux passes 253.
pub(super) const DESCRIPTORS_MAX: usize = 250;
const MESSAGE_MAX: usize = 64 * 1024;

/// What the successor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// First, in any version: it wants to take over, and speaks these.
    TakeOver { versions: Vec<u32> },
    /// It can do without the predecessor but for `state.db`.
    State,
    /// It serves.
    Serving,
}

/// What the predecessor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Offer(Offer),
    /// `state.db` is written and closed.
    Released,
    /// It drains.
    Draining,
    /// It serves on.
    Refused(String),
}

/// What is handed over; the descriptors come along, the lock's first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) version: u32,
    pub(super) process: u32,
    pub(super) instance: Uuid,
    /// SHA-256 of the gateway's token.
    pub(super) token: String,
    /// Key and address of each listener.
    pub(super) sockets: Vec<(String, String)>,
}

/// A line of JSON each way in turn, and descriptors; each within a time.
pub(super) struct Conversation {
    stream: UnixStream,
    timeout: Duration,
    read: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Conversation {
    pub(super) fn new(stream: UnixStream, timeout: Duration) -> Self {
        Self { stream, timeout, read: Vec::new(), descriptors: Vec::new() }
    }

    /// Fails if the other process is another user's.
    pub(super) fn check_user(&self) -> io::Result<()> {
        let (own, other) = (rustix::process::geteuid().as_raw(), self.stream.peer_cred()?.uid());
        if own == other {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the other process is of user {other}")))
    }

    pub(super) async fn say(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        timeout(self.timeout, self.send(&line, descriptors)).await?
    }

    async fn send(&self, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (mut rest, mut along) = (line, descriptors);
        while !rest.is_empty() {
            let send = || send_some(&self.stream, rest, along);
            let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
            (rest, along) = (rest.get(sent..).unwrap_or_default(), &[]);
        }
        Ok(())
    }

    /// The next message; `UnexpectedEof` if the other process has gone.
    pub(super) async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let line = timeout(self.timeout, self.line()).await??;
        Ok(serde_json::from_slice(&line)?)
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            if self.read.len() > MESSAGE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
            }
            let mut buffer = [0; 4096];
            let (stream, descriptors) = (&self.stream, &mut self.descriptors);
            let receive = || receive_some(stream, &mut buffer, descriptors);
            let received = stream.async_io(Interest::READABLE, receive).await?;
            if received == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read.extend(buffer.iter().take(received));
        }
    }

    /// The descriptors that have come so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !along.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many listeners"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut along, SendFlags::NOSIGNAL)?)
}

fn receive_some(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    Ok(received.bytes)
}

/// Whether the other process has ended, and did not just fail.
pub(super) fn has_gone(error: &io::Error) -> bool {
    let signs = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    signs.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn messages_and_descriptors_arrive_in_whatever_pieces_they_come() {
        let (near, far) = UnixStream::pair().unwrap();
        let timeout = Duration::from_secs(10);
        let (near, mut far) = (Conversation::new(near, timeout), Conversation::new(far, timeout));
        near.check_user().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = vec![("k".to_owned(), "x".repeat(50_000))];
        let offer = Offer { version: 1, process: 2, instance: Uuid::nil(), token: "t".into(), sockets };
        let said = async {
            near.say(&Answer::Offer(offer), &[listener.as_fd()]).await.unwrap();
            near.say(&Answer::Draining, &[]).await.unwrap();
        };
        let (heard, ()) = tokio::join!(far.hear(), said);
        assert!(matches!(heard.unwrap(), Answer::Offer(Offer { process: 2, .. })));
        assert!(matches!(far.hear().await.unwrap(), Answer::Draining));
        let passed = far.take_descriptors().pop().map(std::net::TcpListener::from).unwrap();
        assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(near);
        assert!(has_gone(&far.hear::<Answer>().await.unwrap_err()));
    }
}
