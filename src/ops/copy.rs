//! COPY and ADD on trees: which entries of the source are meant, and where they land.
//!
//! The rules are those of BuildKit's file op (fsutil's copy): the destination's symbolic links are followed, also
//! the last one; a source directory's *contents* are copied; the destination directory keeps its own metadata if it
//! was there, directories below it take the source's; missing parents are made with mode 0755. Subtrees that are
//! copied as they are share their directory objects with the source, so `COPY . .` of any size is a few merges.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rbuild_cache::DirNode;
use rbuild_cache::Directory;
use rbuild_cache::Entry;
use rbuild_cache::Follow;
use rbuild_cache::Meta;
use rbuild_cache::NewNode;
use rbuild_cache::Node;
use rbuild_cache::TreeBuilder;
use rbuild_cache::TreeError;
use rbuild_cache::TreeRef;
use rbuild_cache::Trees;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::ModeChange;
use rbuild_llb::pattern::PatternError;
use rbuild_llb::pattern::PatternSet;
use rbuild_llb::pattern::wildcard;

use super::mode;

/// How many symbolic links a path may lead over, as in BuildKit (and path_resolution(7) has 40).
const MAX_LINKS: usize = 255;

/// Why a copy cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source is not there.
    #[error("`{src}` is not there to copy")]
    NotFound {
        /// As written.
        src: String,
    },
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A directory would replace something that is none, or a file a directory.
    #[error("cannot copy {what} over `/{path}`, which is {there}")]
    Conflict {
        /// What was to be copied.
        what: &'static str,
        /// Path in the image.
        path: String,
        /// What is there.
        there: &'static str,
    },
    /// What is to be made is there already.
    #[error("`/{path}` is there already")]
    Exists {
        /// Path in the image.
        path: String,
    },
    /// The directory that something is to be made in is not there, and is not to be made.
    #[error("there is no directory `/{path}`")]
    NoDirectory {
        /// Path in the image.
        path: String,
    },
    /// A directory above the destination is something else.
    #[error("`/{path}` is not a directory")]
    NotADirectory {
        /// Path in the image.
        path: String,
    },
    /// Symbolic links that lead to each other.
    #[error("too many symbolic links in `/{path}`")]
    Loop {
        /// Path in the image.
        path: String,
    },
    /// `--chmod`.
    #[error(transparent)]
    Mode(#[from] mode::ModeError),
    /// A tree cannot be read.
    #[error("cannot read a file tree")]
    Tree(#[source] TreeError),
}

impl CopyError {
    /// Of a path that something is at.
    pub(super) fn exists(path: &[u8]) -> Self {
        Self::Exists { path: text(path) }
    }
}

impl From<TreeError> for CopyError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Loop { path } => Self::Loop { path: text(&path) },
            error => Self::Tree(error),
        }
    }
}

/// How copied entries are changed on their way.
#[derive(Debug, Clone, Default)]
pub struct Change<'a> {
    /// `--chown`, resolved.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<&'a ModeChange>,
    /// Times all entries get.
    pub timestamp: Option<i64>,
}

impl Change<'_> {
    fn is_none(&self) -> bool {
        self.owner.is_none() && self.mode.is_none() && self.timestamp.is_none()
    }

    fn meta(&self, meta: &Meta, node: &Node) -> Result<Meta, CopyError> {
        let mut meta = meta.clone();
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(change) = self.mode
            && !matches!(node, Node::Symlink { .. })
        {
            meta.mode = mode::apply(change, meta.mode, matches!(node, Node::Dir(_)))?;
        }
        if let Some(secs) = self.timestamp {
            meta.mtime = rbuild_cache::Timestamp { secs, nanos: 0 };
        }
        Ok(meta)
    }
}

/// One source of a copy.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path in the source tree with its links resolved.
    pub path: Vec<u8>,
    /// The name it gets if the destination is a directory.
    pub name: Vec<u8>,
    /// What is there.
    pub entry: Entry,
}

/// The entries of `tree` that `action` copies, in the order of their names.
///
/// # Errors
/// If there are none, and that is an error.
pub fn sources(
    trees: &Trees,
    tree: &TreeRef,
    action: &CopyAction,
) -> Result<Vec<Source>, CopyError> {
    let src = clean(&action.src);
    let is_wild = action.allow_wildcard && src.split(|&b| b == b'/').any(is_pattern);
    let mut paths = Vec::new();
    if is_wild {
        expand(trees, tree, &src, &mut paths)?;
    } else {
        paths.push(src);
    }
    let mut list = Vec::new();
    for path in paths {
        let follow = if action.follow_symlinks {
            Follow::All
        } else {
            Follow::NotLast
        };
        let Some(found) = trees.lookup(&tree.tree, &path, follow)? else {
            if is_wild {
                continue; // a dangling link that a pattern met
            }
            return Err(CopyError::NotFound {
                src: action.src.clone(),
            });
        };
        let mut entry = found.entry;
        if let Node::File(file) = &mut entry.node {
            // Links are kept within a source, not among sources.
            file.link = None;
        }
        list.push(Source {
            path: found.path,
            name: split(&path).1.to_vec(),
            entry,
        });
    }
    if list.is_empty() && !action.allow_empty_wildcard {
        return Err(CopyError::NotFound {
            src: action.src.clone(),
        });
    }
    Ok(list)
}

/// Whether a component has wildcards. One that only has backslashes is taken as it is.
fn is_pattern(part: &[u8]) -> bool {
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// All paths `pattern` matches, component by component (Go's `filepath.Match`, so `**` is `*`). What stands before the
/// first component with a wildcard is a path; from there on symbolic links are not followed.
fn expand(
    trees: &Trees,
    tree: &TreeRef,
    pattern: &[u8],
    into: &mut Vec<Vec<u8>>,
) -> Result<(), CopyError> {
    let parts: Vec<&[u8]> = pattern
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    let first = parts.iter().position(|part| is_pattern(part));
    let (plain, wild) = parts.split_at(first.unwrap_or(parts.len()));
    let start = trees.lookup(&tree.tree, &plain.join(&b'/'), Follow::All)?;
    let mut open: Vec<(Vec<u8>, Entry, usize)> = Vec::new();
    open.extend(start.map(|found| (found.path, found.entry, 0)));
    while let Some((path, entry, at)) = open.pop() {
        let Some(part) = wild.get(at) else {
            into.push(path);
            continue;
        };
        let Node::Dir(dir) = &entry.node else {
            continue;
        };
        let text = String::from_utf8_lossy(part);
        for entry in &trees.get(&dir.tree)?.entries {
            let name = String::from_utf8_lossy(&entry.name);
            if wildcard(&text, &name)? {
                open.push((join(&path, &entry.name), entry.clone(), at + 1));
            }
        }
    }
    into.sort();
    Ok(())
}

/// A source's entry as it will arrive: filtered by `--exclude` and changed by `--chown` and `--chmod`. What needs
/// no change keeps its directory objects.
///
/// # Errors
/// If a pattern or mode is malformed, or a tree cannot be read.
pub fn arriving(
    trees: &Trees,
    source: &Source,
    action: &CopyAction,
    change: &Change<'_>,
) -> Result<Entry, CopyError> {
    let mut entry = source.entry.clone();
    entry.meta = change.meta(&entry.meta, &entry.node)?;
    if let Node::File(file) = &mut entry.node {
        // The other names of the file are not copied with it.
        file.link = None;
    }
    let Node::Dir(dir) = &entry.node else {
        return Ok(entry);
    };
    if change.is_none() && action.exclude.is_empty() && action.include.is_empty() {
        return Ok(entry);
    }
    let exclude = PatternSet::new(&action.exclude)?;
    let include = PatternSet::new(&action.include)?;
    let whole = trees.subtree(&entry);
    let mut builder = TreeBuilder::new();
    builder.set_root(entry.meta.clone());
    let mut failed = None;
    let mut taken = false;
    // Directories that are not wanted themselves, but stand above something that is, come with their metadata.
    let mut above: Vec<(Vec<u8>, Meta)> = Vec::new();
    trees.walk(&whole.tree, &mut |path, below| {
        if path.is_empty() {
            return ControlFlow::Continue(());
        }
        above.retain(|(dir, _)| path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'));
        let meta = match change.meta(&below.meta, &below.node) {
            Ok(meta) => meta,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        let text = String::from_utf8_lossy(path);
        let wanted =
            !exclude.matches(&text) && (action.include.is_empty() || include.matches(&text));
        match NewNode::of(&below.node) {
            Some(node) if wanted => {
                for (dir, meta) in above.drain(..) {
                    builder.insert(&dir, meta, NewNode::Dir);
                }
                builder.insert(path, meta, node);
                taken = true;
            }
            Some(NewNode::Dir) => above.push((path.to_vec(), meta)),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    // What `--parents` names has to be there. Patterns by themselves only choose.
    if !taken && action.parents && !action.allow_empty_wildcard {
        return Err(CopyError::NotFound {
            src: action.include.join(" "),
        });
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let filtered = builder.finish(trees);
    let Node::Dir(root) = trees.root(&filtered.tree)?.node else {
        return Ok(entry);
    };
    let (opaque, implied) = (dir.opaque, dir.implied);
    entry.node = Node::Dir(DirNode {
        opaque,
        implied,
        ..root
    });
    Ok(entry)
}

/// How directories are made that are missing above a destination.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Owner and group.
    pub owner: (u32, u32),
    /// Permission bits.
    pub mode: u32,
}

impl Made {
    /// By the owner of what will be in them, open to all.
    pub fn by(owner: (u32, u32)) -> Self {
        Self { owner, mode: 0o755 }
    }
}

/// The destination file system while a file op changes it.
pub struct Target<'a> {
    trees: &'a Trees,
    /// The merged tree.
    pub root: TreeRef,
    /// The time new directories get, Unix seconds.
    pub now: i64,
}

impl<'a> Target<'a> {
    /// Starts from a merged tree.
    pub fn new(trees: &'a Trees, root: TreeRef, now: i64) -> Self {
        Self { trees, root, now }
    }

    /// Copies one of the [`sources`] of `action`.
    ///
    /// # Errors
    /// If something is in the way.
    pub fn copy(
        &mut self,
        source: &Source,
        action: &CopyAction,
        change: &Change<'_>,
    ) -> Result<(), CopyError> {
        let made = Made {
            owner: change.owner.unwrap_or((0, 0)),
            // As BuildKit has it: directories that are made on the way take an octal `--chmod` as well.
            mode: match change.mode {
                Some(ModeChange::Octal(bits)) => bits & 0o777,
                Some(ModeChange::Symbolic(_)) | None => 0o755,
            },
        };
        let dest = self.resolve(&clean(&action.dest))?;
        if action.dest.ends_with('/') || action.dest.ends_with("/.") {
            self.make_dirs(&dest, made)?;
        }
        let entry = arriving(self.trees, source, action, change)?;
        self.place(&dest, &source.name, entry, action, made)
    }

    /// Puts one entry at `dest`, or below it as `name` if the rules say so.
    fn place(
        &mut self,
        dest: &[u8],
        name: &[u8],
        mut entry: Entry,
        action: &CopyAction,
        made: Made,
    ) -> Result<(), CopyError> {
        let there = self.trees.lookup(&self.root.tree, dest, Follow::NotLast)?;
        let into_dir = there.is_some_and(|found| matches!(found.entry.node, Node::Dir(_)));
        let is_dir = matches!(entry.node, Node::Dir(_));
        let contents = action.dir_copy_contents && is_dir;
        let path = if into_dir && !contents && !name.is_empty() {
            join(dest, name)
        } else {
            dest.to_vec()
        };
        if contents && !into_dir {
            // The directory that takes the contents is made like any missing parent.
            self.make_dirs(&path, made)?;
        } else {
            self.make_dirs(split(&path).0, made)?;
        }
        if contents && let Node::Dir(dir) = &mut entry.node {
            dir.implied = true;
        }
        self.check(&path, &entry, action.always_replace_existing_dest_paths)?;
        self.graft(&path, entry)
    }

    /// `path` with all its links resolved within the image, also the last one, and those that dangle: what they name
    /// is where the copy goes.
    ///
    /// # Errors
    /// If links lead round in a circle, or a tree cannot be read.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let components = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.rsplit(|&b| b == b'/');
            parts
                .filter(|part| !part.is_empty())
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut open = components(path);
        let mut resolved: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = open.pop() {
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    resolved = split(&resolved).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let next = join(&resolved, &part);
            let found = self.trees.lookup(&self.root.tree, &next, Follow::NotLast)?;
            let Some(Node::Symlink { target }) = found.map(|found| found.entry.node) else {
                resolved = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(CopyError::Loop { path: text(path) });
            }
            if target.starts_with(b"/") {
                resolved.clear();
            }
            open.extend(components(&target));
        }
        Ok(resolved)
    }

    /// Makes the directories of a [resolved](Self::resolve) path that are missing.
    ///
    /// # Errors
    /// If something on the way is not a directory.
    pub fn make_dirs(&mut self, path: &[u8], made: Made) -> Result<(), CopyError> {
        let mut above = Vec::new();
        for part in path.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
            above = join(&above, part);
            match self
                .trees
                .lookup(&self.root.tree, &above, Follow::NotLast)?
            {
                Some(found) => self.must_be_dir(&above, &found.entry)?,
                None => {
                    let mtime = rbuild_cache::Timestamp {
                        secs: self.now,
                        nanos: 0,
                    };
                    let meta = Meta {
                        mode: made.mode,
                        uid: made.owner.0,
                        gid: made.owner.1,
                        mtime,
                        xattrs: BTreeMap::new(),
                    };
                    let entry = Entry {
                        name: Vec::new(),
                        meta,
                        node: empty_dir(self.trees),
                    };
                    self.graft(&above, entry)?;
                }
            }
        }
        Ok(())
    }

    /// Refuses a [resolved](Self::resolve) path in a directory that is missing.
    ///
    /// # Errors
    /// [`CopyError::NoDirectory`], [`CopyError::NotADirectory`], or if a tree cannot be read.
    pub fn must_have_parent(&self, path: &[u8]) -> Result<(), CopyError> {
        let parent = split(path).0;
        match self
            .trees
            .lookup(&self.root.tree, parent, Follow::NotLast)?
        {
            Some(found) => self.must_be_dir(parent, &found.entry),
            None => Err(CopyError::NoDirectory { path: text(parent) }),
        }
    }

    /// Refuses what is there and no directory.
    ///
    /// # Errors
    /// [`CopyError::NotADirectory`].
    pub fn must_be_dir(&self, path: &[u8], there: &Entry) -> Result<(), CopyError> {
        match there.node {
            Node::Dir(_) => Ok(()),
            _ => Err(CopyError::NotADirectory { path: text(path) }),
        }
    }

    /// Refuses what the file system would refuse: a directory over a file, a file over a directory.
    fn check(&self, path: &[u8], entry: &Entry, replace: bool) -> Result<(), CopyError> {
        if replace {
            return Ok(());
        }
        let Some(found) = self.trees.lookup(&self.root.tree, path, Follow::NotLast)? else {
            return Ok(());
        };
        self.check_below(path, &found.entry.node, &entry.node)
    }

    fn check_below(&self, path: &[u8], there: &Node, node: &Node) -> Result<(), CopyError> {
        match (there, node) {
            (Node::Dir(there), Node::Dir(new)) => {
                if there.tree == new.tree {
                    return Ok(());
                }
                let (there, new) = (self.trees.get(&there.tree)?, self.trees.get(&new.tree)?);
                for entry in &new.entries {
                    if let Ok(at) = there.entries.binary_search_by(|e| e.name.cmp(&entry.name)) {
                        self.check_below(
                            &join(path, &entry.name),
                            &there.entries[at].node,
                            &entry.node,
                        )?;
                    }
                }
                Ok(())
            }
            (Node::Dir(_), _) => Err(CopyError::Conflict {
                what: "a file",
                path: text(path),
                there: "a directory",
            }),
            (_, Node::Dir(_)) => Err(CopyError::Conflict {
                what: "a directory",
                path: text(path),
                there: "not a directory",
            }),
            _ => Ok(()),
        }
    }

    /// Merges one entry in at a resolved path.
    ///
    /// # Errors
    /// If a tree cannot be read.
    pub fn graft(&mut self, path: &[u8], mut entry: Entry) -> Result<(), CopyError> {
        let parts: Vec<&[u8]> = path
            .split(|&b| b == b'/')
            .filter(|part| !part.is_empty())
            .collect();
        entry.name.clear();
        for part in parts.iter().rev() {
            entry.name = part.to_vec();
            let object = self.trees.put(Directory {
                entries: vec![entry],
            });
            let node = DirNode {
                tree: object.tree,
                content: object.content,
                opaque: false,
                implied: true,
            };
            entry = Entry {
                name: Vec::new(),
                meta: Meta::default(),
                node: Node::Dir(node),
            };
        }
        if parts.is_empty() && !matches!(entry.node, Node::Dir(_)) {
            return Err(CopyError::Conflict {
                what: "a file",
                path: String::new(),
                there: "a directory",
            });
        }
        let layer = self.trees.put(Directory {
            entries: vec![entry],
        });
        self.root = self.trees.merge(&self.root.tree, &layer.tree)?;
        Ok(())
    }

    /// Removes a resolved path.
    ///
    /// # Errors
    /// If a tree cannot be read.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), CopyError> {
        self.graft(
            path,
            Entry {
                name: Vec::new(),
                meta: Meta::default(),
                node: Node::Whiteout,
            },
        )
    }
}

/// An explicit directory without entries.
pub fn empty_dir(trees: &Trees) -> Node {
    let object = trees.put(Directory {
        entries: Vec::new(),
    });
    Node::Dir(DirNode {
        tree: object.tree,
        content: object.content,
        opaque: false,
        implied: false,
    })
}

/// Cleans a path as Go's `path.Clean("/" + path)` does, without the leading slash: `/a/./b/../c/` is `a/c`.
pub fn clean(path: &str) -> Vec<u8> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/").into_bytes()
}

/// `a/b`
pub fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_vec(),
        (_, true) => a.to_vec(),
        _ => [a, b"/", b].concat(),
    }
}

/// The directory and the last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
