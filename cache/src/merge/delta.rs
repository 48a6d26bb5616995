//! The difference between two layers, as a layer that stands over the first one.
//!
//! A directory form of many files, of which few changed since a *near* layer got its own, need not be written again: a
//! small directory over the near layer's, in the list of an overlay's lowers, shows the same. What it costs is that a
//! whiteout hides more than it should: what the near layer has and the new one has not must be in no layer below, or
//! the whiteout would hide that as well. The paths for which this matters are [`Delta::bare`], and whoever stacks the
//! layers looks.
//!
//! Seen are *directory forms*: device nodes, which those leave out, are as good as nothing, and a hard-link group that
//! is not whole in one of the two directories is written anew, since links do not reach from one into the other.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;

use super::directory;
use super::join;
use crate::tree::DirNode;
use crate::tree::Directory;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::TreeError;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// What turns the directory form of one layer into that of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Its directory form stands over the near layer's.
    pub layer: TreeRef,
    /// Paths that must lead nowhere in all layers below.
    pub bare: Vec<Vec<u8>>,
    /// How many entries it has; what they describe is written or hidden.
    pub entries: usize,
}

impl Trees {
    /// What has to stand over the directory form of `near` to show `layer` instead. Both have to be
    /// [settled](Trees::settle): each directory gets the metadata it has in `layer`.
    ///
    /// # Errors
    /// If an object of either tree cannot be read.
    pub fn delta(&self, near: &TreeId, layer: &TreeId) -> Result<Delta, TreeError> {
        let (_, old) = self.root_dir(near)?;
        let (meta, new) = self.root_dir(layer)?;
        let mut comparing = Comparing::new(self, BTreeSet::new());
        let mut dir = comparing.dir(&old, &new, false)?;
        if !comparing.touched.is_empty() {
            // Once more, now with the groups known whose other names are written again as well.
            comparing = Comparing::new(self, comparing.touched);
            dir = comparing.dir(&old, &new, false)?;
        }
        let implied = new.implied;
        let layer = self.put_root(meta, DirNode { implied, ..dir });
        let mut entries = 0;
        self.walk(&layer.tree, &mut |_, _| {
            entries += 1;
            ControlFlow::Continue(())
        })?;
        Ok(Delta {
            layer,
            bare: comparing.bare,
            entries,
        })
    }

    /// Whether a layer has something at `path`, taken literally: a whiteout is nothing.
    ///
    /// # Errors
    /// If an object of its tree cannot be read.
    pub fn has(&self, layer: &TreeId, path: &[u8]) -> Result<bool, TreeError> {
        let (_, mut dir) = self.root_dir(layer)?;
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let mut name = names.next();
        while let Some(this) = name {
            name = names.next();
            match self.get(&dir.tree)?.get(this).map(|entry| &entry.node) {
                None | Some(Node::Whiteout) => return Ok(false),
                Some(Node::Dir(below)) => dir = below.clone(),
                Some(_) => return Ok(name.is_none()),
            }
        }
        Ok(true)
    }
}

/// A hard-link group of a layer.
type Group = (u32, u64, FileDigest);

fn group(file: &FileNode) -> Option<Group> {
    Some((file.link?, file.size, file.digest))
}

struct Comparing<'a> {
    trees: &'a Trees,
    /// Where the comparison is.
    path: Vec<u8>,
    bare: Vec<Vec<u8>>,
    /// Groups that are written whole, though their entries may be equal.
    whole: BTreeSet<Group>,
    /// Groups of which a name is written or hidden.
    touched: BTreeSet<Group>,
}

impl<'a> Comparing<'a> {
    fn new(trees: &'a Trees, whole: BTreeSet<Group>) -> Self {
        Self {
            trees,
            path: Vec::new(),
            bare: Vec::new(),
            whole,
            touched: BTreeSet::new(),
        }
    }

    /// What stands over `old` to show `new`. Where it is `covered`, nothing of the layers below shows anyway.
    fn dir(&mut self, old: &DirNode, new: &DirNode, covered: bool) -> Result<DirNode, TreeError> {
        if new.opaque && !old.opaque {
            self.touch_below(&old.tree)?;
            self.touch_below(&new.tree)?;
            return Ok(DirNode {
                implied: false,
                ..new.clone()
            });
        }
        if old.opaque && !new.opaque && !covered {
            self.bare.push(self.path.clone());
        }
        let covered = covered || old.opaque;
        let mut entries = Vec::new();
        if old.tree != new.tree || !self.whole.is_empty() {
            let (old, new) = (self.trees.get(&old.tree)?, self.trees.get(&new.tree)?);
            for (old, new) in join(&old.entries, &new.entries) {
                let old = old.filter(|entry| is_in_forms(entry));
                let new = new.filter(|entry| is_in_forms(entry));
                let Some(name) = old.or(new).map(|entry| &entry.name) else {
                    continue;
                };
                let len = self.path.len();
                if len > 0 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name);
                entries.extend(self.entry(old, new, covered)?);
                self.path.truncate(len);
            }
        }
        Ok(DirNode::of(self.trees.put(Directory { entries })))
    }

    /// What stands in a directory over `old` to show `new`.
    fn entry(
        &mut self,
        old: Option<&Entry>,
        new: Option<&Entry>,
        covered: bool,
    ) -> Result<Option<Entry>, TreeError> {
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old, new),
            (None, Some(new)) => {
                self.touch(new)?;
                return Ok(Some(new.clone()));
            }
            (Some(old), None) => {
                self.must_be_bare(covered);
                self.touch(old)?;
                let hidden = || Entry {
                    name: old.name.clone(),
                    meta: Meta::default(),
                    node: Node::Whiteout,
                };
                return Ok((old.node != Node::Whiteout).then(hidden));
            }
            (None, None) => return Ok(None),
        };
        if old == new && !self.is_written_whole(new) {
            return Ok(None);
        }
        match (directory(old), directory(new)) {
            (Some(below), Some(above)) => {
                let dir = self.dir(below, above, covered)?;
                let shows = old.meta == new.meta && !dir.opaque;
                if shows && self.trees.get(&dir.tree)?.entries.is_empty() {
                    return Ok(None);
                }
                return Ok(Some(Entry {
                    name: new.name.clone(),
                    meta: new.meta.clone(),
                    node: Node::Dir(dir),
                }));
            }
            // A directory over something else does not show what is below that.
            (None, Some(above)) if !above.opaque => self.must_be_bare(covered),
            _ => {}
        }
        self.touch(old)?;
        self.touch(new)?;
        Ok(Some(new.clone()))
    }

    fn must_be_bare(&mut self, covered: bool) {
        if !covered {
            self.bare.push(self.path.clone());
        }
    }

    /// Whether an entry that is the same in both has to be looked into, or written, all the same.
    fn is_written_whole(&self, entry: &Entry) -> bool {
        match &entry.node {
            Node::Dir(_) => !self.whole.is_empty(),
            Node::File(file) => group(file).is_some_and(|group| self.whole.contains(&group)),
            _ => false,
        }
    }

    /// Notes the groups of what is written or hidden.
    fn touch(&mut self, entry: &Entry) -> Result<(), TreeError> {
        match &entry.node {
            Node::File(file) => self.touched.extend(group(file)),
            Node::Dir(dir) => self.touch_below(&dir.tree)?,
            _ => {}
        }
        Ok(())
    }

    fn touch_below(&mut self, dir: &TreeId) -> Result<(), TreeError> {
        self.trees.walk(dir, &mut |_, entry| {
            if let Node::File(file) = &entry.node {
                self.touched.extend(group(file));
            }
            ControlFlow::Continue(())
        })
    }
}

/// Device nodes are in no directory form.
fn is_in_forms(entry: &Entry) -> bool {
    !matches!(entry.node, Node::Char { .. } | Node::Block { .. })
}

#[cfg(test)]
mod tests;
