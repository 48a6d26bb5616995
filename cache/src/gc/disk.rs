//! What things take on disk.

use std::collections::HashSet;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::io;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use rbuild_llb::TreeId;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::Stat;

use crate::file;
use crate::store::Store;
use crate::store::StoreError;
use crate::threads;
use crate::tree::Entry;
use crate::tree::Follow;
use crate::tree::Node;
use crate::tree::Timestamp;
use crate::tree::Trees;

/// What is taken for the block of a file system where a directory may not be read.
const BLOCK: u64 = 4096;
/// So few things are not worth a thread.
const FEW: usize = 16;
/// Bytes of names that are asked of a directory at once.
const NAMES: usize = 8 << 10;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What stat(2) says of a file or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) inode: u64,
    /// What it takes on disk.
    pub(super) bytes: u64,
    /// What it holds.
    pub(super) size: u64,
    pub(super) changed: Timestamp,
    pub(super) modified: Timestamp,
    /// Seconds since 1970.
    pub(super) accessed: i64,
}

impl Found {
    /// Of what is not looked at.
    pub(super) fn nothing() -> Self {
        Self {
            inode: 0,
            bytes: 0,
            size: 0,
            changed: Timestamp::default(),
            modified: Timestamp::default(),
            accessed: 0,
        }
    }
}

impl From<fs::Metadata> for Found {
    fn from(found: fs::Metadata) -> Self {
        Self {
            inode: found.ino(),
            bytes: found.blocks() * 512,
            size: found.size(),
            changed: time(found.ctime(), found.ctime_nsec()),
            modified: time(found.mtime(), found.mtime_nsec()),
            accessed: found.atime(),
        }
    }
}

impl From<Stat> for Found {
    fn from(found: Stat) -> Self {
        Self {
            inode: found.st_ino,
            bytes: taken(&found),
            size: found.st_size.cast_unsigned(),
            changed: time(found.st_ctime, found.st_ctime_nsec as i64),
            modified: time(found.st_mtime, found.st_mtime_nsec as i64),
            accessed: found.st_atime,
        }
    }
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    Timestamp {
        secs,
        nanos: nanos as u32,
    }
}

fn taken(found: &Stat) -> u64 {
    found.st_blocks.cast_unsigned() * 512
}

/// Reads and measures what is in a store; what several names are of counts once.
///
/// Files are looked up from the store's directory on, or from the one they are in: there are many, and the way from `/` is
/// most of the work.
pub(super) struct Disk<'a> {
    trees: &'a Trees,
    root: OwnedFd,
    /// Bytes of a path that are the store's.
    prefix: usize,
    /// Device and inode of files with several names.
    seen: Mutex<HashSet<(u64, u64)>>,
}

impl<'a> Disk<'a> {
    pub(super) fn open(store: &'a Store) -> Result<Self, StoreError> {
        let path = store.path();
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|error| StoreError::io("open", path)(error.into()))?;
        Ok(Self {
            trees: store.trees(),
            root,
            prefix: path.as_os_str().len() + 1,
            seen: Mutex::default(),
        })
    }

    /// A path below the store's directory, from there on.
    fn place<'p>(&self, path: &'p Path) -> &'p [u8] {
        let path = path.as_os_str().as_bytes();
        path.get(self.prefix..).unwrap_or(path)
    }

    /// What is in a directory of the store, sorted by name, and what the directory takes itself. Files being written are left
    /// out, and what is gone meanwhile.
    pub(super) fn list(&self, dir: &Path) -> (Vec<(CString, Found)>, u64) {
        let opened = rustix::fs::openat(&self.root, self.place(dir), DIRECTORY, Mode::empty());
        let Ok(dir) = opened else {
            return (Vec::new(), file_usage(dir));
        };
        let mut names = names(&dir);
        names.retain(|(name, _)| !name.as_bytes().starts_with(file::ASIDE.as_bytes()));
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let found = names.into_iter().filter_map(|(name, _)| {
            let found = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((name, found.into()))
        });
        let own = rustix::fs::fstat(&dir).map_or(0, |found| taken(&found));
        (found.collect(), own)
    }

    /// What a file of the store holds, which was of `size` bytes; see [`file::open_to_peek`].
    pub(super) fn read(&self, path: &Path, size: u64) -> io::Result<Vec<u8>> {
        let mut file = file::open_to_peek_at(&self.root, self.place(path))?;
        let mut bytes = vec![0; size as usize + 1];
        let mut len = 0;
        // Usually the one read that it takes: where there is room left is the end.
        loop {
            match file.read(&mut bytes[len..]) {
                Ok(count) if len + count == bytes.len() => {
                    len += count;
                    bytes.resize(2 * len, 0);
                }
                Ok(count) => {
                    bytes.truncate(len + count);
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What a file or directory takes. What may not be looked into does not count.
    pub(super) fn usage(&self, path: &Path) -> u64 {
        let name = CString::new(self.place(path)).unwrap_or_default();
        let unknown = FileType::Unknown;
        self.below(&self.root, &name, unknown, &mut Vec::new(), &mut Vec::new())
    }

    /// What the directory forms in `dir` take that were made of the tree `layer`, and whether one is but a difference. What may
    /// not be looked into (directories of subordinate ids) counts as the tree says.
    pub(super) fn forms(&self, dir: &Path, layer: Option<&TreeId>) -> (u64, bool) {
        let Ok(dir) = rustix::fs::openat(&self.root, self.place(dir), DIRECTORY, Mode::empty())
        else {
            return (0, false);
        };
        let mut bytes = rustix::fs::fstat(&dir).map_or(0, |found| taken(&found));
        let forms = names(&dir);
        for (form, kind) in &forms {
            let mut closed = Vec::new();
            bytes += self.below(&dir, form, *kind, &mut Vec::new(), &mut closed);
            let unseen = closed.iter().filter_map(|path| self.told(layer?, path));
            bytes += unseen.sum::<u64>();
        }
        let differs = forms
            .iter()
            .any(|(form, _)| form.as_bytes().ends_with(b".delta"));
        (bytes, differs)
    }

    /// `path` is that of `name`, from where the caller began. A directory of which it is known that it is one is not looked up
    /// a second time.
    fn below(
        &self,
        at: impl AsFd,
        name: &CStr,
        kind: FileType,
        path: &mut Vec<u8>,
        closed: &mut Vec<Vec<u8>>,
    ) -> u64 {
        let mut seen = None;
        if kind != FileType::Directory {
            let Ok(found) = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) else {
                return 0;
            };
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                let first = found.st_nlink < 2 || self.is_first(found.st_dev, found.st_ino);
                return if first { taken(&found) } else { 0 };
            }
            seen = Some(found);
        }
        let Ok(dir) = rustix::fs::openat(&at, name, DIRECTORY, Mode::empty()) else {
            closed.push(path.clone());
            let found = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW);
            return found.map_or(0, |found| taken(&found));
        };
        let own = seen.or_else(|| rustix::fs::fstat(&dir).ok());
        let mut bytes = own.map_or(0, |found| taken(&found));
        let before = path.len();
        for (name, kind) in names(&dir) {
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            bytes += self.below(&dir, &name, kind, path, closed);
            path.truncate(before);
        }
        bytes
    }

    /// What a tree says that is below a directory.
    fn told(&self, layer: &TreeId, path: &[u8]) -> Option<u64> {
        let found = self.trees.lookup(layer, path, Follow::NotLast).ok()??;
        let tree = self.trees.subtree(&found.entry);
        let mut told = 0;
        let mut add = |path: &[u8], entry: &Entry| {
            told += match &entry.node {
                Node::File(file) => file.size.next_multiple_of(BLOCK),
                Node::Dir(_) if !path.is_empty() => BLOCK,
                _ => 0,
            };
            ControlFlow::Continue(())
        };
        self.trees.walk(&tree.tree, &mut add).ok()?;
        Some(told)
    }

    fn is_first(&self, device: u64, inode: u64) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((device, inode))
    }
}

/// The names in a directory, as far as they can be read, and what they are of, if the file system tells.
fn names(dir: &OwnedFd) -> Vec<(CString, FileType)> {
    let mut buffer = Vec::with_capacity(NAMES);
    let mut list = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(Ok(entry)) = list.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    names
}

/// What one file or directory takes by itself.
pub(super) fn file_usage(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512)
}

/// Does something with each of many things, on threads that have ended when this returns: its caller may be about to enter
/// a user namespace.
pub(super) fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    if things.len() <= FEW || workers == 1 {
        return things.iter().map(deed).collect();
    }
    threads::side_by_side(things, workers, deed)
}
