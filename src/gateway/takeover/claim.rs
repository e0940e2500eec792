use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep};

use super::conversation::Conversation;
use super::predecessor::{Met, Predecessor, Refusal};
use crate::net::listener::Inherited;

const LOCK: &str = "gateway.lock";
const SOCKET: &str = "takeover.sock";
/// The socket until the process serves.
const FRESH: &str = "takeover.new";
/// What the kernel takes for a socket's path (unix(7)).
const PATH_MAX: usize = 107;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a folder cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum ClaimError {
    /// A path as it was given, or one in the folder.
    #[error("{}: {source}", path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("{}: the path of a socket has at most {PATH_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{} is in use by another gateway, which does not hand over: {refusal}", folder.display())]
    Refused { folder: PathBuf, refusal: Refusal },
    #[error("{} is in use by another gateway", .0.display())]
    InUse(PathBuf),
}

/// That a folder is this gateway's, and where its successor comes.
pub(in crate::gateway) struct Claim {
    pub(super) lock: Lock,
    pub(super) socket: UnixListener,
    folder: PathBuf,
}

/// An exclusive lock; a copy of it keeps it locked, too.
pub(in crate::gateway) struct Lock(pub(super) File);

impl From<OwnedFd> for Lock {
    fn from(passed: OwnedFd) -> Self {
        Self(passed.into())
    }
}

impl Claim {
    /// Claims a folder, which is made if it is not there: from the process that has it, if it answers and hands it over,
    /// else when it is free. Fails if another has it for longer than `timeout`.
    pub(in crate::gateway) async fn make(
        folder: &Path,
        timeout: Duration,
        inherited: &mut Inherited,
    ) -> Result<(Self, Option<Predecessor>), ClaimError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ClaimError::Path { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let path = folder.join(SOCKET);
        if path.as_os_str().len() > PATH_MAX {
            return Err(ClaimError::TooLong(path));
        }
        let due = Instant::now() + timeout;
        let (lock, predecessor) = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => match Predecessor::meet(Conversation::new(stream, timeout), inherited).await {
                    Met::Offers(lock, predecessor) => break (lock, Some(predecessor)),
                    Met::Gone => {}
                    Met::Refuses(refusal) => {
                        return Err(ClaimError::Refused { folder: folder.to_owned(), refusal });
                    }
                },
                Err(error) if is_nobody(&error) => {
                    if let Some(lock) = try_lock(folder).map_err(at(Path::new(LOCK)))? {
                        break (lock, None);
                    }
                }
                Err(error) => return Err(at(&path)(error)),
            }
            if Instant::now() >= due {
                return Err(ClaimError::InUse(folder.to_owned()));
            }
            sleep(LOOK_AGAIN).await;
        };
        let socket = bind(folder).map_err(at(Path::new(FRESH)))?;
        Ok((Self { lock, socket, folder: folder.to_owned() }, predecessor))
    }

    /// From now on a successor finds this process.
    pub(in crate::gateway) fn open_up(&self) {
        if let Err(error) = std::fs::rename(self.folder.join(FRESH), self.folder.join(SOCKET)) {
            tracing::error!(%error, "takeover by another process is unavailable");
        }
    }

    /// Gives up on a successor.
    pub(in crate::gateway) fn into_lock(self) -> Lock {
        self.lock
    }

    /// No successor comes any more, unless when the lock is free.
    pub(super) fn shut(self) -> Lock {
        if let Err(error) = std::fs::remove_file(self.folder.join(SOCKET)) {
            tracing::debug!(%error, "failed to remove the takeover socket");
        }
        self.lock
    }
}

/// Whether no process listens there.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn try_lock(folder: &Path) -> io::Result<Option<Lock>> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn bind(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(FRESH);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_claimed_by_one_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let claim =
            async |timeout| Claim::make(folder.path(), Duration::from_millis(timeout), &mut Inherited::default()).await;
        let (first, predecessor) = claim(100).await.unwrap();
        assert!(predecessor.is_none());
        assert!(matches!(claim(100).await.err(), Some(ClaimError::InUse(_))));
        first.open_up();
        let silent = claim(100).await.err().unwrap();
        assert!(matches!(silent, ClaimError::Refused { .. }), "{silent}");
        let lock = first.shut();
        let waiting = claim(10_000);
        let freed = async {
            sleep(Duration::from_millis(200)).await;
            drop(lock);
        };
        let (second, ()) = tokio::join!(waiting, freed);
        assert!(second.unwrap().1.is_none());
    }
}
