//! A directory to a tree: what a step left in the upper directory of its overlay mount, or any directory as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
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
use super::Ownership;
use super::beneath::Beneath;
use super::beneath::list;
use super::beneath::readable;
use super::beneath::split;
use super::owner::Device;
use super::owner::OWNER;
use super::owner::Owner;
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
    /// The same, with owners recorded beside the files ([`Owner`]).
    RecordedUpper,
    /// Just a directory.
    Plain,
    /// A directory with owners recorded beside the files.
    RecordedPlain,
}

impl ScanKind {
    /// The upper directory of a process whose files have such owners.
    pub fn upper_of(owners: Ownership) -> Self {
        match owners {
            Ownership::Recorded => Self::RecordedUpper,
            Ownership::Keep | Ownership::Single | Ownership::Logical => Self::Upper,
        }
    }

    /// A directory whose files have such owners.
    pub fn plain_of(owners: Ownership) -> Self {
        match owners {
            Ownership::Recorded => Self::RecordedPlain,
            Ownership::Keep | Ownership::Single | Ownership::Logical => Self::Plain,
        }
    }

    fn is_upper(self) -> bool {
        matches!(self, Self::Upper | Self::RecordedUpper)
    }

    pub(super) fn is_recorded(self) -> bool {
        matches!(self, Self::RecordedUpper | Self::RecordedPlain)
    }
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
    pub(super) fn add(&mut self, stat: &Stat, kind: ScanKind, path: Vec<u8>) {
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
            meta: meta(stat, kind),
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
    digest: FileDigest,
    xattrs: Xattrs,
    owner: Option<Owner>,
}

pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Scan<'_> {
    fn dir(&mut self, path: &[u8]) -> Result<(), LayerError> {
        check_depth(path)?;
        let dir = self
            .beneath
            .dir(path)
            .and_then(|dir| readable(dir.as_fd()))
            .map_err(|source| failed("open", path, source))?;
        if describe(&mut self.builder, dir.as_fd(), path, self.kind)? {
            self.builder.opaque(path);
        }
        for name in list(dir.as_fd()).map_err(|source| failed("read", path, source))? {
            self.entry(dir.as_fd(), &name, below(path, &name))?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> Result<(), LayerError> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("read", &path, errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.files.add(&stat, self.kind, path);
                return Ok(());
            }
            FileType::Directory => {
                self.dirs.push(path);
                return Ok(());
            }
            // All whiteouts of a mount are one inode: their links mean nothing.
            FileType::CharacterDevice if device(&stat) == (0, 0) && self.kind.is_upper() => {
                self.builder.whiteout(&path);
                return Ok(());
            }
            _ => {}
        }
        let found =
            special(dir, name, &stat, self.kind).map_err(|source| failed("read", &path, source))?;
        if let Some((meta, node)) = found {
            self.builder.insert(&path, meta, node);
        }
        Ok(())
    }
}

/// What a name is that is neither a file nor a directory; `None` for a socket.
pub(super) fn special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    kind: ScanKind,
) -> io::Result<Option<(Meta, NewNode)>> {
    let (major, minor) = device(stat);
    let node = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => NewNode::Symlink {
            target: rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
        },
        FileType::CharacterDevice => NewNode::Char { major, minor },
        FileType::BlockDevice => NewNode::Block { major, minor },
        FileType::Fifo => NewNode::Fifo,
        _ => return Ok(None),
    };
    let owner = match kind.is_recorded() {
        true => special_owner(dir, name)?,
        false => None,
    };
    let meta = owned(&meta(stat, kind), owner, Xattrs::new());
    Ok(Some((meta, node)))
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
            let meta = owned(&self.meta, hashed.owner, hashed.xattrs.clone());
            let node = match hashed.owner.and_then(|owner| owner.device) {
                Some(device) => device_node(device),
                None => NewNode::File(FileNode {
                    size: self.size,
                    digest: hashed.digest,
                    link,
                }),
            };
            builder.insert(path, meta, node);
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
        let Attributes { xattrs, owner, .. } =
            attributes(file.as_fd(), kind).map_err(read_error)?;
        match digest {
            Some(digest) => Ok(Hashed {
                digest,
                xattrs,
                owner,
            }),
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

/// The path of a name in the directory `path`.
pub(super) fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}

/// Whether names in the directory `path` are as deep as a tree may be.
pub(super) fn check_depth(path: &[u8]) -> Result<(), LayerError> {
    // One for the names in it.
    if path.iter().filter(|b| **b == b'/').count() + 2 > MAX_DEPTH {
        return Err(LayerError::Entry {
            path: show(path),
            problem: "is too deep a path",
        });
    }
    Ok(())
}

/// Puts an open directory into a layer as it is now; says whether it is marked as opaque.
pub(super) fn describe(
    builder: &mut TreeBuilder,
    dir: BorrowedFd<'_>,
    path: &[u8],
    kind: ScanKind,
) -> Result<bool, LayerError> {
    let stat = rustix::fs::fstat(dir).map_err(|errno| failed("read", path, errno.into()))?;
    let found = attributes(dir, kind)
        .map_err(|source| failed("read the extended attributes of", path, source))?;
    let described = owned(&meta(&stat, kind), found.owner, found.xattrs);
    builder.insert(path, described, NewNode::Dir);
    Ok(found.opaque)
}

/// Without extended attributes, and of 0:0 where owners are recorded.
fn meta(stat: &Stat, kind: ScanKind) -> Meta {
    let (uid, gid) = match kind.is_recorded() {
        true => (0, 0),
        false => (stat.st_uid, stat.st_gid),
    };
    Meta {
        mode: stat.st_mode & 0o7777,
        uid,
        gid,
        mtime: Timestamp {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs: Xattrs::new(),
    }
}

fn owned(meta: &Meta, owner: Option<Owner>, xattrs: Xattrs) -> Meta {
    let (uid, gid) = owner.map_or((meta.uid, meta.gid), |owner| (owner.uid, owner.gid));
    Meta {
        uid,
        gid,
        xattrs,
        ..meta.clone()
    }
}

fn device_node(device: Device) -> NewNode {
    let Device {
        block,
        major,
        minor,
    } = device;
    match block {
        true => NewNode::Block { major, minor },
        false => NewNode::Char { major, minor },
    }
}

/// The recorded owner of what has no attributes of the user's.
fn special_owner(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Owner>> {
    // There is no lgetxattrat(2) before Linux 6.13. The link in /proc leads to the directory that is open.
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut value = [0; 24];
    match rustix::fs::lgetxattr(path, CAPABILITY, &mut value) {
        Ok(len) => Ok(Owner::from_capability(&value[..len])),
        // Somebody's longer value is nobody's owner.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What a file's extended attributes say.
#[derive(Default)]
pub(super) struct Attributes {
    /// Those that belong to an image.
    pub(super) xattrs: Xattrs,
    /// Whether a directory is opaque.
    opaque: bool,
    /// As recorded.
    pub(super) owner: Option<Owner>,
}

fn attributes(fd: BorrowedFd<'_>, kind: ScanKind) -> io::Result<Attributes> {
    let mut list = vec![0; 256];
    let len = loop {
        match rustix::fs::flistxattr(fd, &mut list) {
            Ok(len) => break len,
            Err(Errno::RANGE) => list.resize(list.len() * 8, 0),
            Err(Errno::NOTSUP) => return Ok(Attributes::default()),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut found = Attributes::default();
    for name in list[..len].split(|b| *b == 0) {
        if !name.starts_with(b"user.") && name != CAPABILITY {
            continue;
        }
        if name == OWNER && kind.is_recorded() {
            found.owner = Owner::from_text(&xattr(fd, name)?);
            continue;
        }
        let own = match name.strip_prefix(OVERLAY) {
            Some(rest) if kind.is_upper() => match rest.strip_prefix(b"overlay.") {
                Some(rest) => [OVERLAY, rest].concat(),
                None => {
                    found.opaque |= name == OVERLAY_OPAQUE && xattr(fd, name)? == b"y";
                    continue;
                }
            },
            _ => name.to_vec(),
        };
        let mut value = xattr(fd, name)?;
        if name == CAPABILITY {
            value = without_root_id(value);
        }
        found.xattrs.insert(own, value);
    }
    Ok(found)
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
