//! What the last build of each plan did, step by step, and why: one checksummed file a plan. It is there to be asked
//! afterwards, and to find what a step of the next build is to be compared with.
//!
//! A file has three lines: BLAKE3 of the other two in hexadecimal; what tells whether another build would say the same;
//! the report as JSON. A build that says the same writes nothing, it only sets the file's time.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CacheKey;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Timestamps;
use rustix::time::ClockId;
use serde::Deserialize;
use serde::Serialize;

use crate::file;
use crate::journal::Journal;
use crate::store::StoreError;
use crate::tree::Timestamp;

/// What a build did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// What identifies the plan among all of this machine: the path of its file.
    pub plan: String,
    /// When it began to look steps up, nanoseconds since the epoch.
    pub started: u128,
    /// When its last step ended.
    pub completed: u128,
    /// Whether a step failed or the build was stopped.
    pub failed: bool,
    /// Every step once, inputs before users. What looks secret is in none of their texts.
    pub steps: Vec<BuiltStep>,
}

/// What a build did about a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltStep {
    /// What events called it.
    pub id: String,
    /// As progress showed it.
    pub name: String,
    /// As `os/architecture`.
    pub platform: String,
    /// File, first and last line of the instruction it comes from.
    pub at: Option<(String, usize, usize)>,
    /// What became of it.
    pub fate: Fate,
    /// Why it was not cached, in words; empty if it was, or if it only waited for others.
    pub why: String,
    /// Positions of the steps it was not cached for: they had to be made first.
    pub waited_for: Vec<usize>,
    /// Its definition key.
    pub key: CacheKey,
    /// A key that a record of this step, or else of what stood in its place before, was kept under.
    pub known: Option<CacheKey>,
    /// Of an image by its tag, when its registry had last been asked what that stands for, nanoseconds since the epoch, if it was
    /// not asked for this build and that was worth telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u128>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was looked at, as files of this machine are in every build.
    Read,
    /// Nothing needed it: all that is made of it was cached.
    Unneeded,
    /// It was cached.
    Cached {
        /// The key that answered.
        by: CacheKey,
    },
    /// It had to wait for its inputs, and then its result was known by their content.
    Found,
    /// It ran.
    Ran {
        /// For how long, in milliseconds.
        millis: u64,
    },
    /// It failed.
    Failed {
        /// After how long, in milliseconds.
        millis: u64,
    },
    /// The build ended before it did.
    Stopped,
}

/// A report as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What the build did.
    pub report: BuildReport,
    /// When a build did the same last: found all cached, from the same steps. Not before the build itself.
    pub confirmed: Timestamp,
}

/// The reports of a store.
#[derive(Debug)]
pub struct Builds {
    dir: PathBuf,
    journal: Journal,
}

/// Hexadecimal digits of BLAKE3.
const HEX: usize = blake3::OUT_LEN * 2;

impl Builds {
    pub(crate) fn new(dir: PathBuf, journal: Journal) -> Self {
        Self { dir, journal }
    }

    /// The last build of a plan; `None` if there was none, or its report is damaged.
    pub fn last(&self, plan: &str) -> Option<Kept> {
        load(&self.path(plan)).filter(|kept| kept.report.plan == plan)
    }

    /// All that are known, the newest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn all(&self) -> Result<Vec<Kept>, StoreError> {
        let paths = file::list(&self.dir)?;
        let mut all: Vec<Kept> = paths.iter().filter_map(|path| load(path)).collect();
        all.sort_by_key(|kept| std::cmp::Reverse(kept.confirmed));
        Ok(all)
    }

    /// Whether the last build of a plan said the same, which [`keep`](Self::keep) was told as `same`. If so it is noted
    /// that this is still so.
    pub fn confirm(&self, plan: &str, same: &blake3::Hash) -> bool {
        let path = self.path(plan);
        let mut head = [0; 2 * HEX + 2];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut head));
        if read.is_err() || &head[HEX + 1..2 * HEX + 1] != same.to_hex().as_bytes() {
            return false;
        }
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // Whoever cannot write the store has still been told the truth.
        let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::empty());
        true
    }

    /// Keeps what a build did, in the place of the last of its plan. `same` is what builds that say the same have in
    /// common; `None` for one that none is like.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn keep(
        &self,
        report: &BuildReport,
        same: Option<&blake3::Hash>,
    ) -> Result<(), StoreError> {
        let body = serde_json::to_vec(report).expect("a report can always be written as JSON");
        let same = same.map_or_else(|| "-".repeat(HEX), |same| same.to_hex().to_string());
        let rest = [same.as_bytes(), b"\n", &body].concat();
        let sum = blake3::hash(&rest).to_hex();
        let bytes = [sum.as_bytes(), b"\n", &rest].concat();
        self.journal.write(&self.path(&report.plan), &bytes)
    }

    fn path(&self, plan: &str) -> PathBuf {
        let hex = blake3::hash(plan.as_bytes()).to_hex();
        self.dir.join(hex.as_str())
    }
}

fn load(path: &Path) -> Option<Kept> {
    let mut file = File::open(path).ok()?;
    let found = file.metadata().ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(Kept {
        report: decode(&bytes)?,
        confirmed: Timestamp {
            secs: found.mtime(),
            nanos: found.mtime_nsec() as u32,
        },
    })
}

/// A report as it was written; nothing if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<BuildReport> {
    let (sum, rest) = bytes.split_at_checked(HEX)?;
    let rest = rest.strip_prefix(b"\n")?;
    if blake3::hash(rest).to_hex().as_bytes() != sum {
        return None;
    }
    let body = rest.get(HEX..)?.strip_prefix(b"\n")?;
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::store::Store;

    fn report(plan: &str, name: &str) -> BuildReport {
        let key = CacheKey::from_bytes([7; 32]);
        BuildReport {
            plan: plan.to_owned(),
            started: 1,
            completed: 2,
            failed: false,
            steps: vec![BuiltStep {
                id: "sha256:00".to_owned(),
                name: name.to_owned(),
                platform: "linux/amd64".to_owned(),
                at: Some(("Dockerfile".to_owned(), 1, 2)),
                fate: Fate::Cached { by: key },
                why: String::new(),
                waited_for: vec![],
                key,
                known: Some(key),
                asked: Some(1),
            }],
        }
    }

    #[test]
    fn the_last_report_of_each_plan_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let builds = store.builds();
        assert_eq!((builds.last("/a"), builds.all().unwrap()), (None, vec![]));
        for (plan, name) in [("/a", "one"), ("/b", "two"), ("/a", "three")] {
            builds.keep(&report(plan, name), None).unwrap();
        }
        assert_eq!(builds.last("/a").unwrap().report, report("/a", "three"));
        assert_eq!(builds.last("/b").unwrap().report, report("/b", "two"));
        assert_eq!(builds.all().unwrap().len(), 2);

        let path = builds.path("/a");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(builds.last("/a"), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(builds.last("/a"), None);
        assert_eq!(builds.all().unwrap().len(), 1);
    }

    #[test]
    fn a_build_that_says_the_same_sets_the_time_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let builds = store.builds();
        let (same, other) = (blake3::hash(b"same"), blake3::hash(b"other"));
        assert!(!builds.confirm("/a", &same));
        builds.keep(&report("/a", "one"), Some(&same)).unwrap();
        let file = File::options().write(true).open(builds.path("/a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!builds.confirm("/a", &other));
        assert_eq!(builds.last("/a").unwrap().confirmed.secs, 0);
        assert!(builds.confirm("/a", &same));
        let kept = builds.last("/a").unwrap();
        assert!(kept.confirmed.secs > 1_000_000_000, "{kept:?}");
        assert_eq!(kept.report, report("/a", "one"));
        builds.keep(&report("/a", "one"), None).unwrap();
        assert!(!builds.confirm("/a", &same));
    }
}
