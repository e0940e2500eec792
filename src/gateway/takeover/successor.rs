use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::net::{TcpListener, UnixStream};

use super::claim::{Claim, Lock};
use super::conversation::{Answer, Ask, Conversation, Offer, VERSION, has_gone};
use crate::digest::sha256_hex;
use crate::gateway::GatewayState;
use crate::lifecycle::Shutdown;
use crate::net::listener::{ACCEPT_PAUSE, Purpose};

/// A listening socket for a successor.
pub(in crate::gateway) struct Offered {
    purpose: Purpose,
    socket: OwnedFd,
}

impl Offered {
    /// Another descriptor of a listener.
    pub(in crate::gateway) fn of(purpose: &Purpose, listener: &TcpListener) -> io::Result<Self> {
        Ok(Self { purpose: purpose.clone(), socket: listener.as_fd().try_clone_to_owned()? })
    }
}

/// Waits for a process that takes over, and hands everything over when it serves; `drain` is called then. Without one gives
/// the lock back once the drain is over.
pub(in crate::gateway) async fn await_successor(
    state: &GatewayState,
    claim: Claim,
    sockets: Vec<Offered>,
    over: &Shutdown,
    drain: impl FnOnce(),
) -> Option<Lock> {
    let conversation = loop {
        let accepted = tokio::select! {
            () = over.draining() => return Some(claim.shut()),
            accepted = claim.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some(conversation) = converse(state, &claim, &sockets, stream).await {
                    break conversation;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a takeover connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop((claim, sockets));
    drain();
    if let Err(error) = conversation.say(&Answer::Draining, &[]).await {
        tracing::warn!(%error, "the process that took over does not respond");
    }
    tracing::info!("another process serves: draining");
    None
}

/// Talks with a process that wants to take over, until it serves or does not.
async fn converse(
    state: &GatewayState,
    claim: &Claim,
    sockets: &[Offered],
    stream: UnixStream,
) -> Option<Conversation> {
    let mut conversation = Conversation::new(stream, state.gateway.takeover_timeout);
    let failed = match hand_over(state, claim, sockets, &mut conversation).await {
        Ok(()) => return Some(conversation),
        Err(error) => error,
    };
    state.persist.resume(&state.offline).await;
    if has_gone(&failed) {
        tracing::warn!("the process that was taking over has exited; continuing to serve");
        return None;
    }
    tracing::warn!(error = %failed, "takeover failed; continuing to serve");
    if let Err(error) = conversation.say(&Answer::Refused(failed.to_string()), &[]).await {
        tracing::debug!(%error, "the other process is gone");
    }
    None
}

async fn hand_over(
    state: &GatewayState,
    claim: &Claim,
    sockets: &[Offered],
    conversation: &mut Conversation,
) -> io::Result<()> {
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "it speaks another language");
    conversation.check_user()?;
    let Ask::TakeOver { versions } = conversation.hear().await? else { return Err(unexpected()) };
    if !versions.contains(&VERSION) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("this process speaks version {VERSION}")));
    }
    let purposes = sockets.iter().map(|offered| &offered.purpose);
    let offer = Offer {
        version: VERSION,
        process: std::process::id(),
        instance: state.instance,
        token: sha256_hex(state.gateway.token.expose().as_bytes()),
        sockets: purposes.map(|purpose| (purpose.key.clone(), purpose.address.clone())).collect(),
    };
    let lock = claim.lock.0.as_fd();
    let descriptors: Vec<BorrowedFd<'_>> =
        std::iter::once(lock).chain(sockets.iter().map(|offered| offered.socket.as_fd())).collect();
    conversation.say(&Answer::Offer(offer), &descriptors).await?;
    let Ask::State = conversation.hear().await? else { return Err(unexpected()) };
    state.persist.release(&state.offline).await;
    conversation.say(&Answer::Released, &[]).await?;
    let Ask::Serving = conversation.hear().await? else { return Err(unexpected()) };
    Ok(())
}
