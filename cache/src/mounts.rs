//! Cache mounts: directories that outlive builds, by name.
//!
//! `mounts/<hash of name and ownership domain>/<number>/data`, locked through `lock` beside it: shared users hold a
//! shared lock, a user who wants it alone an exclusive one. Private users take the first number nobody holds.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_llb::CancelToken;
use rbuild_llb::op::CacheSharing;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::store::StoreError;

/// How often a lock that somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// A cache mount in use; free again when it is dropped.
#[derive(Debug)]
pub struct CacheMount {
    dir: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl CacheMount {
    pub(crate) fn take(
        dir: &Path,
        sharing: CacheSharing,
        cancel: &CancelToken,
    ) -> Result<Option<Self>, StoreError> {
        match sharing {
            CacheSharing::Shared => Self::wait(
                &dir.join("0"),
                FlockOperation::NonBlockingLockShared,
                cancel,
            ),
            CacheSharing::Locked => Self::wait(
                &dir.join("0"),
                FlockOperation::NonBlockingLockExclusive,
                cancel,
            ),
            CacheSharing::Private => {
                for number in 0_u32.. {
                    let dir = dir.join(number.to_string());
                    if let Some(mount) =
                        Self::attempt(&dir, FlockOperation::NonBlockingLockExclusive)?
                    {
                        return Ok(Some(mount));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Tries until the lock is had, or nothing once `cancel` is cancelled.
    fn wait(
        dir: &Path,
        lock: FlockOperation,
        cancel: &CancelToken,
    ) -> Result<Option<Self>, StoreError> {
        while !cancel.is_cancelled() {
            if let Some(mount) = Self::attempt(dir, lock)? {
                return Ok(Some(mount));
            }
            std::thread::sleep(RETRY);
        }
        Ok(None)
    }

    fn attempt(dir: &Path, lock: FlockOperation) -> Result<Option<Self>, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(StoreError::io("create", dir))?;
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        match rustix::fs::flock(&file, lock) {
            Ok(()) => Ok(Some(Self {
                dir: dir.join("data"),
                _lock: file,
            })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(StoreError::io("lock", &path)(error.into())),
        }
    }

    /// The directory. Made with this mode and owner if it is not there: an existing one keeps its own, as in BuildKit.
    ///
    /// # Errors
    /// If it cannot be made, or the owner is not one this process can give.
    pub fn prepare(&self, mode: u32, uid: u32, gid: u32) -> Result<PathBuf, StoreError> {
        match fs::create_dir(&self.dir) {
            Ok(()) => {
                fs::set_permissions(&self.dir, fs::Permissions::from_mode(mode & 0o7777))
                    .map_err(StoreError::io("set the mode of", &self.dir))?;
                std::os::unix::fs::chown(&self.dir, Some(uid), Some(gid))
                    .map_err(StoreError::io("set the owner of", &self.dir))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("create", &self.dir)(error)),
        }
        Ok(self.dir.clone())
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn sharing_is_as_buildkit_documents_it() {
        let dir = tempfile::tempdir().unwrap();
        let never = CancelToken::new();
        let take = |sharing| {
            CacheMount::take(dir.path(), sharing, &never)
                .unwrap()
                .unwrap()
        };
        let (a, b) = (take(CacheSharing::Shared), take(CacheSharing::Shared));
        assert_eq!(a.dir, b.dir);
        let cancelled = CancelToken::new();
        cancelled.cancel();
        assert!(
            CacheMount::take(dir.path(), CacheSharing::Locked, &cancelled)
                .unwrap()
                .is_none()
        );
        let private = take(CacheSharing::Private);
        assert_ne!(private.dir, a.dir);
        drop((a, b));
        let locked = take(CacheSharing::Locked);
        assert!(
            CacheMount::attempt(&dir.path().join("0"), FlockOperation::NonBlockingLockShared)
                .unwrap()
                .is_none()
        );
        drop(locked);
        assert!(
            CacheMount::attempt(&dir.path().join("0"), FlockOperation::NonBlockingLockShared)
                .unwrap()
                .is_some()
        );
    }
}
