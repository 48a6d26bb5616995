//! Claims: who is making something, so that others that want it too wait for the result.
//!
//! `running/HASH` is locked with flock(2) by whoever makes what the hash is the name of, and removed by them when it is made
//! and published, or when they give up. Names and locks, not pids, as with leases: the kernel unlocks the file of one who is
//! killed, and the next one who waits finds it so and takes over.
//!
//! Who waits has the file open. That its last name is gone means that the one who made it has ended: then it is time to look
//! for the result. A file that has content means that this failed, and would probably fail again: then those who wait
//! find it out side by side, and not one after the other.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CancelToken;

use crate::flock;
use crate::flock::How;
use crate::store::Store;
use crate::store::StoreError;
use crate::wait;
use crate::wait::OnWait;

/// The right to make something; given up when dropped.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
}

/// What came of waiting for something.
#[derive(Debug)]
pub enum Claimed {
    /// Nobody is making it: that is for the caller to do.
    Mine(Claim),
    /// Somebody was making it, and has ended.
    Ended {
        /// Whether they said that it cannot be made.
        failed: bool,
    },
}

impl Claim {
    /// Tells those who wait that it cannot be made.
    pub fn fail(self) {
        // Not told, they try one after the other.
        drop((&self.file).write_all(b"failed\n"));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked: whoever locks it from now on sees that it has no name.
        drop(fs::remove_file(&self.path));
    }
}

impl Store {
    /// Claims what is called `name`, or waits until the one who did has ended; `None` once `cancel` is cancelled.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn claim(
        &self,
        name: &str,
        cancel: &CancelToken,
        on_wait: OnWait<'_>,
    ) -> Result<Option<Claimed>, StoreError> {
        let path = self.claim_path(name);
        let mut waited_for: Option<File> = None;
        wait::attempt(cancel, on_wait, || {
            let file = match waited_for.take() {
                Some(file) => file,
                None => open(&path)?,
            };
            let locked = flock::try_lock(&file, How::Alone, &path)?;
            let found = file.metadata().map_err(StoreError::io("read", &path))?;
            Ok(match (locked, found.nlink()) {
                (true, 1..) => Some(Claimed::Mine(Claim {
                    file,
                    path: path.clone(),
                })),
                (false, 1..) => {
                    waited_for = Some(file);
                    None
                }
                (_, 0) => Some(Claimed::Ended {
                    failed: found.len() > 0,
                }),
            })
        })
    }

    /// Claims what is called `name` unless somebody has.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn claim_at_once(&self, name: &str) -> Result<Option<Claim>, StoreError> {
        let path = self.claim_path(name);
        let file = open(&path)?;
        let ours = flock::try_lock(&file, How::Alone, &path)?
            && file
                .metadata()
                .map_err(StoreError::io("read", &path))?
                .nlink()
                > 0;
        // Not `then_some`: a claim that is made is one that is given up.
        Ok(match ours {
            true => Some(Claim { file, path }),
            false => None,
        })
    }

    fn claim_path(&self, name: &str) -> PathBuf {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        self.path().join("running").join(hash.as_str())
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    match flock::open(path) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let dir = path.parent().unwrap_or(path);
            fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
            flock::open(path)
        }
        file => file,
    }
}

#[cfg(test)]
mod tests;
