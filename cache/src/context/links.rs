//! Hard links among a context's files.
//!
//! BuildKit hands them on (fsutil, `Stat.Linkname`), so a COPY of a directory keeps them. Most contexts have none, so
//! they are put into the finished tree, and nothing is done where there are none.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::tree::Follow;
use crate::tree::Node;
use crate::tree::TreeError;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// Paths of files that have more than one name.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<Inode, Vec<Path>>>);

/// Device and number.
type Inode = (u64, u64);
type Path = Vec<u8>;

impl Links {
    /// Takes note of a name of a file.
    pub(super) fn note(&self, dev: u64, ino: u64, path: Path) {
        let mut links = self.0.lock().expect("nothing panics while it is locked");
        links.entry((dev, ino)).or_default().push(path);
    }

    /// `tree` with the names of one file linked to each other.
    pub(super) fn put_into(self, tree: TreeRef, trees: &Trees) -> Result<TreeRef, TreeError> {
        let links = self
            .0
            .into_inner()
            .expect("nothing panics while it is locked");
        let groups = links.into_values().filter(|paths| paths.len() > 1);
        let mut linked = TreeBuilder::new();
        let mut any = false;
        for (number, paths) in (0..).zip(groups) {
            for path in paths {
                // One that was removed or replaced meanwhile is an ordinary file, or none.
                let found = trees.lookup(&tree.tree, &path, Follow::NotLast)?;
                if let Some(found) = found
                    && let Node::File(mut file) = found.entry.node
                {
                    file.link = Some(number);
                    linked.insert(&path, found.entry.meta, NewNode::File(file));
                    any = true;
                }
            }
        }
        if !any {
            return Ok(tree);
        }
        let linked = linked.finish(trees);
        trees.merge(&tree.tree, &linked.tree)
    }
}
