//! The cache mounts that go into a cache: those that steps of the build had as they are now, others as they were there.

use std::collections::BTreeSet;

use rbuild_cache::CacheMountName;
use rbuild_cache::LayerError;
use rbuild_cache::Resting;
use rbuild_cache::RestingMount;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::op::MountKind;

use super::Export;
use super::Task;
use super::reach;
use super::remark_on;
use crate::clock;
use crate::ops::Engine;
use crate::remote::CacheWriter;
use crate::remote::ExportError;
use crate::remote::Imports;
use crate::remote::Mount;
use crate::remote::mounts;
use crate::request::CacheMounts;
use crate::request::MountIds;

/// Whether a blob is not to be believed to be there, or right.
type Doubted<'a> = dyn Fn(&OciDigest) -> bool + Sync + 'a;

impl Export<'_> {
    /// Brings the cache mounts there that steps of this build had. What others left there, or in the caches that the build
    /// began with, stays as it is; so does one that cannot be sent, which is told of and loses nothing else of the cache.
    ///
    /// # Errors
    /// If the build is interrupted.
    pub(super) fn mounts(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        imports: Option<&Imports<'_>>,
        writer: &dyn CacheWriter,
        step: &Task<'_>,
    ) -> Result<Vec<Mount>, ExportError> {
        let wanted = &self.to.mounts;
        if wanted.read_only {
            return Ok(writer.mounts());
        }
        if wanted.is_none() {
            return Ok(Vec::new());
        }
        let interrupted = || match engine.cancel().is_cancelled() {
            true => Err(ExportError::Mount(LayerError::Cancelled)),
            false => Ok(()),
        };
        let ids = self.mount_ids(definition);
        let place = &self.to.place;
        let told = |id: &str, why: &str| {
            let text = format!("the cache mount `{id}` was not sent to {place}: {why}");
            remark_on(step.events, &text);
        };
        for id in not_there(wanted, &ids) {
            told(id, "no step that an output needs has it");
        }
        let hashes: BTreeSet<String> = ids.iter().map(|id| mounts::hash_of(id)).collect();
        let doubted = imports.map(Imports::doubted).unwrap_or_default();
        let doubted = |blob: &OciDigest| doubted.contains(blob);
        let mut there = writer.mounts();
        there.retain(|mount| hashes.contains(&mount.id));
        let mut taken: Vec<Mount> = Vec::new();
        for name in engine.mounted() {
            if !ids.contains(name.id.as_str()) {
                continue;
            }
            if imports.is_some_and(|imports| imports.has_left(&name)) {
                told(&name.id, "what the cache has of it did not come");
                continue;
            }
            let began = clock::now();
            let earlier = there.iter().find(|mount| mount.is(&name));
            let sent = match engine.store().resting_mount(&name) {
                Ok(Resting::Free(resting)) => {
                    self.mount(engine, &name, &resting, earlier, &doubted, writer)
                }
                Ok(Resting::Absent) => continue,
                Ok(Resting::InUse) => Err("another build uses it".to_owned()),
                Err(error) => Err(chain(error)),
            };
            interrupted()?;
            match sent {
                Ok((mount, bytes)) => {
                    let did = format!("sending cache mount {}: {bytes} bytes", name.id);
                    step.did(&did, began);
                    taken.push(mount);
                }
                Err(why) => told(&name.id, &why),
            }
        }
        let is_taken = |taken: &[Mount], mount: &Mount| {
            let same = |other: &Mount| (&other.id, &other.begins) == (&mount.id, &mount.begins);
            taken.iter().any(same)
        };
        for mount in there {
            let is_there =
                |(blob, size, _)| !doubted(&blob) && writer.has(&blob, size).unwrap_or(false);
            if !is_taken(&taken, &mount) && mount.blobs().all(is_there) {
                taken.push(mount);
            }
        }
        let elsewhere = imports.map(Imports::mounts_there).unwrap_or_default();
        for (mount, open) in elsewhere {
            interrupted()?;
            let doubts = mount.blobs().any(|(blob, ..)| doubted(&blob));
            let other = !hashes.contains(&mount.id) || mount.bytes > wanted.most;
            // One that does not come, or cannot be left here, is as if it were not there.
            if !other
                && !doubts
                && !is_taken(&taken, mount)
                && mounts::carry(writer, mount, &*open).unwrap_or(false)
            {
                taken.push(mount.clone());
            }
        }
        taken.sort_by(|a, b| (&a.id, &a.begins).cmp(&(&b.id, &b.begins)));
        Ok(taken)
    }

    /// Brings a cache mount there; says what was sent of it, or why it was not.
    fn mount(
        &self,
        engine: &Engine<'_>,
        name: &CacheMountName,
        resting: &RestingMount,
        earlier: Option<&Mount>,
        doubted: &Doubted<'_>,
        writer: &dyn CacheWriter,
    ) -> Result<(Mount, u64), String> {
        let tree = engine.scan_mount(resting).map_err(chain)?;
        let bytes = mounts::bytes_of(engine.store(), &tree.tree).map_err(chain)?;
        let most = self.to.mounts.most;
        if bytes > most {
            let hint = "`mounts-max-size=` says how many may be";
            return Err(format!(
                "its files have {bytes} bytes, more than {most} ({hint})"
            ));
        }
        let local = mounts::Local {
            name,
            tree,
            dir: resting.path(),
            bytes,
        };
        let cancel = engine.cancel();
        let sent = mounts::export(engine.store(), writer, &local, earlier, doubted, cancel);
        sent.map_err(chain)
    }

    /// The ids of the cache mounts to write, of the steps that the outputs need.
    fn mount_ids<'d>(&self, definition: &'d PrunedDefinition) -> BTreeSet<&'d str> {
        let mut needed = BTreeSet::new();
        for &at in &self.outputs {
            let root = definition.outputs[at].root.map(|edge| edge.vertex);
            reach(definition, root, &mut needed);
        }
        let steps = definition.iter().filter(|(id, _)| needed.contains(id));
        let mounts = steps.filter_map(|(_, vertex)| match &vertex.op {
            Op::Exec(exec) => Some(&exec.mounts),
            _ => None,
        });
        let ids = mounts.flatten().filter_map(|mount| match &mount.kind {
            MountKind::Cache { id, .. } => Some(id.as_str()),
            _ => None,
        });
        ids.filter(|id| self.to.mounts.has(id)).collect()
    }
}

/// The ids that are asked for, and that no step has.
fn not_there<'a>(wanted: &'a CacheMounts, ids: &BTreeSet<&str>) -> Vec<&'a str> {
    let wanted = match &wanted.ids {
        MountIds::All => return Vec::new(),
        MountIds::Some(wanted) => wanted.iter().map(String::as_str),
    };
    wanted.filter(|id| !ids.contains(id)).collect()
}

/// An error with what brought it about.
fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
