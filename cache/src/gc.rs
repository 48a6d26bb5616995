//! What the store takes, and garbage collection: what no image, no living build and no policy keeps is removed.
//!
//! 1. *Read* what there is, and what names what ([`inventory`]).
//! 2. *Mark.* Images and leases name things; those are live. So are items (results of steps, cache mounts, pins …), the last
//!    used first, as far as the policy goes, with all they name ([`live`]).
//! 3. *Sweep.* Everything else that was published before the first of the living builds began is a victim.
//! 4. *Check.* A few hundred victims at a time are renamed into `trash/`, under the lock of the leases and after another look at
//!    them: builds wait for that (milliseconds), never for the marking or the deleting.
//! 5. *Delete.* Outside the lock.
//!
//! A build that is killed, or a collector, leaves garbage that the next collector finds.
//!
//! Who builds does its part: it protects first and looks then ([`Lease`]), and what it writes is new. Records go first and
//! trees last, so that what is still found by a key is complete.

mod disk;
mod inventory;
mod live;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use rustix::time::ClockId;

use crate::file;
use crate::flock;
use crate::flock::How;
use crate::lease::Collecting;
use crate::lease::Lease;
use crate::lease::LeaseRoot;
use crate::lease::Leases;
use crate::lease::Locked;
use crate::store::Store;
use crate::store::StoreError;
use crate::tree::Timestamp;
use inventory::Inventory;
use inventory::Piece;
pub use inventory::UsageKind;
use live::Live;
pub use usage::Space;
pub use usage::StoreUsage;
pub use usage::Usage;

/// What may stay although no image and no living build needs it.
#[derive(Debug, Clone, Default)]
pub struct Policy<'a> {
    /// Of what it speaks; all else stays.
    pub select: Select<'a>,
    /// What was used within this time stays, as far as the limits allow; what was not goes.
    pub keep_duration: Option<Duration>,
    /// Bytes that the store may take in any case.
    pub reserved: Option<u64>,
    /// Bytes that the store may take at most.
    pub max_used: Option<u64>,
    /// Bytes that are to be free on its disk.
    pub min_free: Option<u64>,
}

/// Which items a [`Policy`] speaks of.
#[derive(Clone, Copy, Default)]
pub struct Select<'a> {
    /// Also what images were made of, and what rbuild keeps for itself.
    pub all: bool,
    /// Also cache mounts and git repositories that were used within a week.
    pub mounts: bool,
    /// What was not used for this long.
    pub unused_for: Duration,
    /// Only what this says yes to. Sizes are not known then.
    pub wanted: Option<&'a dyn Fn(&Usage) -> bool>,
}

impl std::fmt::Debug for Select<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Select")
            .field("all", &self.all)
            .field("mounts", &self.mounts)
            .field("unused_for", &self.unused_for)
            .finish_non_exhaustive()
    }
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Bytes on disk that what was removed took.
    pub freed: u64,
    /// Files, blobs, tree objects and directory forms that were removed.
    pub removed: u64,
    /// Bytes on disk that what is left takes.
    pub left: u64,
    /// The items that are gone, with what each alone took; one for what nothing named.
    pub items: Vec<Usage>,
    /// What could not be deleted, and why; it is in the trash. Directory forms with files of subordinate ids can only be
    /// deleted from inside the user namespace: see [`Store::empty_trash`].
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Victims that are renamed under one lock: about 30 µs each on ext4.
const BATCH: usize = 200;
/// A file that is still written aside after this long has no writer any more, in seconds.
const ABANDONED: i64 = 24 * 3600;
/// In which order things go; what is not among them goes last.
const ORDER: [&str; 13] = [
    "records",
    "slots",
    "near",
    "builds",
    "stats",
    "urls",
    "pins",
    "frames",
    "known",
    "layer-blobs",
    "layers",
    "blobs",
    "trees",
];

impl Store {
    /// Collects garbage. Builds may run meanwhile.
    ///
    /// # Errors
    /// If the store cannot be read or renamed in. That something cannot be deleted is in the report instead.
    pub fn collect(&self, policy: &Policy<'_>) -> Result<Collected, StoreError> {
        let leases_dir = self.path().join("leases");
        let collecting = Collecting::begin(&leases_dir)?;
        // Its own lease makes what is published from now on stay, and tells the time.
        let lease = self.lease()?;
        let mut leases = Leases::read(&leases_dir, &lease)?;
        let all = Inventory::read(self)?;
        let mut live = Live::needed(self, &all, &leases.roots);
        let free = if policy.min_free.is_some() {
            self.space()?.free
        } else {
            0
        };
        let gone = live.items(policy, free, lease.began(), leases.began);
        let mut collected = Collected {
            items: live.removed(&gone, leases.began),
            ..Collected::default()
        };

        let victims = self.victims(&live, leases.began);
        for batch in victims.chunks(BATCH) {
            let trash = self.trash_dir()?;
            let gate = flock::hold(&leases_dir, How::Alone)?;
            let moved = self.condemn(batch, &trash, &mut live, &mut leases, &lease, &leases_dir)?;
            drop(gate);
            for piece in moved {
                collected.freed += piece.bytes;
                collected.removed += 1;
            }
            delete(&trash, &mut collected);
        }
        for item in gone {
            if item.mount.is_some() || item.failure.is_some() {
                let trash = self.trash_dir()?;
                let mount = item.mount.as_ref();
                let failure = item.failure.as_ref();
                if mount.map_or(Ok(false), |mount| self.discard_cache_mount(mount, &trash))?
                    || failure.map_or(Ok(false), |failure| self.discard_failure(failure, &trash))?
                {
                    collected.freed += item
                        .nodes
                        .iter()
                        .map(|id| all.nodes[*id].bytes)
                        .sum::<u64>();
                    collected.removed += 1;
                }
                delete(&trash, &mut collected);
            }
        }
        self.clean_up(leases.began, &mut collected)?;
        // Those of builds that have ended meanwhile.
        Leases::read(&leases_dir, &lease)?;
        // Before its own lease, which else were left behind.
        drop(collecting);
        collected.left = all.total.saturating_sub(collected.freed);
        Ok(collected)
    }

    /// Whether it is this process' turn to collect by itself: nobody else does, and nobody did in the time `every`. The turn
    /// ends when it is dropped.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn turn_to_collect(&self, every: Duration) -> Result<Option<File>, StoreError> {
        let path = self.path().join("collected");
        let new = !path.exists();
        let file = flock::open(&path)?;
        if !flock::try_lock(&file, How::Alone, &path)? {
            return Ok(None);
        }
        let found = file.metadata().map_err(StoreError::io("read", &path))?;
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse).tv_sec;
        let age = now.saturating_sub(found.mtime());
        // One from the future is from before the clock was set back.
        let due = u64::try_from(age).map_or(age < -1, |age| age >= every.as_secs());
        if new || !due {
            return Ok(None);
        }
        file.set_len(0)
            .and_then(|()| file.set_modified(seconds(now)))
            .map_err(StoreError::io("write", &path))?;
        Ok(Some(file))
    }

    /// Deletes what could not be deleted before; called where files of all owners can be removed. What is left is in the
    /// trash still.
    ///
    /// # Errors
    /// If the trash cannot be read.
    pub fn empty_trash(&self) -> Result<Vec<(PathBuf, io::Error)>, StoreError> {
        let mut collected = Collected::default();
        for path in file::list(&self.path().join("trash"))? {
            delete(&path, &mut collected);
        }
        Ok(collected.failed)
    }

    /// Renames victims that nobody has taken a fancy to since into `trash`. Called with the lock held.
    fn condemn<'p>(
        &self,
        batch: &[&'p Piece],
        trash: &Path,
        live: &mut Live<'_>,
        leases: &mut Leases,
        own: &Lease,
        leases_dir: &Path,
    ) -> Result<Vec<&'p Piece>, StoreError> {
        let now = Leases::read_with_dead(leases_dir, own)?;
        let new: BTreeSet<LeaseRoot> = now.roots.difference(&leases.roots).copied().collect();
        live.leased(&new);
        leases.roots.extend(new);
        leases.began = leases.began.min(now.began);
        let mut moved = Vec::new();
        for piece in batch {
            // Published again since it was looked at.
            let fresh = fs::symlink_metadata(&piece.path)
                .map_or(true, |found| piece.by.time(&found.into()) >= leases.began);
            if fresh || live.has(piece.of) {
                continue;
            }
            match fs::rename(&piece.path, trash.join(moved.len().to_string())) {
                Ok(()) => moved.push(*piece),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &piece.path)(error)),
            }
        }
        Ok(moved)
    }

    /// A directory in the trash, for things that are renamed into it.
    pub(crate) fn trash_dir(&self) -> Result<PathBuf, StoreError> {
        let trash = self.path().join("trash");
        tempfile::tempdir_in(&trash)
            .map(tempfile::TempDir::keep)
            .map_err(StoreError::io("create a directory in", &trash))
    }

    /// Everything that is not live and was published before `began`, in the order in which it goes.
    fn victims<'p>(&self, live: &Live<'p>, began: Timestamp) -> Vec<&'p Piece> {
        let dead = |piece: &&Piece| !live.has(piece.of) && piece.changed < began;
        let mut victims: Vec<&Piece> = live.all.pieces.iter().filter(dead).collect();
        let order = |piece: &&Piece| {
            let below = piece.path.strip_prefix(self.path()).ok();
            let kind = below.and_then(|below| below.iter().next());
            let known = ORDER
                .iter()
                .position(|known| kind.is_some_and(|kind| kind == *known));
            known.unwrap_or(ORDER.len())
        };
        victims.sort_by_cached_key(order);
        victims
    }

    /// Removes what killed processes left: scratch directories, files that were written aside, trash.
    fn clean_up(&self, began: Timestamp, collected: &mut Collected) -> Result<(), StoreError> {
        let tmp = self.path().join("tmp");
        for path in file::list(&tmp)? {
            if path.extension().is_none() {
                let dir = path.with_extension("d");
                let mut lent = Ok(true);
                Locked::reap(&path, || {
                    lent = self.bring_back_from(&dir);
                    if matches!(lent, Ok(true)) {
                        delete(&dir, collected);
                    }
                });
                lent?;
            } else if !path.with_extension("").exists() && self.bring_back_from(&path)? {
                // Its lock went first; whoever held it is gone.
                delete(&path, collected);
            }
        }
        for path in file::list(&self.path().join("running"))? {
            Locked::reap(&path, || {});
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

fn seconds(since_1970: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_1970.unsigned_abs())
}

fn delete(path: &Path, collected: &mut Collected) {
    if let Err(error) = file::remove(path) {
        collected.failed.push((path.to_owned(), error));
    }
}
