//! Steps that failed: what their process was, and what it had written, kept so that somebody can go in and look.
//!
//! ```text
//! failures/ID/          ID: twelve hexadecimal digits; locked with flock(2) while somebody is in it
//!   about.json          the step, and the layers it stands on; its time is when it was kept
//!   upper/              what the process wrote above the layers: an upper directory of overlayfs; or
//!   root/               its whole root, where layers are not stacked
//!   mount3/ copy3/      what it saw at its third mount, and may have written there
//! ```
//!
//! What always holds:
//!
//! - One that is there is complete: all of it is moved together aside, and renamed.
//! - It costs nothing to keep one: what the process wrote stays where it was written, and has another name.
//! - There are [`MOST`] at most, but for those that somebody is in. One goes when a build of the same plan has a result for its step, when a later build of
//!   that plan fails, and, first of all there is, when space is wanted.
//! - No secret is in `about.json`: what steps are given of such, it has the names of.
//! - It goes by being renamed, under its lock: who is in it is not disturbed.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_llb::Platform;
use rbuild_llb::TreeId;
use rbuild_llb::op::ExecOp;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_NOW;
use rustix::fs::UTIME_OMIT;
use serde::Deserialize;
use serde::Serialize;

use crate::file;
use crate::flock;
use crate::flock::How;
use crate::records::Snapshot;
use crate::store::Store;
use crate::store::StoreError;
use crate::tree::Timestamp;

/// Their directory.
pub(crate) const FAILURES: &str = "failures";

/// The file that describes one.
pub(crate) const ABOUT: &str = "about.json";

/// So many are kept.
pub const MOST: usize = 3;

/// How long one that is locked is waited for before it counts as entered by somebody.
const LOOKS: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::ZERO,
];

/// A step whose process failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// What identifies the plan among all of this machine.
    pub plan: String,
    /// Tells the build from others of that plan.
    pub build: String,
    /// Its place in the plan, as [`Record::slot`](crate::Record::slot).
    pub slot: String,
    /// What events called it.
    pub vertex: String,
    /// As progress showed it.
    pub name: String,
    /// How it ended, as a clause.
    pub ended: String,
    /// When, nanoseconds since the epoch.
    pub failed: u128,
    /// For which system it was run.
    pub platform: Platform,
    /// The id map under which its files were written.
    pub domain: String,
    /// The process, less what is secret.
    pub op: ExecOp,
    /// Names of variables that `op` lacks, since their values look secret.
    pub withheld: Vec<String>,
    /// What it stands on, by the indices of the op's mounts.
    pub inputs: Vec<Snapshot>,
    /// What there is of what it wrote.
    pub wrote: Written,
}

/// What a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Written {
    /// A directory above its layers: `upper`.
    Upper,
    /// A directory with all of them: `root`.
    Root,
    /// It is one of the layers.
    Layer,
}

impl Written {
    /// The name of the directory, if there is one.
    pub const fn directory(self) -> Option<&'static str> {
        match self {
            Self::Upper => Some("upper"),
            Self::Root => Some("root"),
            Self::Layer => None,
        }
    }
}

impl FailedStep {
    /// The trees it is nothing without.
    pub fn trees(&self) -> impl Iterator<Item = TreeId> + '_ {
        self.inputs.iter().flat_map(Snapshot::trees)
    }

    /// What it goes by.
    fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.plan, &self.build, &self.slot, &self.vertex] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&self.failed.to_le_bytes());
        hasher.finalize().to_hex()[..12].to_owned()
    }
}

/// One that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it goes by: twelve hexadecimal digits.
    pub id: String,
    /// The step; `None` if that cannot be read.
    pub step: Option<FailedStep>,
    /// When it was kept, by the clock of the file system.
    pub created: Timestamp,
    /// When somebody was in it last, or it was kept.
    pub used: Timestamp,
    /// Whether somebody is in it now.
    pub in_use: bool,
    /// When its directory got its name.
    pub(crate) published: Timestamp,
    /// The directory with all there is of it.
    pub path: PathBuf,
}

/// Held by whoever is in a kept step.
#[derive(Debug)]
pub struct Entered {
    path: PathBuf,
    lock: File,
}

impl Entered {
    /// The directory with all there is of it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, from the disk too, before this returns: nobody enters it any more.
    ///
    /// # Errors
    /// If it cannot be moved, or removed.
    pub fn discard(self, store: &Store) -> Result<(), StoreError> {
        let trash = store.trash_dir()?;
        store.discard_locked(&self.path, &trash)?;
        file::remove(&trash).map_err(StoreError::io("remove", &trash))
    }

    /// Says that it is used now.
    fn touch(&self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: now,
        };
        // Without it, it only looks older.
        let _ = rustix::fs::utimensat(CWD, &self.path, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.touch();
        // The lock may live on in a process that was started meanwhile.
        drop(flock::unlock(&self.lock, &self.path));
    }
}

impl Failure {
    /// What is in a directory; `None` if it is gone, or no directory.
    fn read(path: PathBuf) -> Option<Self> {
        let found = fs::symlink_metadata(&path)
            .ok()
            .filter(fs::Metadata::is_dir)?;
        let about = path.join(ABOUT);
        let step = file::peek_json(&about).ok().flatten();
        let created = fs::symlink_metadata(&about).map_or(found.mtime(), |about| about.mtime());
        Some(Self {
            id: path.file_name()?.to_string_lossy().into_owned(),
            step,
            created: time(created, 0),
            used: time(found.mtime(), found.mtime_nsec()),
            in_use: !try_lock(&path, How::Shared).is_ok_and(|lock| lock.is_some()),
            published: time(found.ctime(), found.ctime_nsec()),
            path,
        })
    }

    /// Takes it for as long as what this gives is held; nothing if somebody else is in it, or it is gone.
    ///
    /// # Errors
    /// If it cannot be locked.
    pub fn enter(&self) -> Result<Option<Entered>, StoreError> {
        let mut lock = None;
        // Who only looks whether somebody is in it has it locked as well, for moments.
        for wait in LOOKS {
            lock = try_lock(&self.path, How::Alone)?;
            if lock.is_some() || !self.path.exists() {
                break;
            }
            std::thread::sleep(wait);
        }
        let Some(lock) = lock else {
            return Ok(None);
        };
        let entered = Entered {
            path: self.path.clone(),
            lock,
        };
        entered.touch();
        Ok(Some(entered))
    }
}

/// Locks the directory, if it is there and nobody is in the way.
fn try_lock(path: &Path, how: How) -> Result<Option<File>, StoreError> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let file = match File::open(path) {
        Err(error) if absent(&error) => return Ok(None),
        opened => opened.map_err(StoreError::io("open", path))?,
    };
    if !flock::try_lock(&file, how, path)? {
        return Ok(None);
    }
    // It may have been removed before it was locked.
    Ok(path.exists().then_some(file))
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    Timestamp {
        secs,
        nanos: nanos as u32,
    }
}

impl Store {
    /// Keeps a step. `dir`, which is in a scratch directory of this store, becomes its directory: what the process wrote is in
    /// it already. Others of the same plan that earlier builds left go, and the oldest if there are too many; they are in the
    /// trash then.
    ///
    /// # Errors
    /// If it cannot be written or moved. Then nothing is kept.
    pub fn keep_failure(&self, dir: &Path, step: &FailedStep) -> Result<Failure, StoreError> {
        let about = dir.join(ABOUT);
        let bytes = serde_json::to_vec(step).expect("steps can always be written as JSON");
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(&about)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(StoreError::io("write", &about))?;
        let all = self.path().join(FAILURES);
        fs::create_dir_all(&all).map_err(StoreError::io("create", &all))?;
        let path = all.join(step.id());
        self.mark_unsynced()?;
        fs::rename(dir, &path).map_err(StoreError::io("create", &path))?;
        // It is kept now. What cannot be removed stays until gc comes by.
        let mut older = self.failures().unwrap_or_default();
        older.retain(|failure| failure.path != path);
        let replaced = |failure: &Failure| {
            let earlier = |other: &FailedStep| other.plan == step.plan && other.build != step.build;
            failure.step.as_ref().is_none_or(earlier)
        };
        let (replaced, left): (Vec<_>, Vec<_>) = older.into_iter().partition(replaced);
        for failure in replaced.iter().chain(left.iter().skip(MOST - 1)) {
            drop(self.discard_failure_somewhere(&failure.path));
        }
        Failure::read(path.clone()).ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            StoreError::io("read", &path)(gone)
        })
    }

    /// Those that are kept, the newest first.
    ///
    /// # Errors
    /// If their directory cannot be read.
    pub fn failures(&self) -> Result<Vec<Failure>, StoreError> {
        let list = file::list(&self.path().join(FAILURES))?;
        let mut failures: Vec<Failure> = list.into_iter().filter_map(Failure::read).collect();
        failures.sort_by(|a, b| {
            let failed = |failure: &Failure| failure.step.as_ref().map_or(0, |step| step.failed);
            (failed(b), &b.id).cmp(&(failed(a), &a.id))
        });
        Ok(failures)
    }

    /// Removes those of a plan whose step has a result now: `succeeded` says so of a place in it. They are in the trash then.
    ///
    /// # Errors
    /// If they cannot be read or moved.
    pub fn forget_failures(
        &self,
        plan: &str,
        succeeded: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let list = file::list(&self.path().join(FAILURES))?;
        for path in list {
            // Every build comes by here: who is about to enter one is in nobody's way.
            let step: Option<FailedStep> = file::peek_json(&path.join(ABOUT)).ok().flatten();
            if step.is_some_and(|step| step.plan == plan && succeeded(&step.slot)) {
                self.discard_failure_somewhere(&path)?;
            }
        }
        Ok(())
    }

    fn discard_failure_somewhere(&self, path: &Path) -> Result<(), StoreError> {
        self.discard_path(path, &self.trash_dir()?).map(drop)
    }

    /// Moves one into the directory `trash`, which is on the same file system, unless somebody is in it. Whether it is gone
    /// from its place.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn discard_failure(&self, failure: &Failure, trash: &Path) -> Result<bool, StoreError> {
        self.discard_path(&failure.path, trash)
    }

    fn discard_path(&self, path: &Path, trash: &Path) -> Result<bool, StoreError> {
        match try_lock(path, How::Alone)? {
            Some(_lock) => self.discard_locked(path, trash),
            None => Ok(!path.exists()),
        }
    }

    fn discard_locked(&self, path: &Path, trash: &Path) -> Result<bool, StoreError> {
        // What a process was lent that was killed there.
        if !self.bring_back_from(path)? {
            return Ok(false);
        }
        let name = path.file_name().unwrap_or_default();
        match fs::rename(path, trash.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", path)(error))
            }
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests;
