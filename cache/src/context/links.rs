//! Which files of a context are one file under several names.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::tree::TreeError;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// A file by device and inode, and one of its names.
pub(super) type Linked = ((u64, u64), Vec<u8>);

/// The tree with its hard links. `linked` are names of files with more than one, which may lie outside the tree.
pub(super) fn restore(
    trees: &Trees,
    tree: TreeRef,
    linked: Vec<Linked>,
) -> Result<TreeRef, TreeError> {
    let mut files: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
    for (file, path) in linked {
        files.entry(file).or_default().push(path);
    }
    let mut groups: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let several = files.into_values().filter(|names| names.len() > 1);
    for (group, names) in (0..).zip(several) {
        groups.extend(names.into_iter().map(|name| (name, group)));
    }
    if groups.is_empty() {
        return Ok(tree);
    }
    let mut builder = TreeBuilder::new();
    trees.walk(&tree.tree, &mut |path, entry| {
        match NewNode::of(&entry.node) {
            _ if path.is_empty() => builder.set_root(entry.meta.clone()),
            Some(NewNode::File(mut file)) => {
                file.link = groups.get(path).copied();
                builder.insert(path, entry.meta.clone(), NewNode::File(file));
            }
            Some(node) => builder.insert(path, entry.meta.clone(), node),
            None => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(builder.finish(trees))
}
