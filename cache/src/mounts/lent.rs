//! Directories that a step has been lent by renaming, where nothing can be mounted. They come back also when whoever
//! lent them is killed.
//!
//! A symbolic link beside the place of such a directory leads to where it is. It is there before the directory leaves, and
//! goes when that is back.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::op::CacheSharing;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Attempt;
use super::try_lock;
use crate::context::name_by_name;
use crate::file;
use crate::store::Store;
use crate::store::StoreError;

/// What stands behind the name of a directory in that of the link beside it.
const AWAY: &str = "away";

fn away(home: &Path) -> PathBuf {
    home.with_extension(AWAY)
}

/// Moves the directory `home` to `at`; both are in `store`.
///
/// # Errors
/// If it cannot be moved. Then it is where it was.
pub fn lend(store: &Path, home: &Path, at: &Path) -> io::Result<()> {
    let outside = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let from = home.strip_prefix(store).map_err(outside)?;
    let to = at.strip_prefix(store).map_err(outside)?;
    // Relative: builds may see the store at different places.
    let up = from.components().skip(1).map(|_| Component::ParentDir);
    let target: PathBuf = up.chain(to.components()).collect();
    let link = away(home);
    file::remove(&link)?;
    std::os::unix::fs::symlink(target, &link)?;
    fs::rename(home, at).inspect_err(|_| drop(fs::remove_file(&link)))
}

/// Moves what was [lent](lend) back. What is no longer there, or is no directory any more, was removed by the step, and comes
/// back empty: it would have been, if it were mounted.
///
/// # Errors
/// If it cannot be moved.
pub fn take_back(home: &Path, at: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found?),
    };
    // Not what a step has put in its place: a link would lead builds that come after to wherever it likes.
    match found.is_some_and(|found| found.is_dir()) {
        true => fs::rename(at, home)?,
        false => fs::create_dir(home)?,
    }
    fs::remove_file(away(home))
}

impl Store {
    /// Where the directory `home` of the store is said to be instead, relative to the store.
    pub(crate) fn lent_to(&self, home: &Path) -> Option<PathBuf> {
        let target = fs::read_link(away(home)).ok()?;
        let below = |part: &Component<'_>| *part != Component::ParentDir;
        Some(target.components().filter(below).collect())
    }

    /// Moves back what somebody lent who is dead; says whether it is where it belongs. Called with the lock of the mount
    /// that it is of.
    pub(crate) fn bring_back(&self, home: &Path) -> Result<bool, StoreError> {
        let Some(at) = self.lent_to(home) else {
            return Ok(home.is_dir());
        };
        self.mark_unsynced()?;
        match self.move_back(&at, home) {
            Ok(()) => {}
            // It had not left yet, or is back already; or it is gone.
            Err(Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(error) => return Err(StoreError::io("put back", home)(error.into())),
        }
        let link = away(home);
        fs::remove_file(&link).map_err(StoreError::io("remove", &link))?;
        Ok(home.is_dir())
    }

    /// A step that was killed may have left links in its root: none is followed.
    fn move_back(&self, at: &Path, home: &Path) -> rustix::io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let store = rustix::fs::openat(CWD, self.path(), flags, Mode::empty())?;
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(Errno::NOENT);
        };
        let found = name_by_name(store.as_fd(), parent.as_os_str().as_bytes(), flags);
        let found = found.and_then(|parent| {
            rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            Ok(parent)
        });
        match found {
            Ok(parent) => rustix::fs::renameat(parent, name, CWD, home),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => Err(Errno::NOENT),
            Err(error) => Err(error),
        }
    }

    /// Puts back what cache mounts have below `dir`, a scratch directory of somebody who is dead. Says whether all is
    /// where it belongs, and `dir` may go.
    pub(crate) fn bring_back_from(&self, dir: &Path) -> Result<bool, StoreError> {
        let mut all = true;
        for mount in file::list(&self.path().join("mounts"))? {
            let data = mount.join(super::DATA);
            let lent = self.lent_to(&data).map(|at| self.path().join(at));
            if lent.is_some_and(|at| at.starts_with(dir)) {
                all &= match try_lock(&mount.join("lock"), CacheSharing::Locked)? {
                    Attempt::Locked(_lock) => self.bring_back(&data).map(|_| true)?,
                    // Who held it may be about to end.
                    Attempt::Busy => false,
                    Attempt::Absent => true,
                };
            }
        }
        Ok(all)
    }
}
