//! Layers applied to one plain directory, for processes whose root cannot be stacked by mounts, and the way back.
//!
//! Its files are copies, by reference where the file system can share their blocks. Hard links to the store's files would
//! be quicker to make, and wrong: a process may write to a file in place, which no mode keeps root from, and a root that
//! is mounted read-only is none to run in. Names that are one file in a layer are copied each for itself: overlayfs parts
//! them too, when one of them is written to, so that the others stay as they are.
//!
//! What a process changed is found by looking at everything once more. What has the inode and the ctime it had is as it
//! was: nobody can set a ctime. It moves with the file system's clock, which ticks some hundred times a second; so what
//! had changed in the same tick in which the directory was [sealed](PlainDir::seal) counts as touched. What was touched
//! is read and compared with the tree by [`Trees::reduce`], as what overlayfs has copied up is.
//!
//! A directory is another one if it was born at another time, also under the inode number of one that is gone: then the
//! layer hides what was below the name before, as overlayfs marks it. Where the file system does not tell births, the layer
//! may say the same name by name.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CancelToken;
use rbuild_llb::TreeId;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::RenameFlags;
use rustix::fs::Stat;
use rustix::fs::StatxFlags;

use super::Ownership;
use super::ScanKind;
use super::beneath::Beneath;
use super::beneath::list;
use super::beneath::readable;
use super::beneath::split;
use super::scan::Files;
use super::scan::below;
use super::scan::check_depth;
use super::scan::special;
use super::unpack::Links;
use super::unpack::Unpack;
use super::unpack::cloned;
use super::unpack::failed;
use super::unpack::write_layer;
use crate::builder::TreeBuilder;
use crate::layer::LayerError;
use crate::store::LayerForm;
use crate::tree::DirNode;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// A directory that is, or will be, the root of a process.
#[derive(Debug)]
pub struct PlainDir {
    path: PathBuf,
    owners: Ownership,
    /// What was at each path when it was last looked at.
    stamps: HashMap<Vec<u8>, Stamp>,
    /// Paths that were written since.
    stale: Vec<Vec<u8>>,
    /// When it was sealed, by the file system's clock.
    sealed: Clock,
}

/// Seconds and nanoseconds.
type Clock = (i64, i64);

/// What tells a file from the one that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: Clock,
    /// Of directories, where it is told.
    born: Option<Clock>,
}

impl Stamp {
    fn of(stat: &Stat, born: Option<Clock>) -> Self {
        Self {
            inode: stat.st_ino,
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
            born,
        }
    }
}

impl PlainDir {
    /// A new root in the empty directory `path`.
    pub fn new(path: PathBuf, owners: Ownership) -> Self {
        Self {
            path,
            owners,
            stamps: HashMap::new(),
            stale: Vec::new(),
            sealed: Clock::default(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Applies a [settled](Trees::settle) layer to what is there. `form` has its files.
    ///
    /// # Errors
    /// If something cannot be read or written; then the directory is of no use any more.
    pub fn apply(
        &mut self,
        trees: &Trees,
        layer: &TreeId,
        form: &LayerForm,
        cancel: &CancelToken,
    ) -> Result<(), LayerError> {
        let is_new = self.stamps.is_empty() && self.stale.is_empty();
        let mut unpack = Unpack::plain(&self.path, self.owners)?;
        let mut made_room = Ok(());
        trees.walk(layer, &mut |path, entry| {
            self.stale.push(path.to_vec());
            if !is_new {
                made_room = make_room(&mut unpack, path, entry);
            }
            match made_room {
                Ok(()) => std::ops::ControlFlow::Continue(()),
                Err(_) => std::ops::ControlFlow::Break(()),
            }
        })?;
        made_room?;
        let reader = form
            .reader()
            .map_err(|source| failed("read the form of the layer for", b"", source))?;
        let open = |path: &[u8], _: &_| reader.open(path);
        write_layer(unpack, trees, layer, &cloned(&open), Links::Parted, cancel)
    }

    /// Remembers what is there, `root` the tree that the layers applied add up to. From now on a process may change it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn seal(&mut self, trees: &Trees, root: &TreeId) -> Result<(), LayerError> {
        let beneath = self.beneath()?;
        if self.stamps.is_empty() {
            self.stale.clear();
            stamp_all(&beneath, &mut self.stamps)?;
        } else {
            for path in std::mem::take(&mut self.stale) {
                match stamp_at(&beneath, &path) {
                    Ok(stamp) => self.stamps.insert(path, stamp),
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                        self.stamps.remove(&path)
                    }
                    Err(errno) => return Err(failed("read", &path, errno.into())),
                };
            }
        }
        // Giving `/` what the layers imply of it is also what asks the file system for its time: a ctime is set with the
        // metadata.
        let meta = trees.root(root)?.meta;
        Unpack::plain(&self.path, self.owners)?.describe_dir(b"", &meta, false)?;
        let stamp = stamp_at(&beneath, b"").map_err(|errno| failed("read", b"", errno.into()))?;
        self.sealed = stamp.changed;
        self.stamps.insert(Vec::new(), stamp);
        Ok(())
    }

    /// What was changed since it was sealed, as a layer on `before`, the tree that it was sealed with. Nobody may be
    /// writing to it any more. Directories on the way are described in it.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn changes(
        &mut self,
        trees: &Trees,
        before: &TreeId,
        cancel: &CancelToken,
    ) -> Result<TreeRef, LayerError> {
        let beneath = self.beneath()?;
        let (_, root) = trees.root_dir(before)?;
        let mut found = Comparison {
            trees,
            beneath: &beneath,
            kind: ScanKind::plain_of(self.owners),
            old: &self.stamps,
            sealed: self.sealed,
            stamps: HashMap::with_capacity(self.stamps.len()),
            builder: TreeBuilder::new(),
            files: Files::default(),
            dirs: vec![(Vec::new(), Some(root))],
        };
        found.describe(b"")?;
        while let Some((path, before)) = found.dirs.pop() {
            if cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            found.dir(&path, before.as_ref())?;
        }
        let Comparison {
            mut builder,
            files,
            stamps,
            ..
        } = found;
        let files = files.hash(&beneath, ScanKind::plain_of(self.owners), cancel)?;
        for (at, (file, hashed)) in files.iter().enumerate() {
            file.insert(at, hashed, &mut builder);
        }
        self.stamps = stamps;
        self.stale.clear();
        let layer = builder.finish(trees);
        Ok(trees.settle(before, &layer.tree)?)
    }

    /// Makes the empty directory `into` the plain form of `layer`, which is among what [`changes`](Self::changes) found:
    /// its files are moved there. Until the layer is [applied](Self::apply) they are missing here.
    ///
    /// # Errors
    /// If something cannot be moved.
    pub fn take_out(
        &mut self,
        trees: &Trees,
        layer: &TreeId,
        into: &Path,
    ) -> Result<(), LayerError> {
        let beneath = self.beneath()?;
        let unpack = Unpack::plain(into, self.owners)?;
        let mut files: Vec<Vec<u8>> = Vec::new();
        trees.walk(layer, &mut |path, entry| {
            if matches!(entry.node, Node::File(_)) {
                files.push(path.to_vec());
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let mut last: Option<(Vec<u8>, OwnedFd, OwnedFd)> = None;
        for path in files {
            let (parent, name) = split(&path);
            if !matches!(&last, Some((dir, ..)) if dir == parent) {
                let from = beneath
                    .dir(parent)
                    .map_err(|source| failed("open", parent, source))?;
                last = Some((parent.to_vec(), from, unpack.make_dir(parent)?));
            }
            let (_, from, to) = last.as_ref().expect("set above");
            rustix::fs::renameat_with(from, name, to, name, RenameFlags::empty())
                .map_err(|errno| failed("move", &path, errno.into()))?;
        }
        unpack.finish(trees, layer)
    }

    fn beneath(&self) -> Result<Beneath, LayerError> {
        Beneath::open(&self.path)
            .map_err(|source| failed("open the root of the process", b"", source))
    }
}

/// Removes what is in the way of an entry of a layer.
fn make_room(unpack: &mut Unpack, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
    match &entry.node {
        Node::Dir(dir) if dir.opaque => {
            let names = match unpack.beneath.dir(path) {
                Ok(dir) => list(dir.as_fd()).map_err(|source| failed("read", path, source))?,
                // Not there, or not a directory, which is replaced when this one is made.
                Err(_) => Vec::new(),
            };
            for name in names {
                unpack.remove(&below(path, &name))?;
            }
            unpack.make_dir(path).map(drop)
        }
        Node::Dir(_) => unpack.make_dir(path).map(drop),
        // Devices are in the tree only, and hide what is there all the same.
        _ => unpack.remove(path),
    }
}

fn stamp_at(beneath: &Beneath, path: &[u8]) -> rustix::io::Result<Stamp> {
    let os = |error: std::io::Error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    };
    if path.is_empty() {
        let root = beneath.dir(b"").map_err(os)?;
        return Ok(Stamp::of(
            &rustix::fs::fstat(&root)?,
            born(root.as_fd(), b""),
        ));
    }
    let (parent, name) = split(path);
    let dir = beneath.dir(parent).map_err(os)?;
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(stamp(dir.as_fd(), name, &stat))
}

/// Of a name whose status was asked for just now.
fn stamp(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Stamp {
    let born = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => born(dir, name),
        _ => None,
    };
    Stamp::of(stat, born)
}

/// When a directory was made; `None` where the file system, or a seccomp filter, does not tell.
fn born(dir: BorrowedFd<'_>, name: &[u8]) -> Option<Clock> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::BTIME).ok()?;
    let told = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    told.then(|| (found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec)))
}

fn stamp_all(beneath: &Beneath, stamps: &mut HashMap<Vec<u8>, Stamp>) -> Result<(), LayerError> {
    let mut dirs = vec![Vec::new()];
    while let Some(path) = dirs.pop() {
        check_depth(&path)?;
        let read = |source| failed("read", &path, source);
        let dir = beneath.dir(&path).map_err(read)?;
        for name in list(dir.as_fd()).map_err(read)? {
            let stat = rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| read(errno.into()))?;
            let path = below(&path, &name);
            stamps.insert(path.clone(), stamp(dir.as_fd(), &name, &stat));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                dirs.push(path);
            }
        }
    }
    Ok(())
}

/// A look at everything, beside what was there before.
struct Comparison<'a> {
    trees: &'a Trees,
    beneath: &'a Beneath,
    kind: ScanKind,
    old: &'a HashMap<Vec<u8>, Stamp>,
    sealed: Clock,
    stamps: HashMap<Vec<u8>, Stamp>,
    builder: TreeBuilder,
    files: Files,
    /// Directories still to be read, with what they were; `None` for new ones.
    dirs: Vec<(Vec<u8>, Option<DirNode>)>,
}

impl Comparison<'_> {
    fn dir(&mut self, path: &[u8], before: Option<&DirNode>) -> Result<(), LayerError> {
        check_depth(path)?;
        let read = |source| failed("read", path, source);
        let dir = self.beneath.dir(path).map_err(read)?;
        let mut missing: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        if let Some(before) = before {
            for entry in &self.trees.get(&before.tree)?.entries {
                missing.insert(entry.name.clone(), entry.clone());
            }
        }
        for name in list(dir.as_fd()).map_err(read)? {
            let lower = missing.remove(&name);
            self.entry(dir.as_fd(), path, &name, lower, before.is_none())?;
        }
        for (name, entry) in missing {
            // Devices never were there, unless something stands for them.
            let is_device = matches!(entry.node, Node::Char { .. } | Node::Block { .. });
            if self.kind.is_recorded() || !is_device {
                self.builder.whiteout(&below(path, &name));
            }
        }
        Ok(())
    }

    /// Looks at a name; `lower` is what the tree has there, `is_new` the directory that it is in.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        parent: &[u8],
        name: &[u8],
        lower: Option<Entry>,
        is_new: bool,
    ) -> Result<(), LayerError> {
        let path = below(parent, name);
        let failed = |errno: rustix::io::Errno| failed("read", &path, errno.into());
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let now = stamp(dir, name, &stat);
        self.stamps.insert(path.clone(), now);
        let old = self.old.get(&path).filter(|_| !is_new);
        let touched = old != Some(&now) || now.changed >= self.sealed;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if touched => self.files.add(&stat, self.kind, path),
            FileType::RegularFile => {}
            FileType::Directory => {
                let is_same = old.is_some_and(|old| (old.inode, old.born) == (now.inode, now.born));
                if touched {
                    self.describe(&path)?;
                }
                let before = match lower.map(|lower| lower.node) {
                    Some(Node::Dir(before)) if is_same => Some(before),
                    Some(Node::Dir(_)) => {
                        self.builder.opaque(&path);
                        None
                    }
                    _ => None,
                };
                self.dirs.push((path, before));
            }
            _ if touched => {
                let found = special(dir, name, &stat, self.kind)
                    .map_err(|source| super::unpack::failed("read", &path, source))?;
                if let Some((meta, node)) = found {
                    self.builder.insert(&path, meta, node);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts a directory into the layer as it is now.
    fn describe(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let dir = self
            .beneath
            .dir(path)
            .and_then(|dir| readable(dir.as_fd()))
            .map_err(|source| failed("read", path, source))?;
        super::scan::describe(&mut self.builder, dir.as_fd(), path, self.kind)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
