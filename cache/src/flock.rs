//! flock(2), by which all processes that use a store meet. A lock belongs to the open file and ends with it, so that the
//! kernel ends those of a process that is killed.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::store::StoreError;

/// Who may have a file locked at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Others that share it.
    Shared,
    /// Nobody.
    Alone,
}

/// Locks an open file, and waits until it can. Errors call it `path`.
pub(crate) fn lock(file: impl AsFd, how: How, path: &Path) -> Result<(), StoreError> {
    let operation = match how {
        How::Shared => FlockOperation::LockShared,
        How::Alone => FlockOperation::LockExclusive,
    };
    rustix::fs::flock(file, operation).map_err(|error| StoreError::io("lock", path)(error.into()))
}

/// Locks an open file if nobody is in the way; says whether it did.
pub(crate) fn try_lock(file: impl AsFd, how: How, path: &Path) -> Result<bool, StoreError> {
    let operation = match how {
        How::Shared => FlockOperation::NonBlockingLockShared,
        How::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(StoreError::io("lock", path)(error.into())),
    }
}

/// Unlocks a file that stays open.
pub(crate) fn unlock(file: impl AsFd, path: &Path) -> Result<(), StoreError> {
    rustix::fs::flock(file, FlockOperation::Unlock)
        .map_err(|error| StoreError::io("unlock", path)(error.into()))
}

/// A file or directory that is there, opened anew and locked as long as it is open.
pub(crate) fn hold(path: &Path, how: How) -> Result<File, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    lock(&file, how, path)?;
    Ok(file)
}

/// A file to be locked, made if it is not there; mode 0600.
pub(crate) fn open(path: &Path) -> Result<File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    file.map(File::from)
        .map_err(|error| StoreError::io("open", path)(error.into()))
}
