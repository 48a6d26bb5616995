//! Roots of processes where overlayfs cannot be had: the *link* stacker. A root is a directory that all layers were copied
//! into ([`PlainDir`]).
//!
//! Copying a base takes as long as unpacking it, so the root of a step is kept for the next one that stands on its
//! result: of that only the files of the layer it made are still to be copied, since they were moved into the layer's
//! form. Steps that stand on the same result beside each other copy one each.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_cache::LayerRef;
use rbuild_cache::PlainDir;
use rbuild_cache::Scratch;
use rbuild_cache::Snapshot;
use rbuild_cache::Trees;
use rbuild_llb::CancelToken;
use rbuild_llb::TreeId;

use super::Engine;
use super::OpError;

/// So many roots are kept that no process is in: each takes the size of its layers on the disk.
const MAX_IDLE: usize = 4;

/// A root with the layers that are in it.
#[derive(Debug)]
pub(super) struct PlainRoot {
    scratch: Scratch,
    dir: PlainDir,
    /// Bottom first.
    layers: Vec<TreeId>,
    /// How many of them are whole; the rest is still to be applied.
    applied: usize,
}

impl PlainRoot {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the process changed, as a layer on what `root` adds up to.
    pub(super) fn changes(
        &mut self,
        trees: &Trees,
        root: &Snapshot,
        cancel: &CancelToken,
    ) -> Result<TreeId, OpError> {
        Ok(self.dir.changes(trees, &root.root.tree, cancel)?.tree)
    }
}

/// The roots of a build that no process is in, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Roots(Mutex<Vec<PlainRoot>>);

impl Roots {
    // A thread that panicked has taken something out or put something in, and nothing else.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PlainRoot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that the fewest of `layers` are missing from, and that has nothing else.
    fn take(&self, layers: &[TreeId]) -> Option<PlainRoot> {
        let mut idle = self.idle();
        let fits = |root: &PlainRoot| layers.starts_with(&root.layers);
        let (at, _) = idle
            .iter()
            .enumerate()
            .filter(|(_, root)| fits(root))
            .max_by_key(|(_, root)| root.layers.len())?;
        Some(idle.remove(at))
    }
}

impl Engine<'_> {
    /// Puts the roots into the trash that no process is in: what syncs the store after a build empties it.
    pub fn discard_roots(&self) {
        for root in self.roots.idle().drain(..) {
            root.scratch.discard();
        }
    }

    /// A root with the layers of a snapshot, for one process.
    pub(super) fn plain_root(
        &self,
        snapshot: &Snapshot,
        cancel: &CancelToken,
    ) -> Result<PlainRoot, OpError> {
        let layers: Vec<TreeId> = snapshot.layers.iter().map(|l| l.layer.tree).collect();
        let mut root = match self.roots.take(&layers) {
            Some(root) => root,
            None => self.new_plain_root()?,
        };
        for at in root.applied..layers.len() {
            self.apply(&mut root.dir, &snapshot.layers[at], cancel)?;
        }
        root.applied = layers.len();
        root.layers = layers;
        root.dir.seal(self.store.trees(), &snapshot.root.tree)?;
        Ok(root)
    }

    fn new_plain_root(&self) -> Result<PlainRoot, OpError> {
        let scratch = self.store.scratch()?;
        let path = scratch.path().join("root");
        std::fs::create_dir(&path).map_err(|source| OpError::io("create", &path, source))?;
        Ok(PlainRoot {
            scratch,
            dir: PlainDir::new(path, self.ownership),
            layers: Vec::new(),
            applied: 0,
        })
    }

    fn apply(
        &self,
        dir: &mut PlainDir,
        layer: &LayerRef,
        cancel: &CancelToken,
    ) -> Result<(), OpError> {
        let tree = layer.layer.tree;
        if tree == self.empty().root.tree {
            return Ok(());
        }
        let form = self.any_form(layer, cancel)?;
        Ok(dir.apply(self.store.trees(), &tree, &form, cancel)?)
    }

    /// Makes what a process changed in its root the form of `layer`, and keeps the root for the next process.
    pub(super) fn keep_plain_root(
        &self,
        mut root: PlainRoot,
        layer: &TreeId,
    ) -> Result<(), OpError> {
        let form = root.scratch.path().join("form");
        std::fs::create_dir(&form).map_err(|source| OpError::io("create", &form, source))?;
        root.dir.take_out(self.store.trees(), layer, &form)?;
        let adopted = self.store.adopt_plain_dir(layer, &self.domain, &form)?;
        if form.is_dir() {
            // There was an equal one.
            std::fs::remove_dir_all(&form)
                .map_err(|source| OpError::io("remove", &form, source))?;
        }
        self.bytes.keep_form(*layer, adopted);
        root.layers.push(*layer);
        if self.workspaces.expects_more() {
            let mut idle = self.roots.idle();
            let oldest = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
            idle.push(root);
            drop(idle);
            // Only now, as it takes a while.
            drop(oldest);
        } else {
            root.scratch.discard();
        }
        Ok(())
    }
}
