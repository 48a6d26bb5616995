//! The cache mounts of a RUN: found or made, and had all at once, in the order in which everybody asks for them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry as Slot;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_cache::CacheMount;
use rbuild_cache::CacheMountName;
use rbuild_cache::FileNode;
use rbuild_cache::Follow;
use rbuild_cache::Found;
use rbuild_cache::NewNode;
use rbuild_cache::Node;
use rbuild_cache::RestingMount;
use rbuild_cache::ScanKind;
use rbuild_cache::Snapshot;
use rbuild_cache::TreeBuilder;
use rbuild_cache::TreeRef;
use rbuild_cache::empty_mount;
use rbuild_cache::scan_dir;
use rbuild_llb::CancelToken;
use rbuild_llb::event::Event;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;

use super::Engine;
use super::OpError;
use super::copy;
use super::turn::waiting;
use crate::clock;
use crate::sandbox::MountSource;
use crate::solver::StepControl;

/// What BuildKit gives a cache directory that is told nothing else: mode, user and group.
const DEFAULT: (u32, u32, u32) = (0o755, 0, 0);

/// What a file is called that is a cache by itself.
const FILE: &str = "file";

/// What a build knows of cache mounts.
#[derive(Default)]
pub(super) struct Mounts {
    /// Those that steps had.
    had: Mutex<BTreeSet<CacheMountName>>,
    /// Whose turn it is to bring one in.
    flights: Mutex<BTreeMap<CacheMountName, Arc<Mutex<()>>>>,
}

/// The cache mounts of a step, held as long as this lives.
pub(super) struct Caches {
    held: BTreeMap<CacheMountName, CacheMount>,
    /// By the mount's position.
    names: BTreeMap<usize, (CacheMountName, PathBuf)>,
}

impl Caches {
    /// What is mounted for the mount at `index`, if it is a cache.
    pub(super) fn source(&self, index: usize, mount: &Mount) -> Option<MountSource> {
        let (name, subpath) = self.names.get(&index)?;
        Some(MountSource::Bind {
            path: self.held.get(name)?.path().to_owned(),
            subpath: subpath.clone(),
            readonly: mount.readonly,
        })
    }
}

/// What a cache mount is when it is made.
enum Begin<'a> {
    Empty {
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A copy of what was found in a file system: a directory, or [`FILE`] alone.
    Copy {
        of: &'a Snapshot,
        found: Found,
    },
}

struct Wanted<'a> {
    sharing: CacheSharing,
    begin: Begin<'a>,
}

impl Engine<'_> {
    /// Finds or makes the caches of a step, and waits until it has all of them. A directory that it mounts twice is had once,
    /// as the first mount says.
    pub(super) fn caches(
        &self,
        op: &ExecOp,
        inputs: &[&Snapshot],
        step: &StepControl<'_>,
    ) -> Result<Caches, OpError> {
        let mut wanted: BTreeMap<CacheMountName, Wanted<'_>> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (index, mount) in op.mounts.iter().enumerate() {
            let MountKind::Cache {
                id,
                sharing,
                mode,
                uid,
                gid,
            } = &mount.kind
            else {
                continue;
            };
            let (begin, begins, subpath) = match mount.input {
                Some(input) => self.seed(inputs[input], mount, (*mode, *uid, *gid))?,
                None => empty(*mode, *uid, *gid),
            };
            let name = CacheMountName {
                id: id.clone(),
                domain: self.domain.clone(),
                begins,
            };
            if let Slot::Vacant(slot) = wanted.entry(name.clone()) {
                slot.insert(Wanted {
                    sharing: *sharing,
                    begin,
                });
            }
            names.insert(index, (name, subpath));
        }
        let mut held = BTreeMap::new();
        for (name, Wanted { sharing, begin }) in wanted {
            let make = |dir: &Path| match self.begin_elsewhere(&name, dir, step)? {
                true => Ok(()),
                false => self.make_cache(&begin, dir, step.cancel),
            };
            let what = format!("waiting for the cache mount `{}`, which is in use", name.id);
            let mut on_wait = |wait: &mut dyn FnMut()| waiting(step, &what, wait);
            let cancel = step.cancel;
            // Of several steps that begin with what a cache elsewhere has, one brings it in.
            let flight = self.flight_of(&name);
            let _flight = flight
                .as_ref()
                .map(|flight| flight.lock().unwrap_or_else(PoisonError::into_inner));
            let mount = self
                .store
                .cache_mount(&name, sharing, &make, cancel, &mut on_wait)?;
            held.insert(name, mount.ok_or(OpError::Cancelled)?);
        }
        let mut mounted = self
            .mounts
            .had
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mounted.extend(held.keys().cloned());
        drop(mounted);
        Ok(Caches { held, names })
    }

    /// What steps take turns by that have a mount which is not here, and is elsewhere.
    fn flight_of(&self, name: &CacheMountName) -> Option<Arc<Mutex<()>>> {
        self.remote?.has_mount(name)?;
        if self.store.has_cache_mount(name) {
            return None;
        }
        let mut flights = self
            .mounts
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(flights.entry(name.clone()).or_default()))
    }

    /// The cache mounts that steps of this build had.
    pub fn mounted(&self) -> BTreeSet<CacheMountName> {
        let mounted = self
            .mounts
            .had
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mounted.clone()
    }

    /// What is in a cache mount that nobody uses.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn scan_mount(&self, mount: &RestingMount) -> Result<TreeRef, OpError> {
        let kind = ScanKind::plain_of(self.ownership);
        let trees = self.store.trees();
        Ok(scan_dir(trees, mount.path(), kind, self.cancel)?)
    }

    /// Makes a mount what a cache elsewhere has of it; whether one has. One that is of no use is told of, and the mount begins as
    /// it would without.
    fn begin_elsewhere(
        &self,
        name: &CacheMountName,
        dir: &Path,
        step: &StepControl<'_>,
    ) -> Result<bool, OpError> {
        let Some((remote, size)) = self
            .remote
            .and_then(|remote| Some((remote, remote.has_mount(name)?)))
        else {
            return Ok(false);
        };
        let started = clock::now();
        let report = |current, completed: Option<Timestamp>| {
            (step.events)(Event::Status(StatusEvent {
                id: format!("bringing in the cache mount `{}`", name.id),
                vertex: step.digest.to_owned(),
                name: String::new(),
                total: size,
                current,
                timestamp: completed.unwrap_or(started),
                started: Some(started),
                completed,
            }));
        };
        report(0, None);
        let began = remote.begin_mount(name, dir, self.ownership, step.cancel);
        report(if began.is_ok() { size } else { 0 }, Some(clock::now()));
        if step.cancel.is_cancelled() {
            return Err(OpError::Cancelled);
        }
        Ok(began.is_ok())
    }

    /// What a cache with a `from` begins as. Each content has caches of its own: BuildKit puts the identity of the snapshot
    /// behind the id (solver/llbsolver/mounts, getRefCacheDir).
    fn seed<'s>(
        &self,
        of: &'s Snapshot,
        mount: &Mount,
        owner: (u32, u32, u32),
    ) -> Result<(Begin<'s>, String, PathBuf), OpError> {
        let selector = copy::clean(&mount.selector);
        if selector.is_empty() && owner != DEFAULT {
            // BuildKit then shows a new directory of `from`, which is empty (dockerfile2llb, setCacheUIDGID).
            let (begin, begins, subpath) = empty(owner.0, owner.1, owner.2);
            return Ok((begin, format!("{begins} {}", of.root.content), subpath));
        }
        let trees = self.store.trees();
        let found = trees.lookup(&of.root.tree, &selector, Follow::All)?;
        let found = found.ok_or_else(|| copy::CopyError::NotFound {
            src: mount.selector.clone(),
        })?;
        let begins = found.entry.content().to_string();
        let subpath = place_of(&found);
        Ok((Begin::Copy { of, found }, begins, subpath))
    }

    fn make_cache(
        &self,
        begin: &Begin<'_>,
        dir: &Path,
        cancel: &CancelToken,
    ) -> Result<(), OpError> {
        let (of, found) = match begin {
            Begin::Empty { mode, uid, gid } => {
                return Ok(empty_mount(dir, *mode, (*uid, *gid), self.ownership)?);
            }
            Begin::Copy { of, found } => (of, found),
        };
        self.copy_found(of, found, dir, cancel)
    }

    /// Copies what a path of a snapshot leads to into the new directory `dir`, and says where it is in it.
    pub(super) fn copy_out(
        &self,
        of: &Snapshot,
        selector: &str,
        dir: &Path,
        cancel: &CancelToken,
    ) -> Result<PathBuf, OpError> {
        let trees = self.store.trees();
        let found = trees.lookup(&of.root.tree, &copy::clean(selector), Follow::All)?;
        let found = found.ok_or_else(|| copy::CopyError::NotFound {
            src: selector.to_owned(),
        })?;
        self.copy_found(of, &found, dir, cancel)?;
        Ok(place_of(&found))
    }

    fn copy_found(
        &self,
        of: &Snapshot,
        found: &Found,
        dir: &Path,
        cancel: &CancelToken,
    ) -> Result<(), OpError> {
        std::fs::create_dir(dir).map_err(|source| OpError::io("create", dir, source))?;
        let Found { path, entry } = found;
        self.place_copied(of, path, entry)?;
        let trees = self.store.trees();
        let alone = !matches!(entry.node, Node::Dir(_));
        let tree = match NewNode::of(&entry.node).filter(|_| alone) {
            Some(file) => {
                let mut tree = TreeBuilder::new();
                tree.insert(FILE.as_bytes(), entry.meta.clone(), file);
                tree.finish(trees)
            }
            None => trees.subtree(entry),
        };
        let open = |below: &[u8], node: &FileNode| match alone {
            true => self.open_in(of, path, node),
            false => self.open_in(of, &copy::join(path, below), node),
        };
        rbuild_cache::write_plain(trees, &tree.tree, dir, &open, self.ownership, cancel)?;
        Ok(())
    }
}

/// Where what was found is in a directory that it was copied into.
pub(super) fn place_of(found: &Found) -> PathBuf {
    match found.entry.node {
        Node::Dir(_) => PathBuf::new(),
        _ => PathBuf::from(FILE),
    }
}

fn empty<'a>(mode: u32, uid: u32, gid: u32) -> (Begin<'a>, String, PathBuf) {
    let begins = match (mode, uid, gid) {
        DEFAULT => String::new(),
        _ => format!("{mode:04o} {uid}:{gid}"),
    };
    (Begin::Empty { mode, uid, gid }, begins, PathBuf::new())
}
