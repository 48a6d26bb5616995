//! Writing a layer's directory form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rayon::iter::IntoParallelRefIterator as _;
use rayon::iter::ParallelIterator as _;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::Uid;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::CAPABILITY;
use super::Layout;
use super::OVERLAY;
use super::OVERLAY_OPAQUE;
use super::Ownership;
use super::beneath::Beneath;
use super::beneath::readable;
use super::beneath::split;
use super::owner::Device;
use super::owner::OWNER;
use super::owner::Owner;
use crate::layer::LayerError;
use crate::layer::OpenFile;
use crate::layer::show;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::Trees;

/// Files written by one job: enough to make opening their directory cheap, few enough to spread a big directory.
const BATCH: usize = 64;
const CHUNK: usize = 256 << 10;

/// Writes the directory form of a layer into the empty directory `into`, files in parallel on rayon's current pool.
///
/// Implied directories get the metadata they have in the tree, so it should be a
/// [settled](crate::tree::Trees::settle) one.
pub fn write_dir(
    trees: &Trees,
    layer: &TreeId,
    into: &Path,
    open: &OpenFile<'_>,
    owners: Ownership,
    cancel: &CancelToken,
) -> Result<(), LayerError> {
    let unpack = Unpack::new(into, owners)?;
    write_layer(unpack, trees, layer, &checked(open), Links::Kept, cancel)
}

/// The same as a [plain](Layout::Plain) form.
pub fn write_plain(
    trees: &Trees,
    layer: &TreeId,
    into: &Path,
    open: &OpenFile<'_>,
    owners: Ownership,
    cancel: &CancelToken,
) -> Result<(), LayerError> {
    let unpack = Unpack::plain(into, owners)?;
    write_layer(unpack, trees, layer, &checked(open), Links::Kept, cancel)
}

/// Writes the bytes of a file. The buffer is for whatever it is of use.
pub(crate) type Fill<'a> =
    dyn Fn(&mut FileWriter, &FileNode, &mut Vec<u8>) -> Result<(), LayerError> + Sync + 'a;

/// Bytes of files, compared with the tree as they pass.
fn checked<'a>(
    open: &'a OpenFile<'a>,
) -> impl Fn(&mut FileWriter, &FileNode, &mut Vec<u8>) -> Result<(), LayerError> + Sync + 'a {
    |out, node, buffer| out.copy(&out.open(open, node)?, node, buffer)
}

/// Bytes of files of this store, copied by the kernel: shared until one of the two is written to where the file system can
/// do that.
pub(super) fn cloned<'a>(
    open: &'a OpenFile<'a>,
) -> impl Fn(&mut FileWriter, &FileNode, &mut Vec<u8>) -> Result<(), LayerError> + Sync + 'a {
    |out, node, _| out.clone_from(&out.open(open, node)?, node)
}

/// What names of one file become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Names of one file.
    Kept,
    /// Files of their own, which is what overlayfs makes of them when one is written to.
    Parted,
}

/// Writes a layer's directory form; `fill` has the bytes of its files.
pub(crate) fn write_layer(
    unpack: Unpack,
    trees: &Trees,
    layer: &TreeId,
    fill: &Fill<'_>,
    links: Links,
    cancel: &CancelToken,
) -> Result<(), LayerError> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut names = Names::default();
    let mut collected = Ok(());
    trees.walk(layer, &mut |path, entry| {
        match &entry.node {
            Node::Dir(_) => collected = unpack.make_dir(path).map(drop),
            Node::File(file) if links == Links::Parted || !names.is_later(path, entry, file) => {
                let (parent, name) = split(path);
                let fits = batches
                    .last()
                    .is_some_and(|batch| batch.dir == parent && batch.files.len() < BATCH);
                if !fits {
                    batches.push(Batch {
                        dir: parent.to_vec(),
                        files: Vec::new(),
                    });
                }
                if let Some(batch) = batches.last_mut() {
                    let file = (name.to_vec(), entry.meta.clone(), file.clone());
                    batch.files.push(file);
                }
            }
            _ => {}
        }
        match collected {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    collected?;
    batches
        .par_iter()
        .try_for_each(|batch| batch.write(&unpack, fill, cancel))?;
    for (path, first) in &names.later {
        unpack.hard_link(path, first)?;
    }
    unpack.finish(trees, layer)
}

/// Files of one directory.
struct Batch {
    dir: Vec<u8>,
    files: Vec<(Vec<u8>, Meta, FileNode)>,
}

impl Batch {
    fn write(
        &self,
        unpack: &Unpack,
        fill: &Fill<'_>,
        cancel: &CancelToken,
    ) -> Result<(), LayerError> {
        let dir = unpack
            .beneath
            .dir(&self.dir)
            .map_err(|source| failed("open", &self.dir, source))?;
        let mut buffer = Vec::new();
        for (name, meta, node) in &self.files {
            if cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            let mut path = self.dir.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let mut out = FileWriter::create(dir.as_fd(), path)?;
            fill(&mut out, node, &mut buffer)?;
            out.finish(meta, unpack)?;
        }
        Ok(())
    }
}

/// Hard-link groups.
#[derive(Default)]
struct Names {
    first: BTreeMap<(u32, u64, FileDigest), (Vec<u8>, Meta)>,
    /// Further members, with the first one of their group.
    later: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Names {
    /// Whether a file is a further name of one that was seen before.
    fn is_later(&mut self, path: &[u8], entry: &Entry, file: &FileNode) -> bool {
        let Some(link) = file.link else {
            return false;
        };
        let key = (link, file.size, file.digest);
        match self.first.get(&key) {
            Some((first, meta)) if *meta == entry.meta => {
                self.later.push((path.to_vec(), first.clone()));
                true
            }
            Some(_) => false,
            None => {
                self.first.insert(key, (path.to_vec(), entry.meta.clone()));
                false
            }
        }
    }
}

/// A directory form that is being written while its archive is read
/// ([`read_layer`](crate::layer::read_layer) writes the files, [`finish`](Self::finish) the rest).
pub struct Unpack {
    pub(super) beneath: Beneath,
    owners: Ownership,
    layout: Layout,
    /// The directory of the last file: archives come directory by directory.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Unpack {
    /// Writes into the empty directory `into`.
    pub fn new(into: &Path, owners: Ownership) -> Result<Self, LayerError> {
        Self::open(into, owners, Layout::Overlay)
    }

    /// The same, without what only overlayfs understands: what a layer takes away its tree alone says. Also for a
    /// directory with the layers below it in it.
    pub fn plain(into: &Path, owners: Ownership) -> Result<Self, LayerError> {
        Self::open(into, owners, Layout::Plain)
    }

    fn open(into: &Path, owners: Ownership, layout: Layout) -> Result<Self, LayerError> {
        let beneath = Beneath::open(into)
            .map_err(|source| failed("open the layer's directory", b"", source))?;
        Ok(Self {
            beneath,
            owners,
            layout,
            last: None,
        })
    }

    /// The directory that is written into.
    pub(crate) fn directory(&self) -> Result<OwnedFd, LayerError> {
        let root = self.beneath.dir(b"");
        root.map_err(|source| failed("open the layer's directory", b"", source))
    }

    /// Makes everything that is not a file and gives directories their metadata. `layer` is the tree that was read,
    /// best [settled](Trees::settle).
    pub fn finish(self, trees: &Trees, layer: &TreeId) -> Result<(), LayerError> {
        trees.root(layer)?;
        let mut dirs: Vec<(Vec<u8>, Meta, bool)> = Vec::new();
        let mut result = Ok(());
        trees.walk(layer, &mut |path, entry| {
            result = match &entry.node {
                Node::File(_) => Ok(()),
                Node::Dir(dir) => {
                    dirs.push((path.to_vec(), entry.meta.clone(), dir.opaque));
                    self.make_dir(path).map(drop)
                }
                _ => self.special(path, entry),
            };
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        result?;
        // The deepest first: a directory's time changes with what is made in it, and a mode may shut us out.
        for (path, meta, opaque) in dirs.iter().rev() {
            self.describe_dir(path, meta, *opaque)?;
        }
        Ok(())
    }

    /// Makes an empty file.
    pub(crate) fn file(&mut self, path: &[u8]) -> Result<FileWriter, LayerError> {
        let (parent, _) = split(path);
        if !matches!(&self.last, Some((last, _)) if last == parent) {
            self.last = Some((parent.to_vec(), self.make_dir(parent)?));
        }
        let (_, dir) = self.last.as_ref().expect("set above");
        FileWriter::create(dir.as_fd(), path.to_vec())
    }

    /// Makes `path` another name of the file `to`.
    pub(crate) fn link(&mut self, path: &[u8], to: &[u8]) -> Result<(), LayerError> {
        self.make_dir(split(path).0)?;
        self.hard_link(path, to)
    }

    /// Removes what is at `path`.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.last = None;
        self.beneath
            .remove(path)
            .map_err(|source| failed("remove", path, source))
    }

    pub(super) fn make_dir(&self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        self.beneath
            .make_dir(path)
            .map_err(|source| failed("make the directory", path, source))
    }

    fn hard_link(&self, path: &[u8], to: &[u8]) -> Result<(), LayerError> {
        let ((parent, name), (to_parent, to_name)) = (split(path), split(to));
        let linked = self.beneath.dir(parent).and_then(|dir| {
            let to_dir = self.beneath.dir(to_parent)?;
            // Without AT_SYMLINK_FOLLOW.
            rustix::fs::linkat(to_dir, to_name, dir, name, AtFlags::empty())?;
            Ok(())
        });
        linked.map_err(|source| failed("link", path, source))
    }

    fn special(&self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let make = |dir: OwnedFd| -> Result<bool, Errno> {
            match &entry.node {
                Node::Symlink { target } => {
                    rustix::fs::symlinkat(target.as_slice(), &dir, name)?;
                }
                Node::Fifo => {
                    rustix::fs::mknodat(&dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                }
                Node::Whiteout if self.layout == Layout::Plain => return Ok(false),
                Node::Whiteout => {
                    let device = FileType::CharacterDevice;
                    rustix::fs::mknodat(&dir, name, device, Mode::empty(), 0)?;
                    return Ok(false);
                }
                Node::Char { major, minor } | Node::Block { major, minor }
                    if self.owners == Ownership::Recorded =>
                {
                    let device = Device {
                        block: matches!(entry.node, Node::Block { .. }),
                        major: *major,
                        minor: *minor,
                    };
                    return stand_in(&dir, name, &entry.meta, device).map(|()| false);
                }
                Node::Char { .. } | Node::Block { .. } | Node::File(_) | Node::Dir(_) => {
                    return Ok(false);
                }
            }
            if self.owners == Ownership::Recorded {
                record_special(&dir, name, &entry.meta)?;
            }
            if self.owners == Ownership::Keep {
                let (uid, gid) = ids(&entry.meta);
                rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if matches!(entry.node, Node::Fifo) {
                // Follows symbolic links, but this name was made a moment ago in a directory of ours.
                rustix::fs::chmodat(&dir, name, mode(&entry.meta), AtFlags::empty())?;
            }
            let times = times(&entry.meta);
            rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(true)
        };
        let dir = self
            .beneath
            .dir(parent)
            .map_err(|source| failed("open", parent, source))?;
        let owned = make(dir).map_err(|errno| failed("make", path, errno.into()))?;
        if owned {
            check_owner(path, &entry.meta, self.owners)?;
        }
        Ok(())
    }

    pub(super) fn describe_dir(
        &self,
        path: &[u8],
        meta: &Meta,
        opaque: bool,
    ) -> Result<(), LayerError> {
        let dir = self
            .beneath
            .dir(path)
            .and_then(|dir| readable(dir.as_fd()))
            .map_err(|source| failed("open", path, source))?;
        if opaque && self.layout == Layout::Overlay {
            rustix::fs::fsetxattr(&dir, OVERLAY_OPAQUE, b"y", XattrFlags::empty())
                .map_err(|errno| failed("mark as opaque", path, errno.into()))?;
        }
        describe(dir.as_fd(), path, meta, self)
    }
}

/// A file being written. Its metadata comes last, and so does its name's place in the tree.
pub(crate) struct FileWriter {
    file: File,
    path: Vec<u8>,
    /// The file ends in a hole, so its length must be set.
    hole: u64,
}

impl FileWriter {
    fn create(dir: BorrowedFd<'_>, path: Vec<u8>) -> Result<Self, LayerError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let name = split(&path).1;
        match rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Self {
                file: fd.into(),
                path,
                hole: 0,
            }),
            Err(errno) => Err(failed("make", &path, errno.into())),
        }
    }

    /// Leaves out `len` zeros.
    pub(crate) fn hole(&mut self, len: u64) {
        self.hole += len;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let hole = std::mem::take(&mut self.hole);
        let write = || -> io::Result<()> {
            if hole > 0 {
                let hole = i64::try_from(hole).map_err(|_| io::ErrorKind::FileTooLarge)?;
                self.file.seek(SeekFrom::Current(hole))?;
            }
            self.file.write_all(bytes)
        };
        let mut write = write;
        write().map_err(|source| failed("write", &self.path, source))
    }

    /// Its path in the layer.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    fn open(&self, open: &OpenFile<'_>, node: &FileNode) -> Result<File, LayerError> {
        open(&self.path, node).map_err(|source| LayerError::ReadFile {
            path: show(&self.path),
            source,
        })
    }

    /// Copies a file that the tree knows.
    fn copy(
        &mut self,
        mut from: &File,
        node: &FileNode,
        buffer: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        let room = usize::try_from(node.size + 1).unwrap_or(CHUNK).min(CHUNK);
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let mut hasher = blake3::Hasher::new();
        loop {
            let len = match from.read(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(LayerError::ReadFile {
                        path: show(&self.path),
                        source,
                    });
                }
            };
            hasher.update(&buffer[..len]);
            if len == 0 || hasher.count() > node.size {
                break;
            }
            self.write(&buffer[..len])?;
        }
        let digest = FileDigest::from_bytes(*hasher.finalize().as_bytes());
        if (hasher.count(), digest) != (node.size, node.digest) {
            return Err(LayerError::FileChanged {
                path: show(&self.path),
            });
        }
        Ok(())
    }

    /// Copies a file of this store, which is what the tree says as an overlay's lower is: by reference where the file
    /// system can, else without its bytes coming here.
    fn clone_from(&mut self, mut from: &File, node: &FileNode) -> Result<(), LayerError> {
        let failed_to = |source| failed("write", &self.path, source);
        let copied = match rustix::fs::ioctl_ficlone(&self.file, from) {
            Ok(()) => self.file.metadata().map_err(failed_to)?.len(),
            // Another file system, or one that cannot.
            Err(_) => io::copy(&mut from, &mut self.file).map_err(failed_to)?,
        };
        match copied == node.size {
            true => Ok(()),
            false => Err(LayerError::FileChanged {
                path: show(&self.path),
            }),
        }
    }

    pub(crate) fn finish(mut self, meta: &Meta, unpack: &Unpack) -> Result<(), LayerError> {
        if self.hole > 0 {
            let hole = std::mem::take(&mut self.hole);
            self.file
                .stream_position()
                .and_then(|end| self.file.set_len(end + hole))
                .map_err(|source| failed("write", &self.path, source))?;
        }
        describe(self.file.as_fd(), &self.path, meta, unpack)
    }
}

/// Gives an open file or directory its metadata. The order matters: a change of owner drops setuid bits and
/// capabilities, and a mode without write permission keeps its owner from setting xattrs.
fn describe(
    fd: BorrowedFd<'_>,
    path: &[u8],
    meta: &Meta,
    unpack: &Unpack,
) -> Result<(), LayerError> {
    let owners = unpack.owners;
    check_owner(path, meta, owners)?;
    if owners == Ownership::Keep {
        let (uid, gid) = ids(meta);
        rustix::fs::fchown(fd, uid, gid).map_err(|errno| match errno {
            // An id that the user namespace does not map.
            Errno::INVAL => foreign(path, meta),
            errno => failed("set the owner of", path, errno.into()),
        })?;
    }
    if owners == Ownership::Recorded {
        record(fd, &Owner::of(meta.uid, meta.gid))
            .map_err(|errno| failed("record the owner of", path, errno.into()))?;
    }
    for (name, value) in &meta.xattrs {
        let escaped;
        let name = match name.strip_prefix(OVERLAY) {
            Some(rest) if unpack.layout == Layout::Overlay => {
                escaped = [OVERLAY, b"overlay.", rest].concat();
                &escaped
            }
            // What an image has of that name would be taken for an owner of ours.
            _ if name == OWNER && owners == Ownership::Recorded => continue,
            _ if name.starts_with(b"user.") || name == CAPABILITY => name,
            _ => continue,
        };
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Err(Errno::PERM) if owners.is_logical() && name == CAPABILITY => {}
            set => {
                set.map_err(|errno| failed("set an extended attribute of", path, errno.into()))?
            }
        }
    }
    rustix::fs::fchmod(fd, mode(meta))
        .map_err(|errno| failed("set the mode of", path, errno.into()))?;
    rustix::fs::futimens(fd, &times(meta))
        .map_err(|errno| failed("set the times of", path, errno.into()))
}

fn record(fd: BorrowedFd<'_>, owner: &Owner) -> Result<(), Errno> {
    if owner.is_usual() {
        return Ok(());
    }
    rustix::fs::fsetxattr(fd, OWNER, owner.to_text().as_bytes(), XattrFlags::empty())
}

/// Records the owner of what has no attributes of the user's.
fn record_special(dir: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), Errno> {
    let owner = Owner::of(meta.uid, meta.gid);
    if owner.is_usual() {
        return Ok(());
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let value = owner.to_capability();
    match rustix::fs::lsetxattr(path, CAPABILITY, &value, XattrFlags::empty()) {
        // Without CAP_SETFCAP, or on a file system without these: processes see it as root's, and the tree knows better.
        Err(Errno::PERM | Errno::NOTSUP) => Ok(()),
        set => set,
    }
}

/// An empty file in the place of a device, which nobody may make in a user namespace.
fn stand_in(dir: &OwnedFd, name: &[u8], meta: &Meta, device: Device) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    let owner = Owner {
        device: Some(device),
        ..Owner::of(meta.uid, meta.gid)
    };
    record(file.as_fd(), &owner)?;
    rustix::fs::fchmod(&file, mode(meta))?;
    rustix::fs::futimens(&file, &times(meta))
}

fn check_owner(path: &[u8], meta: &Meta, owners: Ownership) -> Result<(), LayerError> {
    if owners == Ownership::Single && (meta.uid, meta.gid) != (0, 0) {
        return Err(foreign(path, meta));
    }
    Ok(())
}

fn foreign(path: &[u8], meta: &Meta) -> LayerError {
    LayerError::Owner {
        path: show(path),
        uid: meta.uid,
        gid: meta.gid,
    }
}

fn ids(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_raw_mode(meta.mode & 0o7777)
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec {
        tv_sec: meta.mtime.secs,
        tv_nsec: meta.mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(super) fn failed(action: &'static str, path: &[u8], source: io::Error) -> LayerError {
    LayerError::Directory {
        action,
        path: show(path),
        source,
    }
}
