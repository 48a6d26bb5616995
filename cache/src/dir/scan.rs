//! A directory to a tree: what a step left in the upper directory of its overlay mount, or any directory as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rayon::iter::IntoParallelIterator as _;
use rayon::iter::ParallelIterator as _;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::CAPABILITY;
use super::OVERLAY;
use super::OVERLAY_OPAQUE;
use super::beneath::Beneath;
use super::beneath::list;
use super::beneath::readable;
use super::beneath::split;
use super::unpack::failed;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::layer::LayerError;
use crate::layer::show;
use crate::tree::FileNode;
use crate::tree::MAX_DEPTH;
use crate::tree::Meta;
use crate::tree::Timestamp;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// What a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanKind {
    /// The upper directory of an overlay mount with `userxattr`: a layer.
    Upper,
    /// Just a directory.
    Plain,
}

const CHUNK: usize = 256 << 10;

/// Reads a directory that nobody writes to any more. Files are hashed on rayon's current pool. Sockets are left out.
///
/// Of an upper directory everything is there that was copied up; [`Trees::reduce`] takes out what did not change.
pub fn scan_dir(
    trees: &Trees,
    dir: &Path,
    kind: ScanKind,
    cancel: &CancelToken,
) -> Result<TreeRef, LayerError> {
    let beneath = Beneath::open(dir).map_err(|source| failed("open the directory", b"", source))?;
    let mut scan = Scan {
        beneath: &beneath,
        kind,
        builder: TreeBuilder::new(),
        files: Files::default(),
        dirs: vec![Vec::new()],
    };
    while let Some(path) = scan.dirs.pop() {
        if cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        scan.dir(&path)?;
    }
    let Scan {
        mut builder, files, ..
    } = scan;
    for (at, (file, hashed)) in files.hash(&beneath, kind, cancel)?.iter().enumerate() {
        file.insert(at, hashed, &mut builder);
    }
    Ok(builder.finish(trees))
}

struct Scan<'a> {
    beneath: &'a Beneath,
    kind: ScanKind,
    builder: TreeBuilder,
    files: Files,
    /// Directories still to be read.
    dirs: Vec<Vec<u8>>,
}

/// Files that were found and are still to be read.
#[derive(Default)]
pub(super) struct Files {
    found: Vec<FoundFile>,
    /// Where in `found` a file with several names is, by device and inode.
    inodes: BTreeMap<(u64, u64), usize>,
}

impl Files {
    pub(super) fn add(&mut self, stat: &Stat, path: Vec<u8>) {
        let at = self.found.len();
        if stat.st_nlink > 1 {
            let first = *self.inodes.entry((stat.st_dev, stat.st_ino)).or_insert(at);
            if let Some(file) = self.found.get_mut(first) {
                file.paths.push(path);
                return;
            }
        }
        self.found.push(FoundFile {
            paths: vec![path],
            meta: meta(stat),
            size: stat.st_size.cast_unsigned(),
        });
    }

    /// Reads them, on rayon's current pool.
    pub(super) fn hash(
        self,
        beneath: &Beneath,
        kind: ScanKind,
        cancel: &CancelToken,
    ) -> Result<Vec<(FoundFile, Hashed)>, LayerError> {
        self.found
            .into_par_iter()
            .map(|file| {
                if cancel.is_cancelled() {
                    return Err(LayerError::Cancelled);
                }
                let hashed = file.hash(beneath, kind)?;
                Ok((file, hashed))
            })
            .collect()
    }
}

/// A file under all its names.
pub(super) struct FoundFile {
    pub(super) paths: Vec<Vec<u8>>,
    pub(super) meta: Meta,
    pub(super) size: u64,
}

pub(super) struct Hashed {
    pub(super) digest: FileDigest,
    pub(super) xattrs: Xattrs,
}

pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Scan<'_> {
    fn dir(&mut self, path: &[u8]) -> Result<(), LayerError> {
        // One for the names in it.
        if path.iter().filter(|b| **b == b'/').count() + 2 > MAX_DEPTH {
            return Err(LayerError::Entry {
                path: show(path),
                problem: "is too deep a path",
            });
        }
        let dir = self
            .beneath
            .dir(path)
            .and_then(|dir| readable(dir.as_fd()))
            .map_err(|source| failed("open", path, source))?;
        let stat = rustix::fs::fstat(&dir).map_err(|errno| failed("read", path, errno.into()))?;
        let (xattrs, opaque) = xattrs(dir.as_fd(), self.kind)
            .map_err(|source| failed("read the extended attributes of", path, source))?;
        let described = Meta {
            xattrs,
            ..meta(&stat)
        };
        self.builder.insert(path, described, NewNode::Dir);
        if opaque {
            self.builder.opaque(path);
        }
        for name in list(dir.as_fd()).map_err(|source| failed("read", path, source))? {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(&name);
            self.entry(dir.as_fd(), &name, below)?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> Result<(), LayerError> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("read", &path, errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.files.add(&stat, path);
                return Ok(());
            }
            FileType::Directory => {
                self.dirs.push(path);
                return Ok(());
            }
            // All whiteouts of a mount are one inode: their links mean nothing.
            FileType::CharacterDevice
                if device(&stat) == (0, 0) && self.kind == ScanKind::Upper =>
            {
                self.builder.whiteout(&path);
                return Ok(());
            }
            _ => {}
        }
        let node =
            special(dir, name, &stat).map_err(|errno| failed("read", &path, errno.into()))?;
        if let Some(node) = node {
            self.builder.insert(&path, meta(&stat), node);
        }
        Ok(())
    }
}

/// What a name is that is neither a file nor a directory; `None` for a socket.
pub(super) fn special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
) -> Result<Option<NewNode>, Errno> {
    let (major, minor) = device(stat);
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => NewNode::Symlink {
            target: rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
        },
        FileType::CharacterDevice => NewNode::Char { major, minor },
        FileType::BlockDevice => NewNode::Block { major, minor },
        FileType::Fifo => NewNode::Fifo,
        _ => return Ok(None),
    }))
}

fn device(stat: &Stat) -> (u32, u32) {
    (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    )
}

impl FoundFile {
    /// Puts it into a tree under all its names, `at` the number of its group of links.
    pub(super) fn insert(&self, at: usize, hashed: &Hashed, builder: &mut TreeBuilder) {
        let link = (self.paths.len() > 1).then_some(at as u32);
        for path in &self.paths {
            let node = FileNode {
                size: self.size,
                digest: hashed.digest,
                link,
            };
            let meta = Meta {
                xattrs: hashed.xattrs.clone(),
                ..self.meta.clone()
            };
            builder.insert(path, meta, NewNode::File(node));
        }
    }

    pub(super) fn hash(&self, beneath: &Beneath, kind: ScanKind) -> Result<Hashed, LayerError> {
        let path = &self.paths[0];
        let read_error = |source| failed("read", path, source);
        let (parent, name) = split(path);
        // If the name has become a fifo, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = beneath
            .dir(parent)
            .and_then(|dir| Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?))
            .map_err(read_error)?
            .into();
        let digest = hash(&file, self.size).map_err(read_error)?;
        let (xattrs, _) = xattrs(file.as_fd(), kind).map_err(read_error)?;
        match digest {
            Some(digest) => Ok(Hashed { digest, xattrs }),
            None => Err(LayerError::FileChanged { path: show(path) }),
        }
    }
}

/// BLAKE3 of a file; `None` if it has not `size` bytes.
fn hash(mut file: &File, size: u64) -> io::Result<Option<FileDigest>> {
    let room = usize::try_from(size + 1).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = vec![0; room];
    let mut hasher = blake3::Hasher::new();
    while hasher.count() <= size {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                hasher.update(&buffer[..len]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest = FileDigest::from_bytes(*hasher.finalize().as_bytes());
    Ok((hasher.count() == size).then_some(digest))
}

pub(super) fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs: Xattrs::new(),
    }
}

/// The xattrs that belong to an image, and whether the directory is opaque.
pub(super) fn xattrs(fd: BorrowedFd<'_>, kind: ScanKind) -> io::Result<(Xattrs, bool)> {
    let mut list = vec![0; 256];
    let len = loop {
        match rustix::fs::flistxattr(fd, &mut list) {
            Ok(len) => break len,
            Err(Errno::RANGE) => list.resize(list.len() * 8, 0),
            Err(Errno::NOTSUP) => return Ok((Xattrs::new(), false)),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut kept = Xattrs::new();
    let mut opaque = false;
    for name in list[..len].split(|b| *b == 0) {
        if !name.starts_with(b"user.") && name != CAPABILITY {
            continue;
        }
        let own = match name.strip_prefix(OVERLAY) {
            Some(rest) if kind == ScanKind::Upper => match rest.strip_prefix(b"overlay.") {
                Some(rest) => [OVERLAY, rest].concat(),
                None => {
                    opaque |= name == OVERLAY_OPAQUE && xattr(fd, name)? == b"y";
                    continue;
                }
            },
            _ => name.to_vec(),
        };
        let mut value = xattr(fd, name)?;
        if name == CAPABILITY {
            value = without_root_id(value);
        }
        kept.insert(own, value);
    }
    Ok((kept, opaque))
}

fn xattr(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(value);
            }
            Err(Errno::RANGE) => value.resize(value.len() * 8, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Capabilities set in a user namespace and read outside of it name its root (`struct vfs_ns_cap_data`, revision 3); an
/// image has them without (revision 2).
fn without_root_id(mut value: Vec<u8>) -> Vec<u8> {
    if value.len() == 24 && value[3] == 3 {
        value.truncate(20);
        value[3] = 2;
    }
    value
}
