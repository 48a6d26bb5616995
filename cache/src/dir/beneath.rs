//! Paths below a directory, opened name by name.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// What a directory has until its own mode is set: whoever fills it must be able to.
const FILLING: Mode = Mode::RWXU;

/// A directory, and what is below it. Paths have no leading slash, no `.` and no `..`; empty is the directory itself.
pub(super) struct Beneath {
    root: OwnedFd,
}

impl Beneath {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
        })
    }

    /// A handle to work relative to.
    pub(super) fn dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        for name in names(path) {
            dir = open_dir(dir.as_fd(), name)?;
        }
        Ok(dir)
    }

    /// The same, making directories that are missing. What is in the way and is no directory goes.
    pub(super) fn make_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        for name in names(path) {
            dir = match open_dir(dir.as_fd(), name) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&dir, name, FILLING)?;
                    open_dir(dir.as_fd(), name)?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&dir, name, FILLING)?;
                    open_dir(dir.as_fd(), name)?
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    /// Removes what is at `path` with everything below it, if there is anything.
    pub(super) fn remove(&self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        match self.dir(parent) {
            Ok(dir) => remove(dir.as_fd(), name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The path of the directory, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The same directory, opened so that it can be read and described.
pub(super) fn readable(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

/// The names in a directory, in no order.
pub(super) fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::new(readable(dir)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty())
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?);
        }
        Ok(_) => {}
    }
    let below = open_dir(dir, name)?;
    for name in list(below.as_fd())? {
        remove(below.as_fd(), &name)?;
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
