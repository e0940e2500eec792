use std::io;

use super::claim::Lock;
use super::conversation::{Answer, Ask, Conversation, DESCRIPTORS_MAX, Offer, VERSION, has_gone};
use crate::config;
use crate::digest::sha256_hex;
use crate::net::listener::{Inherited, Purpose};

/// The process that serves until this one does.
pub(in crate::gateway) struct Predecessor {
    conversation: Conversation,
    offer: Offer,
    /// It ended in mid-conversation; its sockets and its lock are here.
    has_gone: bool,
}

/// What became of the first question.
pub(super) enum Met {
    Offers(Lock, Predecessor),
    /// It ended before it had answered.
    Gone,
    Refuses(Refusal),
}

/// Why a process hands nothing over.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum Refusal {
    /// As it says itself.
    #[error("{0}")]
    Said(String),
    #[error("it speaks another language")]
    Language,
    #[error("its descriptors did not all come: is the limit of open files reached?")]
    Descriptors,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a takeover does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// A folder has a process of another gateway.
    #[error("{folder} is in use by another gateway, process {process}, with another token and other addresses")]
    Foreign { folder: String, process: u32 },
    #[error("process {process} does not hand over: {reason}")]
    Refused { process: u32, reason: String },
    #[error("process {0} speaks another language")]
    Language(u32),
    #[error("process {process} does not hand over: {source}")]
    Io { process: u32, source: io::Error },
}

impl Predecessor {
    /// Asks for what it has.
    pub(super) async fn meet(mut conversation: Conversation, inherited: &mut Inherited) -> Met {
        let asked = async {
            conversation.check_user()?;
            conversation.say(&Ask::TakeOver { versions: vec![VERSION] }, &[]).await?;
            conversation.hear().await
        };
        let offer: Offer = match asked.await {
            Ok(Answer::Offer(offer)) => offer,
            Ok(Answer::Refused(reason)) => return Met::Refuses(Refusal::Said(reason)),
            Ok(Answer::Released | Answer::Draining) => return Met::Refuses(Refusal::Language),
            Err(error) if has_gone(&error) => return Met::Gone,
            Err(error) => return Met::Refuses(error.into()),
        };
        let descriptors = conversation.take_descriptors();
        if descriptors.len() != offer.sockets.len() + 1 || descriptors.len() > DESCRIPTORS_MAX {
            return Met::Refuses(Refusal::Descriptors);
        }
        let mut descriptors = descriptors.into_iter();
        let Some(lock) = descriptors.next().map(Lock::from) else { return Met::Gone };
        for ((key, address), socket) in offer.sockets.iter().cloned().zip(descriptors) {
            inherited.add(Purpose { key, address }, socket);
        }
        Met::Offers(lock, Self { conversation, offer, has_gone: false })
    }

    /// Whether it is the same gateway, by its token or by an address on which both listen.
    pub(in crate::gateway) fn is_same(
        &self,
        gateway: &config::Gateway,
        listening: &[&Purpose],
    ) -> Result<(), TakeoverError> {
        let shares = |purpose: &&Purpose| {
            let is_chosen = !purpose.address.ends_with(":0");
            is_chosen && self.offer.sockets.iter().any(|(_, address)| *address == purpose.address)
        };
        let (process, instance) = (self.offer.process, self.offer.instance);
        if self.offer.token == sha256_hex(gateway.token.expose().as_bytes()) || listening.iter().any(shares) {
            tracing::info!(process, %instance, "taking over from another process");
            return Ok(());
        }
        Err(TakeoverError::Foreign { folder: gateway.state_dir.clone(), process })
    }

    /// Has it write `state.db` and close it.
    pub(in crate::gateway) async fn release_state(&mut self) -> Result<(), TakeoverError> {
        self.ask(&Ask::State, |answer| matches!(answer, Answer::Released)).await
    }

    /// Says that this process serves, so that it drains.
    pub(in crate::gateway) async fn retire(mut self) -> Result<(), TakeoverError> {
        self.ask(&Ask::Serving, |answer| matches!(answer, Answer::Draining)).await
    }

    /// One that has ended does what is wanted of it.
    async fn ask(&mut self, ask: &Ask, is_expected: impl Fn(&Answer) -> bool) -> Result<(), TakeoverError> {
        if self.has_gone {
            return Ok(());
        }
        let asked = async {
            self.conversation.say(ask, &[]).await?;
            self.conversation.hear().await
        };
        let process = self.offer.process;
        match asked.await {
            Ok(answer) if is_expected(&answer) => Ok(()),
            Ok(Answer::Refused(reason)) => Err(TakeoverError::Refused { process, reason }),
            Ok(_) => Err(TakeoverError::Language(process)),
            Err(error) if has_gone(&error) => {
                tracing::warn!(process, "the process to take over from has exited");
                self.has_gone = true;
                Ok(())
            }
            Err(source) => Err(TakeoverError::Io { process, source }),
        }
    }
}
