//! Leases: what a living build uses, so that gc leaves it alone.
//!
//! A lease is a file with a random name in `leases/`, locked with flock(2) for as long as its process lives. Names and
//! locks, not pids: builds in different pid namespaces share a store and may have equal pids. A lease whose lock can
//! be taken is dead.
//!
//! The first line says when the build began, in the file system's time: what was published since then stays; there is
//! another such line if the clock was set back meanwhile. The other lines name what is older and used all the same. They are written under a shared lock of the directory, which a
//! collector holds alone for the moment in which it looks at the leases and renames its victims: when
//! [`Lease::protect`] has returned, something is protected or it is already gone.
//!
//! A build that ends while somebody collects leaves its lease behind: a collector that has looked at the records before
//! the build published one must still be told what that one needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::flock;
use crate::flock::How;
use crate::store::StoreError;
use crate::tree::Timestamp;

/// A file that is locked as long as this lives, and removed with it.
#[derive(Debug)]
pub(crate) struct Locked {
    file: File,
    path: PathBuf,
    /// Whether the file stays, unlocked, when this is dropped.
    stays: bool,
}

impl Locked {
    /// Makes a locked file with a random name.
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        loop {
            let (file, path) = tempfile::Builder::new()
                .prefix("")
                .rand_bytes(16)
                .tempfile_in(dir)
                .map_err(StoreError::io("create a file in", dir))?
                .keep()
                .map_err(|error| StoreError::io("create a file in", dir)(error.error))?;
            // Waits only for a collector that is just finding out whether the file is dead.
            flock::lock(&file, How::Alone, &path)?;
            // A collector may have found the file before it was locked, and removed it.
            if path.exists() {
                return Ok(Self {
                    file,
                    path,
                    stays: false,
                });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody lives who holds it. What cannot be opened is held by nobody.
    pub(crate) fn is_held(path: &Path) -> bool {
        open(path).is_ok_and(|file| !is_locked(flock::try_lock(&file, How::Shared, path)))
    }

    /// Removes the file if nobody lives who holds it; says whether it is gone. What is done with `dead` is done while no
    /// one else can take the file for theirs.
    pub(crate) fn reap(path: &Path, dead: impl FnOnce()) -> bool {
        let Ok(file) = open(path) else {
            return false;
        };
        if !is_locked(flock::try_lock(&file, How::Alone, path)) {
            return false;
        }
        dead();
        std::fs::remove_file(path).is_ok()
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// What cannot be locked for whatever reason is taken for somebody's.
fn is_locked(tried: Result<bool, StoreError>) -> bool {
    tried.unwrap_or(false)
}

impl Drop for Locked {
    fn drop(&mut self) {
        if !self.stays {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Something a build uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseRoot {
    /// A record and what it names.
    Record(CacheKey),
    /// A tree and all below it.
    Tree(TreeId),
    /// A blob.
    Blob(OciDigest),
    /// The directory forms of a layer.
    LayerDir(TreeId),
}

impl std::fmt::Display for LeaseRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(key) => write!(f, "record {key}"),
            Self::Tree(tree) => write!(f, "tree {tree}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::LayerDir(tree) => write!(f, "layer {tree}"),
        }
    }
}

impl LeaseRoot {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (kind, id) = line.split_once(' ')?;
        Some(match kind {
            "record" => Self::Record(id.parse().ok()?),
            "tree" => Self::Tree(id.parse().ok()?),
            "blob" => Self::Blob(id.parse().ok()?),
            "layer" => Self::LayerDir(id.parse().ok()?),
            _ => return None,
        })
    }
}

/// The lease of one build; ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct Lease {
    file: Locked,
    dir: File,
    seen: Mutex<BTreeSet<LeaseRoot>>,
    began: Timestamp,
    /// The earliest the file says.
    earliest: Mutex<Timestamp>,
}

/// While it lives, nothing is collected: see [`Lease::hold`].
#[derive(Debug)]
pub struct Held {
    _dir: File,
}

impl Lease {
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        let file = Locked::create(dir)?;
        let error = |action| StoreError::io(action, file.path());
        let made = file.file.metadata().map_err(error("read"))?;
        let began = Timestamp {
            secs: made.mtime(),
            nanos: made.mtime_nsec() as u32,
        };
        (&file.file)
            .write_all(self::began(began).as_bytes())
            .map_err(error("write"))?;
        Ok(Self {
            dir: File::open(dir).map_err(StoreError::io("open", dir))?,
            file,
            seen: Mutex::default(),
            began,
            earliest: Mutex::new(began),
        })
    }

    /// When it was made, by the clock of the file system.
    pub(crate) fn began(&self) -> Timestamp {
        self.began
    }

    /// Keeps collectors waiting, for a moment: what is found or written meanwhile is still there when it is
    /// [protected](Self::protect). For a tree, of which some objects may be there already and others not.
    ///
    /// # Errors
    /// If the store cannot be locked.
    pub fn hold(&self) -> Result<Held, StoreError> {
        let path = self.file.path.parent().unwrap_or(&self.file.path);
        // A handle of its own: locks belong to handles.
        Ok(Held {
            _dir: flock::hold(path, How::Shared)?,
        })
    }

    /// Protects `root` from now on. Comes before its use: what is found there after this returned stays.
    ///
    /// # Errors
    /// If the lease cannot be written.
    pub fn protect(&self, root: LeaseRoot) -> Result<(), StoreError> {
        self.protect_all(&[root])
    }

    /// Protects several roots at once, as [`protect`](Self::protect) does each.
    ///
    /// # Errors
    /// If the lease cannot be written.
    pub fn protect_all(&self, roots: &[LeaseRoot]) -> Result<(), StoreError> {
        let mut seen = self
            .seen
            .lock()
            .expect("nothing panics while the set is locked");
        let new = roots.iter().filter(|root| !seen.contains(*root));
        let lines: String = new.map(|root| format!("{root}\n")).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.file.path();
        flock::lock(&self.dir, How::Shared, path)?;
        // One write: a reader that does not hold the lock may see the last line cut short, and skips it.
        let text = self.set_back() + &lines;
        let written = (&self.file.file).write_all(text.as_bytes());
        flock::unlock(&self.dir, path)?;
        written.map_err(StoreError::io("write", path))?;
        seen.extend(roots);
        Ok(())
    }

    /// A line for the file, if the clock says that it is earlier than it ever was: what is published from now on would
    /// look older than this lease.
    fn set_back(&self) -> String {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let now = Timestamp {
            secs: now.tv_sec,
            nanos: now.tv_nsec as u32,
        };
        // File times may be finer than this clock, which moves in ticks.
        let mut next = now;
        next.nanos += TICK;
        if next.nanos >= 1_000_000_000 {
            next.secs += 1;
            next.nanos -= 1_000_000_000;
        }
        let mut earliest = self
            .earliest
            .lock()
            .expect("nothing panics while the time is locked");
        if next >= *earliest {
            return String::new();
        }
        *earliest = now;
        began(now)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let dir = self.file.path.parent().unwrap_or(&self.file.path);
        self.file.stays = Collecting::is_held(dir);
    }
}

/// Held while somebody collects: there is one at a time.
#[derive(Debug)]
pub(crate) struct Collecting {
    _file: File,
}

impl Collecting {
    fn path(leases: &Path) -> PathBuf {
        leases.with_file_name("collecting")
    }

    /// Waits for its turn.
    pub(crate) fn begin(leases: &Path) -> Result<Self, StoreError> {
        let path = Self::path(leases);
        let file = flock::open(&path)?;
        flock::lock(&file, How::Alone, &path)?;
        Ok(Self { _file: file })
    }

    fn is_held(leases: &Path) -> bool {
        Locked::is_held(&Self::path(leases))
    }
}

fn began(at: Timestamp) -> String {
    format!("began {} {}\n", at.secs, at.nanos)
}

/// More than the coarse clock may be behind, in nanoseconds (CONFIG_HZ is 100 at least).
const TICK: u32 = 20_000_000;

/// By how much the lease of a living build may be younger than a collector that has just begun, in seconds. One that is
/// more so is from before the clock was set back.
const SET_BACK: i64 = 60;

/// What the lease files of a directory say together.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) roots: BTreeSet<LeaseRoot>,
    /// When the first of those builds began.
    pub(crate) began: Timestamp,
}

impl Leases {
    /// Reads the leases of the living, and changes nothing.
    pub(crate) fn of_the_living(dir: &Path) -> Result<Self, StoreError> {
        Self::read_if(dir, None, &Locked::is_held)
    }

    /// Reads the leases of the living, and removes those of the dead.
    pub(crate) fn read(dir: &Path, own: &Lease) -> Result<Self, StoreError> {
        Self::read_if(dir, Some(own), &|path| !Locked::reap(path, || {}))
    }

    /// Reads all leases, those of the dead too.
    pub(crate) fn read_with_dead(dir: &Path, own: &Lease) -> Result<Self, StoreError> {
        Self::read_if(dir, Some(own), &|_| true)
    }

    fn read_if(
        dir: &Path,
        own: Option<&Lease>,
        counts: &dyn Fn(&Path) -> bool,
    ) -> Result<Self, StoreError> {
        let latest = Timestamp {
            secs: i64::MAX,
            nanos: 0,
        };
        let now = own.map_or(latest, Lease::began);
        let mut all = Self {
            roots: BTreeSet::new(),
            began: now,
        };
        for path in crate::file::list(dir)? {
            if own.is_some_and(|own| path == own.file.path) || !counts(&path) {
                continue;
            }
            // One that has ended meanwhile protects nothing.
            let text = crate::file::read(&path)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // Locked, but its first line may still be to come: then its build has yet to publish.
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            for line in whole.lines() {
                match line.starts_with("began ") {
                    false => all.roots.extend(LeaseRoot::parse(line)),
                    true => {
                        let began = parse_began(line).unwrap_or_default();
                        let old = began.secs.saturating_sub(now.secs) <= SET_BACK;
                        // Of one from the future nobody knows what it has published since: then all stays.
                        all.began = all.began.min(if old { began } else { EVER });
                    }
                }
            }
        }
        Ok(all)
    }
}

const EVER: Timestamp = Timestamp {
    secs: i64::MIN,
    nanos: 0,
};

fn parse_began(line: &str) -> Option<Timestamp> {
    let (secs, nanos) = line.strip_prefix("began ")?.split_once(' ')?;
    Some(Timestamp {
        secs: secs.parse().ok()?,
        nanos: nanos.parse().ok()?,
    })
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let own = Lease::create(dir.path()).unwrap();
        let read = || Leases::read(dir.path(), &own).unwrap();
        let lease = Lease::create(dir.path()).unwrap();
        let roots = [
            LeaseRoot::Record(CacheKey::from_bytes([1; 32])),
            LeaseRoot::Tree(TreeId::from_bytes([2; 32])),
            LeaseRoot::Blob(OciDigest::from_bytes([3; 32])),
            LeaseRoot::LayerDir(TreeId::from_bytes([4; 32])),
        ];
        for root in roots.iter().chain(&roots) {
            lease.protect(*root).unwrap();
        }
        assert_eq!(read().roots, BTreeSet::from(roots));
        assert!(read().began <= lease.began());
        let path = lease.file.path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5, "each root once");
        assert!(!Locked::reap(&path, || panic!("it lives")));

        // A line that is being written, and then one that is no root.
        let write = |text: &str| (&lease.file.file).write_all(text.as_bytes()).unwrap();
        write("tree 0505");
        assert_eq!(read().roots.len(), 4);
        write("\n");
        assert_eq!(read().roots.len(), 4);

        drop(lease);
        assert!(!path.exists() && read().roots.is_empty());
        std::fs::write(&path, text).unwrap();
        assert!(
            read().roots.is_empty(),
            "what a killed process leaves behind"
        );
        assert!(!path.exists());
    }

    #[test]
    fn a_collector_keeps_protection_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::create(dir.path()).unwrap();
        let collector = flock::hold(dir.path(), How::Alone).unwrap();
        let root = LeaseRoot::Tree(TreeId::from_bytes([2; 32]));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lease.protect(root));
            assert!(!waiting.is_finished());
            drop(collector);
            waiting.join().unwrap().unwrap();
        });
    }
}
