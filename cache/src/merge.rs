//! Layers on trees: applying one, computing one, and two normal forms of one.
//!
//! All of it is lazy: a directory that the layer does not name is not loaded. Names are literal: an entry `lib/x` in
//! a layer makes `lib` a directory even where the tree has a symbolic link of that name, which is also what an
//! overlay mount of the two shows.

mod delta;

pub use delta::Delta;
use rbuild_llb::TreeId;

use crate::tree::DirNode;
use crate::tree::Directory;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::Timestamp;
use crate::tree::TreeError;
use crate::tree::TreeRef;
use crate::tree::Trees;
use crate::tree::join;

impl Trees {
    /// The file system that `base` becomes when `layer` is applied to it (OCI image-spec, layer.md).
    pub fn merge(&self, base: &TreeId, layer: &TreeId) -> Result<TreeRef, TreeError> {
        let (base_meta, base) = self.root_dir(base)?;
        let (layer_meta, layer) = self.root_dir(layer)?;
        let meta = if layer.implied { base_meta } else { layer_meta };
        let entries = self.merge_dir(Some(&base), &layer)?;
        Ok(self.put_root(meta, DirNode::of(entries)))
    }

    /// The layer that turns `lower` into `upper`, both whole file systems. A directory is implied in it where only
    /// something below changed; so is `/` where at most its mtime did.
    pub fn diff(&self, lower: &TreeId, upper: &TreeId) -> Result<TreeRef, TreeError> {
        let (lower_meta, lower) = self.root_dir(lower)?;
        let (upper_meta, upper) = self.root_dir(upper)?;
        let entries = self.diff_dir(&lower, &upper)?;
        let dir = DirNode {
            implied: same_but_time(&lower_meta, &upper_meta),
            ..DirNode::of(entries)
        };
        Ok(self.put_root(upper_meta, dir))
    }

    /// The same layer with its implied directories described, with the metadata they have in `base`; only `/` stays
    /// implied. This is what a *directory* form has to be written from: in an overlay mount the topmost directory's
    /// metadata shows. It is also what BuildKit's layers hold, whose blobs name the directories above what changed.
    pub fn settle(&self, base: &TreeId, layer: &TreeId) -> Result<TreeRef, TreeError> {
        let (base_meta, base) = self.root_dir(base)?;
        let (layer_meta, layer) = self.root_dir(layer)?;
        let meta = if layer.implied { base_meta } else { layer_meta };
        let entries = self.settle_dir(&base, &layer)?;
        let dir = DirNode {
            tree: entries.tree,
            content: entries.content,
            ..layer
        };
        Ok(self.put_root(meta, dir))
    }

    /// The same layer without what does not change `base`: whiteouts of nothing, opaque marks on nothing (overlayfs
    /// sets one on every new directory), files and directories that were copied up and came out the same.
    pub fn reduce(&self, base: &TreeId, layer: &TreeId) -> Result<TreeRef, TreeError> {
        let (base_meta, base) = self.root_dir(base)?;
        let (layer_meta, layer) = self.root_dir(layer)?;
        let opaque = layer.opaque && !self.get(&base.tree)?.entries.is_empty();
        let entries = self.reduce_dir((!layer.opaque).then_some(&base), &layer)?;
        let implied = layer.implied || same_but_time(&base_meta, &layer_meta);
        let dir = DirNode {
            opaque,
            implied,
            ..DirNode::of(entries)
        };
        Ok(self.put_root(if implied { base_meta } else { layer_meta }, dir))
    }

    fn merge_dir(&self, base: Option<&DirNode>, layer: &DirNode) -> Result<TreeRef, TreeError> {
        let layer_dir = self.get(&layer.tree)?;
        let base_dir = match base {
            Some(base) if !layer.opaque => Some(self.get(&base.tree)?),
            _ => None,
        };
        if layer_dir.entries.is_empty()
            && let (Some(_), Some(base)) = (&base_dir, base)
        {
            return Ok(base.entries());
        }
        let lower = base_dir.as_ref().map_or(&[][..], |dir| &dir.entries);
        let mut entries = Vec::with_capacity(lower.len().max(layer_dir.entries.len()));
        for (lower, upper) in join(lower, &layer_dir.entries) {
            let Some(upper) = upper else {
                entries.extend(lower.cloned());
                continue;
            };
            match &upper.node {
                Node::Whiteout => {}
                Node::Dir(dir) => {
                    let below = lower.and_then(directory);
                    let node = Node::Dir(DirNode::of(self.merge_dir(below, dir)?));
                    let described = match lower {
                        Some(lower) if dir.implied && below.is_some() => lower,
                        _ => upper,
                    };
                    entries.push(Entry {
                        node,
                        name: upper.name.clone(),
                        meta: described.meta.clone(),
                    });
                }
                _ => entries.push(upper.clone()),
            }
        }
        Ok(self.put(Directory { entries }))
    }

    fn diff_dir(&self, lower: &DirNode, upper: &DirNode) -> Result<TreeRef, TreeError> {
        if lower.tree == upper.tree {
            return Ok(self.put(Directory::default()));
        }
        let (lower, upper) = (self.get(&lower.tree)?, self.get(&upper.tree)?);
        let mut entries = Vec::new();
        for (lower, upper) in join(&lower.entries, &upper.entries) {
            match (lower, upper) {
                (Some(lower), None) => entries.push(Entry {
                    name: lower.name.clone(),
                    meta: Meta::default(),
                    node: Node::Whiteout,
                }),
                (Some(lower), Some(upper)) if lower == upper => {}
                (Some(below), Some(upper)) => match (directory(below), directory(upper)) {
                    (Some(old), Some(new)) => entries.push(Entry {
                        name: upper.name.clone(),
                        meta: upper.meta.clone(),
                        node: Node::Dir(DirNode {
                            implied: below.meta == upper.meta,
                            ..DirNode::of(self.diff_dir(old, new)?)
                        }),
                    }),
                    _ => entries.push(upper.clone()),
                },
                (None, upper) => entries.extend(upper.cloned()),
            }
        }
        Ok(self.put(Directory { entries }))
    }

    fn settle_dir(&self, base: &DirNode, layer: &DirNode) -> Result<TreeRef, TreeError> {
        if layer.opaque {
            return Ok(layer.entries());
        }
        let (base, mut dir) = (self.get(&base.tree)?, (*self.get(&layer.tree)?).clone());
        for entry in &mut dir.entries {
            let (Node::Dir(upper), Some(lower)) = (&mut entry.node, base.get(&entry.name)) else {
                continue;
            };
            if let Some(below) = directory(lower) {
                let entries = self.settle_dir(below, upper)?;
                (upper.tree, upper.content) = (entries.tree, entries.content);
                if upper.implied {
                    entry.meta = lower.meta.clone();
                    upper.implied = false;
                }
            }
        }
        Ok(self.put(dir))
    }

    fn reduce_dir(&self, base: Option<&DirNode>, layer: &DirNode) -> Result<TreeRef, TreeError> {
        let base = base.map(|base| self.get(&base.tree)).transpose()?;
        let mut entries = Vec::new();
        for entry in &self.get(&layer.tree)?.entries {
            let lower = base.as_ref().and_then(|base| base.get(&entry.name));
            match &entry.node {
                Node::Whiteout if lower.is_none() => {}
                Node::Dir(dir) => {
                    let below = lower.and_then(directory);
                    let hides = match below {
                        Some(below) if dir.opaque => !self.get(&below.tree)?.entries.is_empty(),
                        _ => false,
                    };
                    let reduced = self.reduce_dir(below.filter(|_| !dir.opaque), dir)?;
                    let same = below.is_some() && lower.is_some_and(|low| low.meta == entry.meta);
                    let empty = self.get(&reduced.tree)?.entries.is_empty();
                    if empty && !hides && (same || dir.implied) {
                        continue;
                    }
                    entries.push(Entry {
                        name: entry.name.clone(),
                        meta: entry.meta.clone(),
                        node: Node::Dir(DirNode {
                            opaque: hides,
                            implied: dir.implied,
                            ..DirNode::of(reduced)
                        }),
                    });
                }
                _ if lower.is_some_and(|lower| copied_up(lower, entry)) => {}
                _ => entries.push(entry.clone()),
            }
        }
        Ok(self.put(Directory { entries }))
    }
}

fn directory(entry: &Entry) -> Option<&DirNode> {
    match &entry.node {
        Node::Dir(dir) => Some(dir),
        _ => None,
    }
}

/// Whether `upper` is `lower` as a copy-up leaves it. Copying up breaks hard links, so the lower group does not count;
/// a member of a new group stays, or the group would lose it.
fn copied_up(lower: &Entry, upper: &Entry) -> bool {
    if lower.meta != upper.meta {
        return false;
    }
    match (&lower.node, &upper.node) {
        (Node::File(lower), Node::File(upper)) => {
            let lower = FileNode {
                link: None,
                ..lower.clone()
            };
            lower == *upper
        }
        (lower, upper) => lower == upper,
    }
}

fn same_but_time(a: &Meta, b: &Meta) -> bool {
    let timeless = |meta: &Meta| Meta {
        mtime: Timestamp::default(),
        ..meta.clone()
    };
    timeless(a) == timeless(b)
}

#[cfg(test)]
mod tests;
