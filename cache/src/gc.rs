//! Garbage collection: what no image, no living build and no record worth keeping needs is removed.
//!
//! 1. *Mark.* Images, leases and records (newest first, as far as the policy goes) name trees, blobs and layers; those are live.
//! 2. *Sweep.* Everything else that was published before the first of the living builds began is a victim.
//! 3. *Check.* A few hundred victims at a time are renamed into `trash/`, under the lock of the leases and after another look at
//!    them: builds wait for that (milliseconds), never for the marking or the deleting.
//! 4. *Delete.* Outside the lock.
//!
//! A build that is killed, or a collector, leaves garbage that the next collector finds. Cache mounts are not touched.

mod live;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rustix::fs::FlockOperation;

use crate::file;
use crate::lease::Lease;
use crate::lease::LeaseRoot;
use crate::lease::Leases;
use crate::lease::Locked;
use crate::store::Store;
use crate::store::StoreError;
use crate::tree::Timestamp;
use live::Live;

/// What may stay although no image and no living build needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Cache records that were stored or used within this time stay, whatever they take.
    pub keep_newer_than: Duration,
    /// Older ones stay, the newest first, while all that is live takes no more than this many bytes on disk.
    pub max_bytes: u64,
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Bytes on disk that what was removed took.
    pub freed: u64,
    /// Files, blobs, tree objects and directory forms that were removed.
    pub removed: u64,
    /// Bytes on disk that what is live takes.
    pub live: u64,
    /// What could not be deleted, and why; it is in the trash. Directory forms with files of subordinate ids can only be
    /// deleted from inside the user namespace.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Victims that are renamed under one lock: about 30 µs each on ext4.
const BATCH: usize = 200;
/// A file that is still written aside after this long has no writer any more, in seconds.
const ABANDONED: i64 = 24 * 3600;

/// Something that is not live.
struct Victim {
    path: PathBuf,
    thing: Thing,
    bytes: u64,
}

/// What a file in the store is, for the second look.
#[derive(Clone, Copy)]
enum Thing {
    Tree(TreeId),
    Blob(OciDigest),
    Layer(TreeId),
    Form(TreeId),
    Record(CacheKey),
    Other,
}

impl Store {
    /// Collects garbage. Builds may run meanwhile.
    ///
    /// # Errors
    /// If the store cannot be read or renamed in. That something cannot be deleted is in the report instead.
    pub fn collect(&self, policy: &Policy) -> Result<Collected, StoreError> {
        // Its own lease makes what is published from now on stay, and tells the time.
        let lease = self.lease()?;
        let leases_dir = self.path().join("leases");
        let mut leases = Leases::read(&leases_dir, &lease)?;
        let mut live = Live::new(self);
        live.images()?;
        live.leased(&leases.roots)?;
        live.cached(policy, lease.began(), leases.began)?;
        let mut collected = Collected {
            live: live.bytes,
            ..Collected::default()
        };

        let mut victims = self.victims(&live, leases.began)?;
        let gate = File::open(&leases_dir).map_err(StoreError::io("open", &leases_dir))?;
        while !victims.is_empty() {
            let batch = victims.split_off(victims.len().saturating_sub(BATCH));
            let trash = self.trash_dir()?;
            let lock = |operation| {
                rustix::fs::flock(&gate, operation)
                    .map_err(|error| StoreError::io("lock", &leases_dir)(error.into()))
            };
            lock(FlockOperation::LockExclusive)?;
            let moved = self.condemn(batch, &trash, &mut live, &mut leases, &lease, &leases_dir);
            lock(FlockOperation::Unlock)?;
            moved?.iter().for_each(|victim| {
                collected.freed += victim.bytes;
                collected.removed += 1;
            });
            delete(&trash, &mut collected);
        }
        self.clean_up(leases.began, &mut collected)?;
        Ok(collected)
    }

    /// Renames victims that nobody has taken a fancy to since into `trash`. Called with the lock held.
    fn condemn(
        &self,
        batch: Vec<Victim>,
        trash: &Path,
        live: &mut Live<'_>,
        leases: &mut Leases,
        own: &Lease,
        leases_dir: &Path,
    ) -> Result<Vec<Victim>, StoreError> {
        let now = Leases::read(leases_dir, own)?;
        let new: BTreeSet<LeaseRoot> = now.roots.difference(&leases.roots).copied().collect();
        live.leased(&new)?;
        leases.roots.extend(new);
        let mut moved = Vec::new();
        for victim in batch {
            // Published again since it was looked at.
            let fresh = fs::symlink_metadata(&victim.path)
                .map_or(true, |found| changed(&found) >= leases.began);
            if fresh || live.has(victim.thing) {
                continue;
            }
            match fs::rename(&victim.path, trash.join(moved.len().to_string())) {
                Ok(()) => moved.push(victim),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &victim.path)(error)),
            }
        }
        Ok(moved)
    }

    fn trash_dir(&self) -> Result<PathBuf, StoreError> {
        let trash = self.path().join("trash");
        tempfile::tempdir_in(&trash)
            .map(tempfile::TempDir::keep)
            .map_err(StoreError::io("create a directory in", &trash))
    }

    /// Everything that is not live and was published before `began`. Records come last and so go first: what is still
    /// found by a key is complete.
    fn victims(&self, live: &Live<'_>, began: Timestamp) -> Result<Vec<Victim>, StoreError> {
        let mut victims = Vec::new();
        let mut sweep = |kind: &str, depth: usize, what: &dyn Fn(&str) -> Thing| {
            for path in file::below(&self.path().join(kind), depth)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let shard = path.parent().and_then(Path::file_name).unwrap_or_default();
                let thing = match kind {
                    "trees" => what(&format!("{}{name}", shard.to_string_lossy())),
                    _ => what(name.strip_suffix(".json").unwrap_or(&name)),
                };
                let Ok(found) = fs::symlink_metadata(&path) else {
                    continue;
                };
                if !live.has(thing) && !live.stays(&path) && changed(&found) < began {
                    let bytes = live::disk_usage(&path);
                    victims.push(Victim { path, thing, bytes });
                }
            }
            Ok::<(), StoreError>(())
        };
        let tree = |hex: &str| hex.parse().map_or(Thing::Other, Thing::Tree);
        let blob = |hex: &str| {
            format!("sha256:{hex}")
                .parse()
                .map_or(Thing::Other, Thing::Blob)
        };
        let layer = |hex: &str| hex.parse().map_or(Thing::Other, Thing::Layer);
        let record = |hex: &str| hex.parse().map_or(Thing::Other, Thing::Record);
        sweep("trees", 2, &tree)?;
        sweep("blobs/sha256", 2, &blob)?;
        let form = |hex: &str| hex.parse().map_or(Thing::Other, Thing::Form);
        sweep("layers", 2, &form)?;
        sweep("layer-blobs", 2, &layer)?;
        sweep("known", 2, &blob)?;
        sweep("frames", 2, &blob)?;
        sweep("pins", 2, &|_| Thing::Other)?;
        sweep("urls", 2, &|_| Thing::Other)?;
        sweep("stats", 1, &|_| Thing::Other)?;
        sweep("builds", 1, &|_| Thing::Other)?;
        sweep("slots", 2, &|_| Thing::Other)?;
        sweep("near", 2, &|_| Thing::Other)?;
        sweep("records", 2, &record)?;
        Ok(victims)
    }

    /// Removes what killed processes left: scratch directories, files that were written aside, trash.
    fn clean_up(&self, began: Timestamp, collected: &mut Collected) -> Result<(), StoreError> {
        let tmp = self.path().join("tmp");
        for path in file::list(&tmp)? {
            if path.extension().is_none() {
                let dir = path.with_extension("d");
                Locked::reap(&path, || delete(&dir, collected));
            } else if !path.with_extension("").exists() {
                // Its lock went first; whoever held it is gone.
                delete(&path, collected);
            }
        }
        let aside = ["blobs/sha256", "builds", "images", "stats"].map(|kind| (kind, 0));
        let sharded = [
            "blobs/sha256",
            "records",
            "slots",
            "near",
            "known",
            "pins",
            "urls",
            "layer-blobs",
            "frames",
            "trees",
        ];
        for (kind, depth) in aside.into_iter().chain(sharded.map(|kind| (kind, 1))) {
            for dir in file::below(&self.path().join(kind), depth)? {
                for path in file::list_aside(&dir)? {
                    let old = |found: &fs::Metadata| found.ctime() < began.secs - ABANDONED;
                    if fs::symlink_metadata(&path).is_ok_and(|found| old(&found)) {
                        delete(&path, collected);
                    }
                }
            }
        }
        for path in file::list(&self.path().join("trash"))? {
            if !collected.failed.iter().any(|(failed, _)| *failed == path) {
                delete(&path, collected);
            }
        }
        Ok(())
    }
}

fn changed(found: &fs::Metadata) -> Timestamp {
    Timestamp {
        secs: found.ctime(),
        nanos: found.ctime_nsec() as u32,
    }
}

fn delete(path: &Path, collected: &mut Collected) {
    if let Err(error) = file::remove(path) {
        collected.failed.push((path.to_owned(), error));
    }
}
