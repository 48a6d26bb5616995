//! File systems and layers as Merkle trees of directory objects.
//!
//! An object holds one directory's entries and is named by the BLAKE3 of its bytes ([`object`] has the encoding), so
//! that one changed file rewrites one path of directories and everything else is shared. A whole file system, or
//! a layer (the diff of two), is the object with a *single entry with the empty name*, which describes `/`.
//!
//! On disk ([`disk`]) an object has a name of its own, and shares a file with those that it was written with. It is never synced:
//! an object is verified by its hash when it is read, and one that fails is removed.
//!
//! Invariants: entries are sorted by their names' bytes; a *merged* tree holds no whiteouts, opaque or implied
//! directories; an object on disk is written after everything it points to.

pub mod changes;
mod disk;
mod object;
mod pack;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use disk::Codec;
use disk::Writer;
use rbuild_llb::ContentDigest;
use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;
use serde::Deserialize;
use serde::Serialize;

/// A modification time: seconds since 1970 and nanoseconds after that second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What every entry carries beside its name and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The permission bits with setuid, setgid and sticky: nothing outside `0o7777`.
    pub mode: u32,
    /// The owner, as the image numbers it.
    pub uid: u32,
    /// The group, as the image numbers it.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the bytes.
    pub digest: FileDigest,
    /// The hard-link group: files of one tree with the same number, size and digest are one inode. The number is
    /// taken from the first member's path, so that it does not move when unrelated entries come and go.
    pub link: Option<u32>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirNode {
    /// The object with its entries.
    pub tree: TreeId,
    /// The digest of their content.
    pub content: ContentDigest,
    /// In a layer: hides everything the layers below have in this directory.
    pub opaque: bool,
    /// In a layer: named only by the path of something below it. It is not in the tar, and on merging the lower
    /// directory's metadata stays.
    pub implied: bool,
}

impl DirNode {
    /// A directory with these entries that is neither opaque nor implied.
    pub fn of(tree: TreeRef) -> Self {
        Self {
            tree: tree.tree,
            content: tree.content,
            opaque: false,
            implied: false,
        }
    }

    /// The object with the entries and their content digest.
    pub fn entries(&self) -> TreeRef {
        TreeRef {
            tree: self.tree,
            content: self.content,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(FileNode),
    /// A directory.
    Dir(DirNode),
    /// A symbolic link.
    Symlink {
        /// The text of the link.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// In a layer: the name does not exist any more. Its metadata is [`Meta::default`].
    Whiteout,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name; empty only for `/` itself.
    pub name: Vec<u8>,
    /// Mode, owner, times, xattrs.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

impl Entry {
    /// The digest of everything that is content here, whatever the entry is called.
    pub fn content(&self) -> ContentDigest {
        object::entry_content(self)
    }
}

/// A directory object: its entries, sorted by the bytes of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Directory {
    /// The entry called `name`.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.name.as_slice().cmp(name))
            .ok()?;
        Some(&self.entries[at])
    }
}

/// A tree by its two digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TreeRef {
    /// Names the object.
    pub tree: TreeId,
    /// Equal for trees that differ only in times and hard links.
    pub content: ContentDigest,
}

/// Whether a path's last component is followed if it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Every link, also the last component.
    All,
    /// Links on the way only, unless the path ends in a slash.
    NotLast,
}

/// Something that exists in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it really is, without a leading slash; empty for `/`.
    pub path: Vec<u8>,
    /// The entry.
    pub entry: Entry,
}

/// Where a path leads, whether or not something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path with every symbolic link that exists followed, without a leading slash.
    pub path: Vec<u8>,
    /// What is there.
    pub entry: Option<Entry>,
}

/// What can go wrong with trees.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An object is neither in memory nor on disk.
    #[error("tree object {id} is not in the store")]
    Missing {
        /// The object.
        id: TreeId,
    },
    /// An object's file does not hold what its name says; it has been removed.
    #[error("tree object `{}` is damaged", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// An object that should describe a whole file system does not.
    #[error("tree object {id} is not the root of a file system")]
    NotRoot {
        /// The object.
        id: TreeId,
    },
    /// What came as the pack of a tree is none.
    #[error("the list of the files of {id} {problem}")]
    Pack {
        /// The tree.
        id: TreeId,
        /// What about it, as the rest of the sentence.
        problem: &'static str,
    },
    /// More symbolic links than the kernel would follow.
    #[error(
        "too many levels of symbolic links in `{}`",
        String::from_utf8_lossy(path)
    )]
    Loop {
        /// The path that was looked up.
        path: Vec<u8>,
    },
    /// The store's directory could not be read or written.
    #[error("cannot access tree object `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The most names a path in a tree may have. Merging and building go one call deeper for each directory, on threads with
/// 2 MiB of stack.
pub const MAX_DEPTH: usize = 512;

/// More than the kernel's MAXSYMLINKS (40), as much as Go's `EvalSymlinks` and BuildKit's `RootPath` allow.
const MAX_LINKS: u32 = 255;

struct Cached {
    dir: Arc<Directory>,
    stored: bool,
}

/// The tree objects of a store, those in use kept in memory. Shared by threads.
pub struct Trees {
    dir: PathBuf,
    memory: RwLock<HashMap<TreeId, Cached>>,
    codec: Codec,
}

impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trees")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Trees {
    /// The objects below `dir`, which is made when the first one is written.
    pub fn open(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            memory: RwLock::default(),
            codec: Codec::default(),
        }
    }

    /// An object, from memory or from disk.
    pub fn get(&self, id: &TreeId) -> Result<Arc<Directory>, TreeError> {
        if let Some(cached) = self.read().get(id) {
            return Ok(Arc::clone(&cached.dir));
        }
        let dir = self.on_disk(id).inspect_err(|error| {
            // Nobody can use it, and `persist` takes an existing file for a good one.
            if let TreeError::Corrupt { .. } = error {
                self.forget_damaged(id);
            }
        })?;
        let dir = Arc::new(dir);
        self.write().entry(*id).or_insert_with(|| Cached {
            dir: Arc::clone(&dir),
            stored: true,
        });
        Ok(dir)
    }

    /// Takes a directory into memory. Its entries must be sorted, and what they point to put before.
    pub fn put(&self, dir: Directory) -> TreeRef {
        debug_assert!(dir.entries.is_sorted_by(|a, b| a.name < b.name));
        let (_, tree) = object::encode(&dir);
        let content = object::content(&dir);
        self.write().entry(tree).or_insert_with(|| Cached {
            dir: Arc::new(dir),
            stored: false,
        });
        TreeRef { tree, content }
    }

    /// Takes a whole file system into memory: the object that describes its `/`.
    pub fn put_root(&self, meta: Meta, dir: DirNode) -> TreeRef {
        self.put(Directory {
            entries: vec![Entry {
                name: Vec::new(),
                meta,
                node: Node::Dir(dir),
            }],
        })
    }

    /// Writes every object that `root` reaches and that is not on disk.
    pub fn persist(&self, root: &TreeId) -> Result<(), TreeError> {
        self.persist_all(&[*root])
    }

    /// The same of several trees: what is written together takes less.
    pub fn persist_all(&self, roots: &[TreeId]) -> Result<(), TreeError> {
        let mut writer = Writer::new(self);
        // Children before parents: an object pushed a second time has had its children written.
        let mut stack: Vec<_> = roots.iter().rev().map(|root| (*root, false)).collect();
        while let Some((id, ready)) = stack.pop() {
            let dir = match self.read().get(&id) {
                Some(cached) if cached.stored || writer.has(&id) => continue,
                Some(cached) => Arc::clone(&cached.dir),
                None if self.path(&id).exists() => continue,
                None => return Err(TreeError::Missing { id }),
            };
            if ready {
                writer.add(id, &dir)?;
            } else {
                stack.push((id, true));
                stack.extend(child_trees(&dir).map(|child| (child, false)));
            }
        }
        let written = writer.finish()?;
        let mut memory = self.write();
        for id in written {
            if let Some(cached) = memory.get_mut(&id) {
                cached.stored = true;
            }
        }
        Ok(())
    }

    /// Adds the ids of all objects that `root` reaches to `seen`, skipping what is below those already there.
    pub fn objects(&self, root: &TreeId, seen: &mut BTreeSet<TreeId>) -> Result<(), TreeError> {
        let mut stack = vec![*root];
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                stack.extend(child_trees(&*self.get(&id)?));
            }
        }
        Ok(())
    }

    /// A file system with nothing in it: `/` is implied, 0755, owned by root.
    pub fn empty(&self) -> TreeRef {
        let dir = DirNode {
            implied: true,
            ..DirNode::of(self.put(Directory::default()))
        };
        self.put_root(implied_meta(), dir)
    }

    /// The entry of `/`.
    pub fn root(&self, id: &TreeId) -> Result<Entry, TreeError> {
        match &self.get(id)?.entries[..] {
            [entry] if entry.name.is_empty() && matches!(entry.node, Node::Dir(_)) => {
                Ok(entry.clone())
            }
            _ => Err(TreeError::NotRoot { id: *id }),
        }
    }

    /// The entry of `/` in its two parts.
    pub(crate) fn root_dir(&self, id: &TreeId) -> Result<(Meta, DirNode), TreeError> {
        match self.root(id)? {
            Entry {
                meta,
                node: Node::Dir(dir),
                ..
            } => Ok((meta, dir)),
            _ => Err(TreeError::NotRoot { id: *id }),
        }
    }

    /// A file system whose `/` is the given directory. (Of anything else [`root`](Self::root) will say that it is none.)
    pub fn subtree(&self, entry: &Entry) -> TreeRef {
        self.put(Directory {
            entries: vec![Entry {
                name: Vec::new(),
                ..entry.clone()
            }],
        })
    }

    /// What `path` names. Symbolic links are followed inside the file system as in a chroot.
    pub fn lookup(
        &self,
        root: &TreeId,
        path: &[u8],
        follow: Follow,
    ) -> Result<Option<Found>, TreeError> {
        let Resolved { path, entry } = self.resolve(root, path, follow)?;
        Ok(entry.map(|entry| Found { path, entry }))
    }

    /// Where `path` leads, also if nothing is there yet: what is missing stays as it was written, `..` taken out.
    pub fn resolve(
        &self,
        root: &TreeId,
        path: &[u8],
        follow: Follow,
    ) -> Result<Resolved, TreeError> {
        let mut stack: Vec<(Vec<u8>, Option<Entry>)> = vec![(Vec::new(), Some(self.root(root)?))];
        let mut todo: VecDeque<Vec<u8>> = components(path).collect();
        let slash = path.ends_with(b"/");
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let entry = match stack.last() {
                Some((
                    _,
                    Some(Entry {
                        node: Node::Dir(dir),
                        ..
                    }),
                )) => self.get(&dir.tree)?.get(&name).cloned(),
                _ => None,
            };
            match entry {
                Some(Entry {
                    node: Node::Symlink { target },
                    ..
                }) if follow == Follow::All || slash || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TreeError::Loop { path: path.into() });
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for (at, part) in components(&target).enumerate() {
                        todo.insert(at, part);
                    }
                }
                entry => stack.push((name, entry)),
            }
        }
        let names: Vec<&[u8]> = stack[1..].iter().map(|(name, _)| name.as_slice()).collect();
        Ok(Resolved {
            path: names.join(&b'/'),
            entry: stack.pop().and_then(|(_, entry)| entry),
        })
    }

    /// Calls `f` with every path (no leading slash, `/` is empty) and entry: a directory before what is in it, names in
    /// the order of their bytes. [`ControlFlow::Break`] ends the walk.
    pub fn walk(
        &self,
        root: &TreeId,
        f: &mut dyn FnMut(&[u8], &Entry) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let mut path = Vec::new();
        let mut stack = vec![(self.get(root)?, 0, 0)];
        while let Some((dir, next, len)) = stack.last_mut() {
            path.truncate(*len);
            let Some(entry) = dir.entries.get(*next) else {
                stack.pop();
                continue;
            };
            *next += 1;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            if f(&path, entry).is_break() {
                return Ok(());
            }
            if let Node::Dir(node) = &entry.node {
                let child = (self.get(&node.tree)?, 0, path.len());
                stack.push(child);
            }
        }
        Ok(())
    }

    // The map is whole at every point where a thread could panic.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TreeId, Cached>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<TreeId, Cached>> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a directory that nothing describes is made with: 0755, owned by root, 1970.
pub(crate) fn implied_meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

/// The parts of a path that name something or go up.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
}

/// Two sorted lists of entries, paired by name.
pub(crate) fn join<'a>(
    mut a: &'a [Entry],
    mut b: &'a [Entry],
) -> impl Iterator<Item = (Option<&'a Entry>, Option<&'a Entry>)> {
    std::iter::from_fn(move || {
        let order = match (a.first(), b.first()) {
            (Some(x), Some(y)) => x.name.cmp(&y.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let x = if order.is_le() {
            a.split_off_first()
        } else {
            None
        };
        let y = if order.is_ge() {
            b.split_off_first()
        } else {
            None
        };
        Some((x, y))
    })
}

pub(crate) fn child_trees(dir: &Directory) -> impl Iterator<Item = TreeId> + '_ {
    dir.entries.iter().filter_map(|entry| match &entry.node {
        Node::Dir(dir) => Some(dir.tree),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
