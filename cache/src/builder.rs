//! Making trees path by path.

use std::collections::BTreeMap;

use rbuild_llb::FileDigest;

use crate::tree::DirNode;
use crate::tree::Directory;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::TreeRef;
use crate::tree::Trees;
use crate::tree::components;
use crate::tree::implied_meta;

/// What [`TreeBuilder::insert`] makes: a [`Node`] whose entries, if it is a directory, come by inserts of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewNode {
    /// A regular file. Files inserted with the same `link`, size and digest become one hard-link group, whatever the
    /// number; a group of one is none.
    File(FileNode),
    /// A directory; over another directory it takes only the metadata's place.
    Dir,
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
}

impl NewNode {
    /// The node of an entry found elsewhere; `None` for a whiteout. A directory comes without its entries.
    pub fn of(node: &Node) -> Option<Self> {
        Some(match node.clone() {
            Node::File(file) => Self::File(file),
            Node::Dir(_) => Self::Dir,
            Node::Symlink { target } => Self::Symlink { target },
            Node::Char { major, minor } => Self::Char { major, minor },
            Node::Block { major, minor } => Self::Block { major, minor },
            Node::Fifo => Self::Fifo,
            Node::Whiteout => return None,
        })
    }

    fn into_leaf(self) -> Option<Node> {
        Some(match self {
            Self::File(file) => Node::File(file),
            Self::Dir => return None,
            Self::Symlink { target } => Node::Symlink { target },
            Self::Char { major, minor } => Node::Char { major, minor },
            Self::Block { major, minor } => Node::Block { major, minor },
            Self::Fifo => Node::Fifo,
        })
    }
}

/// Collects entries in any order; the last one inserted at a path wins.
///
/// Paths are taken literally, without following symbolic links: empty components and `.` are skipped, `..` goes up
/// as far as `/`. What is inserted below something that is not a directory turns that into an implied directory.
#[derive(Debug)]
pub struct TreeBuilder {
    root: Item,
    /// The last number [`TreeBuilder::link`] gave to a group: downwards, away from those that callers choose.
    group: u32,
}

#[derive(Debug)]
struct Item {
    meta: Meta,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Never [`Node::Dir`].
    Leaf(Node),
    Dir(Dir),
}

#[derive(Debug, Default)]
struct Dir {
    opaque: bool,
    implied: bool,
    children: BTreeMap<Vec<u8>, Item>,
}

impl Item {
    fn implied() -> Self {
        Self {
            meta: implied_meta(),
            kind: Kind::Dir(Dir {
                implied: true,
                ..Dir::default()
            }),
        }
    }

    /// This item's directory. One that takes the place of a whiteout hides what that hid, and is a new one: the lower
    /// directory's metadata does not become its own.
    fn as_dir(&mut self) -> (&mut Meta, &mut Dir) {
        if matches!(self.kind, Kind::Leaf(_)) {
            let replaced = matches!(self.kind, Kind::Leaf(Node::Whiteout));
            *self = Self {
                meta: implied_meta(),
                kind: Kind::Dir(Dir {
                    opaque: replaced,
                    implied: !replaced,
                    ..Dir::default()
                }),
            };
        }
        match &mut self.kind {
            Kind::Dir(dir) => (&mut self.meta, dir),
            Kind::Leaf(_) => unreachable!("leaves were replaced above"),
        }
    }
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// A builder with an implied `/`.
    pub fn new() -> Self {
        Self {
            root: Item::implied(),
            group: u32::MAX,
        }
    }

    /// Puts an entry at `path`, making its parents as implied directories. `/` can be nothing but a directory.
    pub fn insert(&mut self, path: &[u8], meta: Meta, node: NewNode) {
        let root = normal(path).is_empty();
        let item = self.slot(path);
        match node.into_leaf() {
            Some(_) if root => {}
            Some(leaf) => {
                *item = Item {
                    meta,
                    kind: Kind::Leaf(leaf),
                };
            }
            None => {
                let (old, dir) = item.as_dir();
                *old = meta;
                dir.implied = false;
            }
        }
    }

    /// Describes `/`.
    pub fn set_root(&mut self, meta: Meta) {
        let (old, dir) = self.root.as_dir();
        *old = meta;
        dir.implied = false;
    }

    /// Makes `path` another name of what is at `to`: for a file a hard link, for a symbolic link, device or fifo a copy.
    /// `false` if nothing that can be linked is there.
    #[must_use]
    pub fn link(&mut self, path: &[u8], to: &[u8]) -> bool {
        let Some((meta, mut node)) = self.get(to) else {
            return false;
        };
        let meta = meta.clone();
        match &mut node {
            NewNode::Dir => return false,
            NewNode::File(file) if file.link.is_none() => {
                file.link = Some(self.group);
                self.group -= 1;
                self.insert(to, meta.clone(), node.clone());
            }
            _ => {}
        }
        self.insert(path, meta, node);
        true
    }

    /// Says that the layers below lose what they have at `path`. What this layer has there stays
    /// (OCI image-spec, layer.md, Whiteouts: a whiteout applies to lower layers only).
    pub fn whiteout(&mut self, path: &[u8]) {
        let exists = self.item(path).is_some();
        let item = self.slot(path);
        match &mut item.kind {
            Kind::Dir(dir) if exists => dir.opaque = true,
            Kind::Leaf(_) if exists => {}
            _ => {
                *item = Item {
                    meta: Meta::default(),
                    kind: Kind::Leaf(Node::Whiteout),
                };
            }
        }
    }

    /// Says that the layers below lose what they have in the directory `path`.
    pub fn opaque(&mut self, path: &[u8]) {
        self.slot(path).as_dir().1.opaque = true;
    }

    /// Takes back what was inserted at and below `path`.
    pub fn remove(&mut self, path: &[u8]) {
        let mut names = normal(path);
        let Some(last) = names.pop() else {
            *self = Self::new();
            return;
        };
        let mut item = &mut self.root;
        for name in names {
            let Kind::Dir(dir) = &mut item.kind else {
                return;
            };
            match dir.children.get_mut(&name) {
                Some(child) => item = child,
                None => return,
            }
        }
        if let Kind::Dir(dir) = &mut item.kind {
            dir.children.remove(&last);
        }
    }

    /// What is at `path` (`None` also for a whiteout). A directory may be implied.
    pub fn get(&self, path: &[u8]) -> Option<(&Meta, NewNode)> {
        let item = self.item(path)?;
        let node = match &item.kind {
            Kind::Dir(_) => NewNode::Dir,
            Kind::Leaf(node) => NewNode::of(node)?,
        };
        Some((&item.meta, node))
    }

    /// Puts the tree's objects into `trees`.
    pub fn finish(mut self, trees: &Trees) -> TreeRef {
        let mut groups = Groups::default();
        groups.count(&mut Vec::new(), &self.root);
        groups.number(&mut self.root);
        let entry = finish_item(trees, Vec::new(), self.root);
        trees.put(Directory {
            entries: vec![entry],
        })
    }

    fn item(&self, path: &[u8]) -> Option<&Item> {
        normal(path)
            .iter()
            .try_fold(&self.root, |item, name| match &item.kind {
                Kind::Dir(dir) => dir.children.get(name),
                Kind::Leaf(_) => None,
            })
    }

    /// The item at `path`, made as an implied directory if there is none.
    fn slot(&mut self, path: &[u8]) -> &mut Item {
        normal(path).into_iter().fold(&mut self.root, |item, name| {
            item.as_dir()
                .1
                .children
                .entry(name)
                .or_insert_with(Item::implied)
        })
    }
}

fn finish_item(trees: &Trees, name: Vec<u8>, item: Item) -> Entry {
    let node = match item.kind {
        Kind::Leaf(node) => node,
        Kind::Dir(dir) => {
            let entries = dir
                .children
                .into_iter()
                .map(|(name, item)| finish_item(trees, name, item))
                .collect();
            Node::Dir(DirNode {
                opaque: dir.opaque,
                implied: dir.implied,
                ..DirNode::of(trees.put(Directory { entries }))
            })
        }
    };
    Entry {
        name,
        meta: item.meta,
        node,
    }
}

/// A path's components with `..` taken out.
fn normal(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for name in components(path) {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names
}

type GroupKey = (u32, u64, FileDigest);

/// Hard-link groups as inserted: how many members each has and the number it gets.
#[derive(Default)]
struct Groups {
    members: BTreeMap<GroupKey, (u32, u32)>,
}

impl Groups {
    fn count(&mut self, path: &mut Vec<u8>, item: &Item) {
        match &item.kind {
            Kind::Leaf(Node::File(FileNode {
                size,
                digest,
                link: Some(link),
            })) => {
                self.members
                    .entry((*link, *size, *digest))
                    .or_insert_with(|| (0, number(path)))
                    .0 += 1;
            }
            Kind::Leaf(_) => {}
            Kind::Dir(dir) => {
                for (name, child) in &dir.children {
                    let len = path.len();
                    path.push(b'/');
                    path.extend_from_slice(name);
                    self.count(path, child);
                    path.truncate(len);
                }
            }
        }
    }

    fn number(&self, item: &mut Item) {
        match &mut item.kind {
            Kind::Leaf(Node::File(FileNode { size, digest, link })) => {
                *link = link
                    .and_then(|link| self.members.get(&(link, *size, *digest)))
                    .filter(|(count, _)| *count > 1)
                    .map(|(_, number)| *number);
            }
            Kind::Leaf(_) => {}
            Kind::Dir(dir) => dir
                .children
                .values_mut()
                .for_each(|child| self.number(child)),
        }
    }
}

fn number(path: &[u8]) -> u32 {
    let hash = blake3::hash(path);
    u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::fixture::meta;
    use crate::fixture::node;
    use crate::tree::Follow;

    fn file(text: &str, link: Option<u32>) -> NewNode {
        NewNode::File(FileNode {
            link,
            ..node(text.as_bytes())
        })
    }

    fn group(trees: &Trees, tree: TreeRef, path: &str) -> Option<u32> {
        let found = trees.lookup(&tree.tree, path.as_bytes(), Follow::NotLast);
        match found.unwrap().unwrap().entry.node {
            Node::File(file) => file.link,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_order_of_inserts_does_not_matter() {
        let trees = Trees::open(std::path::Path::new("/nonexistent"));
        let inserts: [(&str, NewNode); 4] = [
            ("a/b/c", file("1", None)),
            ("a", NewNode::Dir),
            ("/a//./b/../x", file("2", None)),
            ("z", NewNode::Fifo),
        ];
        let build = |order: [usize; 4]| {
            let mut builder = TreeBuilder::new();
            for at in order {
                let (path, node) = inserts[at].clone();
                builder.insert(path.as_bytes(), meta(0o700), node);
            }
            builder.finish(&trees)
        };
        assert_eq!(build([0, 1, 2, 3]), build([3, 2, 1, 0]));
    }

    #[test]
    fn groups_are_numbered_by_their_first_path_and_need_two_members() {
        let trees = Trees::open(std::path::Path::new("/nonexistent"));
        let build = |number: u32, more: bool| {
            let mut builder = TreeBuilder::new();
            builder.insert(b"m/one", meta(0o644), file("linked", Some(number)));
            builder.insert(b"m/two", meta(0o644), file("linked", Some(number)));
            builder.insert(b"m/other", meta(0o644), file("another file", Some(number)));
            if more {
                builder.insert(b"a", meta(0o644), file("unrelated", None));
            }
            builder.finish(&trees)
        };
        let (tree, more) = (build(1, false), build(77, true));
        assert!(group(&trees, tree, "m/one").is_some());
        assert_eq!(group(&trees, tree, "m/one"), group(&trees, tree, "m/two"));
        assert_eq!(group(&trees, tree, "m/other"), None);
        // An unrelated entry leaves the directory's object alone.
        let dir = |tree: TreeRef| trees.lookup(&tree.tree, b"m", Follow::All).unwrap();
        assert_eq!(dir(tree), dir(more));
    }

    #[test]
    fn what_is_removed_was_never_there() {
        let trees = Trees::open(std::path::Path::new("/nonexistent"));
        let mut builder = TreeBuilder::new();
        builder.insert(b"a/b", meta(0o644), file("1", None));
        let expected = builder.finish(&trees);
        let mut builder = TreeBuilder::new();
        builder.insert(b"a/b", meta(0o644), file("1", None));
        builder.insert(b"a/c/d", meta(0o644), file("2", None));
        assert!(builder.get(b"a/c").is_some());
        builder.remove(b"a/c");
        builder.remove(b"a/b/nothing");
        builder.remove(b"x/y");
        assert!(builder.get(b"a/c/d").is_none());
        assert_eq!(builder.finish(&trees), expected);
        assert!(!TreeBuilder::new().link(b"a", b"missing"));
    }
}
