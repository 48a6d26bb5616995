//! Directory forms of layers, made when a process first needs them: of a blob, of files wherever they are, or as what
//! differs from the form of the layer that was made at the same place before.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::FileNode;
use rbuild_cache::LayerError;
use rbuild_cache::LayerForm;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::MAX_DELTAS;
use rbuild_cache::Scratch;
use rbuild_cache::Snapshot;
use rbuild_cache::TreeError;
use rbuild_cache::Unpack;
use rbuild_llb::CancelToken;
use rbuild_llb::TreeId;

use super::Engine;
use super::OpError;
use super::bytes::UNPOISONED;
use super::turn::once;
use crate::sandbox;

/// A difference that has more than this part of a layer's entries is not worth the directories it takes.
const WORTH: usize = 2;

/// A directory form that is being written.
pub(super) struct DirForm {
    scratch: Scratch,
    into: PathBuf,
    unpack: Unpack,
}

impl DirForm {
    /// What the blob is read into.
    pub(super) fn unpack(&mut self) -> &mut Unpack {
        &mut self.unpack
    }
}

impl Engine<'_> {
    /// The directories of a snapshot's layers, bottom first. overlayfs refuses one that stands twice (ELOOP), as those of
    /// steps that changed nothing do: the topmost hides all that the others have.
    pub(super) fn lowers(
        &self,
        snapshot: &Snapshot,
        cancel: &CancelToken,
    ) -> Result<Vec<PathBuf>, OpError> {
        let empty = self.empty().root.tree;
        let mut seen = BTreeSet::new();
        let mut stack: Vec<usize> = (0..snapshot.layers.len()).collect();
        stack.reverse();
        stack.retain(|&at| {
            let tree = snapshot.layers[at].layer.tree;
            tree != empty && seen.insert(tree)
        });
        stack.reverse();
        let mut forms = Vec::with_capacity(stack.len());
        for &at in &stack {
            let layer = &snapshot.layers[at];
            let mut form = self.layer_form(layer, &snapshot.layers[..at], cancel)?;
            if form.over().iter().any(|near| seen.contains(near)) {
                form = self.whole_form(layer, cancel)?;
            }
            seen.extend(form.over());
            forms.push(form);
        }
        let count = |forms: &[Arc<LayerForm>]| forms.iter().map(|form| form.dirs().len()).sum();
        while sandbox::MAX_LOWERS < count(&forms) {
            let most = (0..forms.len()).max_by_key(|&at| forms[at].over().len());
            match most.filter(|&at| !forms[at].over().is_empty()) {
                Some(at) => forms[at] = self.whole_form(&snapshot.layers[stack[at]], cancel)?,
                // Too many layers as it is, which the sandbox has a word for.
                None => break,
            }
        }
        Ok(forms.iter().flat_map(|form| form.dirs()).cloned().collect())
    }

    /// The directory form of a layer, if there is one.
    pub(super) fn form(&self, layer: &TreeId) -> Option<Arc<LayerForm>> {
        self.bytes.form(layer).or_else(|| {
            let form = self.store.layer_form(layer, &self.domain)?;
            Some(self.bytes.keep_form(*layer, form))
        })
    }

    /// The directory form of a layer that stands on the layers `below`, made if it is not there yet. Called inside the
    /// namespace.
    fn layer_form(
        &self,
        layer: &LayerRef,
        below: &[LayerRef],
        cancel: &CancelToken,
    ) -> Result<Arc<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        let there = || match self.form(&tree) {
            Some(form) if !form.is_plain() && self.leaves_bare(form.bare(), below)? => {
                Ok(Some(form))
            }
            _ => Ok(None),
        };
        let make = || self.make_form(layer, below, cancel);
        self.found_or_made(&tree, cancel, there, make)
    }

    /// A directory form of a layer to take files from, made if there is none yet. Called inside the namespace.
    pub(super) fn any_form(
        &self,
        layer: &LayerRef,
        cancel: &CancelToken,
    ) -> Result<Arc<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        let make = || {
            let form = self.make_layer_dir(layer, cancel)?;
            Ok(self.bytes.keep_form(tree, form))
        };
        self.found_or_made(&tree, cancel, || Ok(self.form(&tree)), make)
    }

    /// A directory form that `there` finds, or else one that `make` makes: in this build once at a time, and in one of
    /// all builds.
    fn found_or_made(
        &self,
        tree: &TreeId,
        cancel: &CancelToken,
        there: impl Fn() -> Result<Option<Arc<LayerForm>>, OpError>,
        make: impl FnOnce() -> Result<Arc<LayerForm>, OpError>,
    ) -> Result<Arc<LayerForm>, OpError> {
        self.lease.protect(LeaseRoot::LayerDir(*tree))?;
        let lock = self.bytes.making(*tree);
        let _only_one = lock.lock().expect(UNPOISONED);
        match there()? {
            Some(form) => Ok(form),
            None => once(self.store, cancel, &self.form_name(tree), there, make),
        }
    }

    /// What builds call the making of a directory form.
    fn form_name(&self, tree: &TreeId) -> String {
        format!("directory {tree} {}", self.domain)
    }

    fn make_form(
        &self,
        layer: &LayerRef,
        below: &[LayerRef],
        cancel: &CancelToken,
    ) -> Result<Arc<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        // One that hides too much of what is below.
        if self.form(&tree).is_some() {
            return self.make_whole(layer, cancel);
        }
        let place = self.bytes.place_of(&tree);
        let delta = match &place {
            Some(place) => self.make_delta(layer, below, place, cancel)?,
            None => None,
        };
        let form = match delta {
            Some(form) => self.bytes.keep_form(tree, form),
            None => self.make_whole(layer, cancel)?,
        };
        if let Some(place) = place {
            self.store.set_near(&place, &self.domain, &tree)?;
        }
        Ok(form)
    }

    /// The directory form of a layer that stands on no other layer's.
    fn whole_form(
        &self,
        layer: &LayerRef,
        cancel: &CancelToken,
    ) -> Result<Arc<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        let there = || {
            let dir = self.store.layer_dir(&tree, &self.domain);
            Ok(dir.map(|dir| self.bytes.keep_form(tree, LayerForm::whole(dir))))
        };
        let make = || self.make_whole(layer, cancel);
        self.found_or_made(&tree, cancel, there, make)
    }

    fn make_whole(
        &self,
        layer: &LayerRef,
        cancel: &CancelToken,
    ) -> Result<Arc<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        let form = match self.store.layer_dir(&tree, &self.domain) {
            Some(dir) => LayerForm::whole(dir),
            None => self.make_layer_dir(layer, cancel)?,
        };
        Ok(self.bytes.keep_form(tree, form))
    }

    /// Whether none of the layers `below` has anything at one of `paths`.
    fn leaves_bare(&self, paths: &[Vec<u8>], below: &[LayerRef]) -> Result<bool, TreeError> {
        for path in paths {
            for layer in below {
                if self.store.trees().has(&layer.layer.tree, path)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A directory form of what differs from the layer that got one at the same place last; `None` if there is none that
    /// will do.
    fn make_delta(
        &self,
        layer: &LayerRef,
        below: &[LayerRef],
        place: &str,
        cancel: &CancelToken,
    ) -> Result<Option<LayerForm>, OpError> {
        let tree = layer.layer.tree;
        let trees = self.store.trees();
        let Some(mut near) = self.store.near(place, &self.domain)? else {
            return Ok(None);
        };
        // Before it is looked for: what is found after this stays, and what that stands over.
        self.lease.protect(LeaseRoot::LayerDir(near))?;
        let Some(mut under) = self.store.layer_form(&near, &self.domain) else {
            return Ok(None);
        };
        // The highest pile is begun anew, at its lowest.
        if under.over().len() >= MAX_DELTAS {
            near = under.over()[0];
            let Some(whole) = self.store.layer_dir(&near, &self.domain) else {
                return Ok(None);
            };
            under = LayerForm::whole(whole);
        }
        // Of a tree that is gone, or damaged, nothing can be said.
        let Ok(delta) = trees.delta(&near, &tree) else {
            return Ok(None);
        };
        let fits =
            self.leaves_bare(under.bare(), below)? && self.leaves_bare(&delta.bare, below)?;
        if !fits || !self.has_entries(&tree, delta.entries.saturating_mul(WORTH))? {
            return Ok(None);
        }
        let scratch = self.store.scratch()?;
        let form = scratch.path().join("delta");
        let into = form.join("fs");
        std::fs::create_dir_all(&into).map_err(|source| OpError::io("create", &into, source))?;
        let open = |path: &[u8], node: &FileNode| self.open_elsewhere(layer, path, node);
        rbuild_cache::write_dir(
            trees,
            &delta.layer.tree,
            &into,
            &open,
            self.ownership,
            cancel,
        )
        .map_err(|error| self.while_reading(&tree, error))?;
        self.keep_tree(&tree)?;
        let domain = &self.domain;
        let made = self
            .store
            .adopt_layer_delta(&tree, domain, &near, &delta, &form)?;
        // Another build may have made one over something else.
        Ok(match made {
            Some(made) if self.leaves_bare(made.bare(), below)? => Some(made),
            _ => None,
        })
    }

    /// Whether a tree has at least `count` entries.
    fn has_entries(&self, tree: &TreeId, count: usize) -> Result<bool, TreeError> {
        let mut left = count;
        self.store.trees().walk(tree, &mut |_, _| {
            left = left.saturating_sub(1);
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        Ok(left == 0)
    }

    fn make_layer_dir(&self, layer: &LayerRef, cancel: &CancelToken) -> Result<LayerForm, OpError> {
        let tree = layer.layer.tree;
        if let Some(blob) = self.exact_blob(layer)? {
            let mut dir = self.begin_dir()?;
            let read = rbuild_cache::read_layer(self.store.trees(), blob, Some(dir.unpack()))?;
            if read.layer.content != layer.layer.content {
                return Err(OpError::NotTheLayer { layer: tree });
            }
            return self.finish_dir(tree, dir);
        }
        let (_scratch, into) = self.new_dir()?;
        // One over another layer's has all its bytes.
        let form = match self.form(&tree) {
            Some(form) => {
                let failed = |source| OpError::io("read", &form.dirs()[0], source);
                Some(form.reader().map_err(failed)?)
            }
            None => {
                self.take_out(layer)?;
                None
            }
        };
        let open = |path: &[u8], node: &FileNode| match &form {
            Some(form) => form.open(path),
            None => self.open_elsewhere(layer, path, node),
        };
        let write = match self.stacks() {
            true => rbuild_cache::write_dir,
            false => rbuild_cache::write_plain,
        };
        write(
            self.store.trees(),
            &tree,
            &into,
            &open,
            self.ownership,
            cancel,
        )
        .map_err(|error| self.while_reading(&tree, error))?;
        self.adopt_dir(tree, &into)
    }

    /// Gives a layer's finished directory its place.
    fn adopt_dir(&self, tree: TreeId, from: &Path) -> Result<LayerForm, OpError> {
        self.keep_tree(&tree)?;
        Ok(match self.stacks() {
            true => {
                let dir = self.store.adopt_layer_dir(&tree, &self.domain, from)?;
                LayerForm::whole(dir)
            }
            false => self.store.adopt_plain_dir(&tree, &self.domain, from)?,
        })
    }

    fn new_dir(&self) -> Result<(Scratch, PathBuf), OpError> {
        let scratch = self.store.scratch()?;
        let into = scratch.path().join("fs");
        std::fs::create_dir(&into).map_err(|source| OpError::io("create", &into, source))?;
        Ok((scratch, into))
    }

    /// Starts a directory form that is written while the layer's blob is read. Called inside the namespace.
    pub(super) fn begin_dir(&self) -> Result<DirForm, OpError> {
        let (scratch, into) = self.new_dir()?;
        let unpack = match self.stacks() {
            true => Unpack::new(&into, self.ownership)?,
            false => Unpack::plain(&into, self.ownership)?,
        };
        Ok(DirForm {
            scratch,
            into,
            unpack,
        })
    }

    fn finish_dir(&self, tree: TreeId, dir: DirForm) -> Result<LayerForm, OpError> {
        let DirForm {
            scratch: _scratch,
            into,
            unpack,
        } = dir;
        unpack.finish(self.store.trees(), &tree)?;
        self.adopt_dir(tree, &into)
    }

    /// Keeps what was written while a layer came in as its directory form, unless it has one. What is wrong with it is
    /// said when a step wants it.
    pub(super) fn keep_dir(&self, tree: TreeId, dir: DirForm) -> Result<(), OpError> {
        self.lease.protect(LeaseRoot::LayerDir(tree))?;
        let lock = self.bytes.making(tree);
        let _only_one = lock.lock().expect(UNPOISONED);
        if self.form(&tree).is_some() {
            return Ok(());
        }
        match self.finish_dir(tree, dir) {
            Ok(_)
            | Err(OpError::Layer(LayerError::Directory { .. } | LayerError::Owner { .. })) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
