//! Leases: what a living build uses, so that gc leaves it alone.
//!
//! A lease is a file with a random name in `leases/`, locked with flock(2) for as long as its process lives. Names and
//! locks, not pids: builds in different pid namespaces share a store and may have equal pids. A lease whose lock can
//! be taken is dead.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rustix::fs::FlockOperation;

use crate::store::StoreError;

/// A file that is locked as long as this lives, and removed with it.
#[derive(Debug)]
pub(crate) struct Locked {
    file: File,
    path: PathBuf,
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
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(|error| StoreError::io("lock", &path)(error.into()))?;
            // A collector may have found the file before it was locked, and removed it.
            if path.exists() {
                return Ok(Self { file, path });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody lives who holds the file.
    pub(crate) fn is_dead(path: &Path) -> bool {
        let Ok(file) = OpenOptions::new()
            .read(true)
            .custom_flags(libc_o_nofollow())
            .open(path)
        else {
            return false;
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }
}

fn libc_o_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

impl Drop for Locked {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
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
    seen: Mutex<std::collections::BTreeSet<LeaseRoot>>,
}

impl Lease {
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            file: Locked::create(dir)?,
            seen: Mutex::default(),
        })
    }

    /// Protects `root` from now on. Comes before its use: what is found there after this returned stays.
    ///
    /// # Errors
    /// If the lease cannot be written.
    pub fn protect(&self, root: LeaseRoot) -> Result<(), StoreError> {
        let mut seen = self
            .seen
            .lock()
            .expect("nothing panics while the set is locked");
        if seen.insert(root) {
            // One write a line: a reader never sees half of one.
            let line = format!("{root}\n");
            (&self.file.file)
                .write_all(line.as_bytes())
                .map_err(StoreError::io("write", self.file.path()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::create(dir.path()).unwrap();
        let root = LeaseRoot::Blob(OciDigest::from_bytes([3; 32]));
        lease.protect(root).unwrap();
        lease.protect(root).unwrap();
        let path = lease.file.path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().map(LeaseRoot::parse).collect::<Vec<_>>(),
            [Some(root)]
        );
        assert!(!Locked::is_dead(&path));
        drop(lease);
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert!(
            Locked::is_dead(&path),
            "what a killed process leaves behind"
        );
    }
}
