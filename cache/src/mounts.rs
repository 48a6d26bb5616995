//! Cache mounts: directories that outlive builds, by name.
//!
//! ```text
//! mounts/HASH.N/        HASH: BLAKE3 of the name; N: 0, and more where users want one each
//!   about.json          the name; its time is when the mount was made
//!   lock                flock(2), as long as it is used: shared by those who share it, else exclusive. Its time is when it
//!                       was used last
//!   turn                flock(2), exclusive, held while waiting for `lock`
//!   data/               what steps see
//!   data.away           where `data` is while a step has it by renaming   (lent)
//! ```
//!
//! What always holds:
//!
//! - A mount that is there is complete: it is made aside, with what it begins as, and renamed.
//! - Locks are of the kernel, and end with the process that holds them. No two locks of mounts are waited for at once but
//!   in the order of their names, so that nobody waits in a circle.
//! - Who waits to have a mount alone holds `turn`: those who come later queue up behind, even if they would share it with
//!   those who have it now.
//! - The owners in a mount mean something under one id map only, which is part of its name. Under another map (the user's
//!   subordinate ids changed, root builds) the same id is another mount, and this one stays as it is until it is removed.
//! - A mount is removed by renaming it, under its exclusive lock: who has opened `lock` and finds another one, or none, in its
//!   place begins anew.

mod lent;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

pub use lent::lend;
pub use lent::take_back;
use rbuild_llb::CancelToken;
use rbuild_llb::op::CacheSharing;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_NOW;
use serde::Deserialize;
use serde::Serialize;

use crate::dir::Owner;
use crate::dir::Ownership;
use crate::file;
use crate::flock;
use crate::flock::How;
use crate::store::Store;
use crate::store::StoreError;
use crate::tree::Timestamp;
use crate::wait;
use crate::wait::OnWait;

/// The file with its name.
pub(crate) const ABOUT: &str = "about.json";
/// The directory that steps see.
pub(crate) const DATA: &str = "data";
/// What nothing can be mounted without.
pub(crate) const PARTS: [&str; 3] = ["lock", "turn", DATA];

/// What a cache mount is found by; mounts that differ in any of it are different ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CacheMountName {
    /// As the user knows it.
    pub id: String,
    /// The id map its files are written under, as with [`Store::layer_dir`]; or who else keeps files here.
    pub domain: String,
    /// What it is when it is made, if that is not an empty directory of root's with mode 0755.
    pub begins: String,
}

impl CacheMountName {
    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.id, &self.domain, &self.begins] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    }

    /// Whether a directory is one of those that have this name.
    pub(crate) fn is_of(&self, dir: &Path) -> bool {
        let number = |suffix: &OsStr| suffix.to_str()?.parse::<u32>().ok();
        dir.extension().and_then(number).is_some()
            && dir.file_stem() == Some(OsStr::new(self.hash().to_hex().as_str()))
    }
}

/// A cache mount, for those who account for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountInfo {
    /// Its name; `None` if that cannot be read.
    pub name: Option<CacheMountName>,
    /// When it was made, by the clock of the file system; when it was used last, if nothing tells.
    pub created: Timestamp,
    /// When its last use began or ended.
    pub used: Timestamp,
    /// Whether somebody uses it now.
    pub in_use: bool,
    /// The directory with all there is of it.
    pub path: PathBuf,
}

/// A cache mount in use; free again when it is dropped.
#[derive(Debug)]
pub struct CacheMount {
    data: PathBuf,
    lock: File,
}

impl CacheMount {
    fn begin(dir: &Path, lock: File) -> Self {
        let mount = Self {
            data: dir.join(DATA),
            lock,
        };
        mount.touch();
        mount
    }

    /// Says that it is used now.
    fn touch(&self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // Without it, it only looks older.
        let _ = rustix::fs::futimens(&self.lock, &times);
    }

    /// The directory that steps see.
    pub fn path(&self) -> &Path {
        &self.data
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        self.touch();
    }
}

/// Makes the directory that a mount begins as.
///
/// # Errors
/// If it cannot be made, or the owner is not one this process can give.
pub fn empty_mount(
    dir: &Path,
    mode: u32,
    (uid, gid): (u32, u32),
    owners: Ownership,
) -> Result<(), StoreError> {
    fs::create_dir(dir).map_err(StoreError::io("create", dir))?;
    match owners {
        Ownership::Keep | Ownership::Single => {
            std::os::unix::fs::chown(dir, Some(uid), Some(gid))
                .map_err(StoreError::io("set the owner of", dir))?;
        }
        // Where there is one id only, all files are its own.
        Ownership::Logical => {}
        Ownership::Recorded => Owner::of(uid, gid)
            .record(dir)
            .map_err(|errno| StoreError::io("record the owner of", dir)(errno.into()))?,
    }
    // After the owner, which takes setuid and setgid away.
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7777))
        .map_err(StoreError::io("set the mode of", dir))
}

/// What is to be said of a cache mount that is to be read as it is.
#[derive(Debug)]
pub enum Resting {
    /// Nobody uses it, and nobody gets it as long as this lives.
    Free(RestingMount),
    /// Somebody does.
    InUse,
    /// There is none.
    Absent,
}

/// A cache mount that nobody uses.
#[derive(Debug)]
pub struct RestingMount {
    data: PathBuf,
    _lock: File,
}

impl RestingMount {
    /// The directory that steps see.
    pub fn path(&self) -> &Path {
        &self.data
    }
}

/// Held while nobody may have a mount.
#[derive(Debug)]
pub(crate) struct Unused {
    _lock: Option<File>,
}

/// What came of trying to lock a file of a mount.
enum Attempt {
    Locked(File),
    Busy,
    /// It is not there, or no longer.
    Absent,
}

impl Store {
    /// The cache mount of that name; waits for one that is in use as `sharing` demands. Nothing if `cancel` is cancelled.
    ///
    /// One that is not there is made: `begin` makes the directory at the path it is given. Several processes may do that at
    /// once, and one of them prevails.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn cache_mount<E: From<StoreError>>(
        &self,
        name: &CacheMountName,
        sharing: CacheSharing,
        begin: &dyn Fn(&Path) -> Result<(), E>,
        cancel: &CancelToken,
        on_wait: OnWait<'_>,
    ) -> Result<Option<CacheMount>, E> {
        let hash = name.hash().to_hex();
        let dir = |number: u32| self.path().join(format!("mounts/{hash}.{number}"));
        if sharing == CacheSharing::Private {
            for number in (0..).take_while(|_| !cancel.is_cancelled()) {
                let dir = dir(number);
                let lock = loop {
                    match self.lock_whole(&dir, sharing, begin)? {
                        Attempt::Locked(lock) => break Some(lock),
                        Attempt::Busy => break None,
                        Attempt::Absent => self.make_mount(name, &dir, begin)?,
                    }
                };
                if let Some(lock) = lock {
                    return Ok(Some(CacheMount::begin(&dir, lock)));
                }
            }
            return Ok(None);
        }
        let dir = dir(0);
        let mut turn = None;
        wait::attempt(cancel, on_wait, || {
            loop {
                if turn.is_none() {
                    match try_lock(&dir.join("turn"), CacheSharing::Locked)? {
                        Attempt::Locked(file) => turn = Some(file),
                        Attempt::Busy => return Ok(None),
                        Attempt::Absent => self.make_mount(name, &dir, begin)?,
                    }
                    continue;
                }
                match self.lock_whole(&dir, sharing, begin)? {
                    Attempt::Locked(lock) => {
                        turn = None;
                        return Ok(Some(CacheMount::begin(&dir, lock)));
                    }
                    Attempt::Busy => return Ok(None),
                    // Its queue went with it.
                    Attempt::Absent => {
                        turn = None;
                        self.make_mount(name, &dir, begin)?;
                    }
                }
            }
        })
    }

    /// Locks a mount that has its directory. One that lacks it is of somebody who was killed, unless others use it.
    fn lock_whole<E: From<StoreError>>(
        &self,
        dir: &Path,
        sharing: CacheSharing,
        begin: &dyn Fn(&Path) -> Result<(), E>,
    ) -> Result<Attempt, E> {
        let (path, data) = (dir.join("lock"), dir.join(DATA));
        loop {
            let attempt = try_lock(&path, sharing)?;
            if !matches!(attempt, Attempt::Locked(_)) || data.is_dir() {
                return Ok(attempt);
            }
            drop(attempt);
            match try_lock(&path, CacheSharing::Locked)? {
                Attempt::Locked(_alone) => {
                    if !self.bring_back(&data)? {
                        let scratch = self.scratch()?;
                        let aside = scratch.path().join(DATA);
                        begin(&aside)?;
                        self.mark_unsynced()?;
                        fs::rename(&aside, &data).map_err(StoreError::io("create", &data))?;
                    }
                }
                attempt => return Ok(attempt),
            }
        }
    }

    fn make_mount<E: From<StoreError>>(
        &self,
        name: &CacheMountName,
        to: &Path,
        begin: &dyn Fn(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let scratch = self.scratch()?;
        let aside = scratch.path().join("mount");
        fs::create_dir(&aside).map_err(StoreError::io("create", &aside))?;
        let about = serde_json::to_vec(name).expect("strings can always be written as JSON");
        for (file, content) in [(ABOUT, &*about), ("lock", b""), ("turn", b"")] {
            let path = aside.join(file);
            new_file(&path)
                .and_then(|mut made| made.write_all(content))
                .map_err(StoreError::io("write", &path))?;
        }
        begin(&aside.join(DATA))?;
        self.mark_unsynced()?;
        match fs::rename(&aside, to) {
            Ok(()) => Ok(()),
            // Another was quicker; or somebody has taken something out of one that is there.
            Err(_) if to.is_dir() => {
                for file in ["lock", "turn"] {
                    match new_file(&to.join(file)) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        // Removed meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        made => drop(made.map_err(StoreError::io("create", to))?),
                    }
                }
                Ok(())
            }
            Err(error) => Err(StoreError::io("create", to)(error).into()),
        }
    }

    /// All cache mounts, whoever they belong to.
    ///
    /// # Errors
    /// If their directory cannot be read.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>, StoreError> {
        let mounts = file::list(&self.path().join("mounts"))?;
        Ok(mounts
            .into_iter()
            .filter_map(CacheMountInfo::read)
            .collect())
    }

    /// Whether there is a cache mount of that name.
    pub fn has_cache_mount(&self, name: &CacheMountName) -> bool {
        let hash = name.hash().to_hex();
        self.path().join(format!("mounts/{hash}.0")).exists()
    }

    /// The cache mount of a name, to read it as it is; of several the one that was used last. That it is read is no use of it.
    ///
    /// # Errors
    /// If it cannot be looked for.
    pub fn resting_mount(&self, name: &CacheMountName) -> Result<Resting, StoreError> {
        let mounts = file::list(&self.path().join("mounts"))?.into_iter();
        let mounts = mounts.filter(|dir| name.is_of(dir));
        let mounts = mounts.filter_map(|dir| Some((used(&dir)?, dir)));
        let Some((_, dir)) = mounts.max() else {
            return Ok(Resting::Absent);
        };
        let data = dir.join(DATA);
        Ok(match try_lock(&dir.join("lock"), CacheSharing::Locked)? {
            Attempt::Locked(lock) if data.is_dir() => {
                Resting::Free(RestingMount { data, _lock: lock })
            }
            Attempt::Busy => Resting::InUse,
            // Who had it by renaming was killed: the next step brings it back.
            Attempt::Locked(_) | Attempt::Absent => Resting::Absent,
        })
    }

    /// Locks the mount in `dir` alone, if nobody uses it; what cannot be locked is nobody's. `None` if it is in use.
    pub(crate) fn lock_unused(&self, dir: &Path) -> Result<Option<Unused>, StoreError> {
        Ok(match try_lock(&dir.join("lock"), CacheSharing::Locked)? {
            Attempt::Locked(lock) => Some(Unused { _lock: Some(lock) }),
            Attempt::Absent => Some(Unused { _lock: None }),
            Attempt::Busy => None,
        })
    }

    /// Moves a cache mount into the directory `trash`, which is on the same file system, unless it is in use or was used
    /// since `mount` was read. Whether it is gone from its place.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn discard_cache_mount(
        &self,
        mount: &CacheMountInfo,
        trash: &Path,
    ) -> Result<bool, StoreError> {
        let path = mount.path.join("lock");
        let _lock = match try_lock(&path, CacheSharing::Locked)? {
            Attempt::Locked(lock) => lock,
            Attempt::Busy => return Ok(false),
            Attempt::Absent => return Ok(true),
        };
        let lock = fs::symlink_metadata(&path).map_err(StoreError::io("read", &path))?;
        if changed(&lock) != mount.used {
            return Ok(false);
        }
        let name = mount.path.file_name().unwrap_or_default();
        fs::rename(&mount.path, trash.join(name)).map_err(StoreError::io("remove", &mount.path))?;
        Ok(true)
    }
}

impl CacheMountInfo {
    /// What is in a directory; `None` if it is gone, or nobody can have it, as there is nothing to lock.
    fn read(path: PathBuf) -> Option<Self> {
        let lock = path.join("lock");
        let file = File::open(&lock).ok()?;
        let used = changed(&file.metadata().ok()?);
        let about = path.join(ABOUT);
        let created = fs::symlink_metadata(&about).map_or(used, |found| changed(&found));
        let name = file::peek_json(&about).ok().flatten();
        // Held for no longer than it takes to find out: builds that want one for themselves do not wait for this one.
        let free = flock::try_lock(&file, How::Alone, &lock);
        drop(file);
        Some(Self {
            name,
            created,
            used,
            in_use: !free.unwrap_or(false),
            path,
        })
    }
}

/// When the mount in `dir` was used last.
fn used(dir: &Path) -> Option<Timestamp> {
    let lock = fs::symlink_metadata(dir.join("lock")).ok()?;
    Some(changed(&lock))
}

fn changed(found: &fs::Metadata) -> Timestamp {
    Timestamp {
        secs: found.mtime(),
        nanos: found.mtime_nsec() as u32,
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Locks a file that is there, for as long as it is open.
fn try_lock(path: &Path, sharing: CacheSharing) -> Result<Attempt, StoreError> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if absent(&error) => return Ok(Attempt::Absent),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    let how = match sharing {
        CacheSharing::Shared => How::Shared,
        CacheSharing::Private | CacheSharing::Locked => How::Alone,
    };
    if !flock::try_lock(&file, how, path)? {
        return Ok(Attempt::Busy);
    }
    // It may have been removed before it was locked, and made again.
    let same = |there: fs::Metadata| {
        let own = file.metadata()?;
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    };
    match fs::symlink_metadata(path).and_then(same) {
        Ok(true) => Ok(Attempt::Locked(file)),
        Ok(false) => Ok(Attempt::Absent),
        Err(error) if absent(&error) => Ok(Attempt::Absent),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}
