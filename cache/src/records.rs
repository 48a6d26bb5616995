//! Cache records: one checksummed file a key. A slot, which tells the newest record of a place in a plan, is a hard link of that
//! record's file; where there are no hard links it holds the key in hexadecimal digits.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::ContentDigest;
use rbuild_llb::KeyRecord;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Timestamps;
use rustix::time::ClockId;
use serde::Deserialize;
use serde::Serialize;

use crate::dir::Ownership;
use crate::file;
use crate::journal::Journal;
use crate::mounts::CacheMountName;
use crate::store::StoreError;
use crate::tree::Timestamp;
use crate::tree::TreeRef;

/// A record's mtime says when it was last used, to within these many seconds: a look-up is not to write each time.
const USED_AGAIN: i64 = 3600;

/// How the source of an origin begins that is a cache elsewhere: what follows is its place's affair.
pub const CACHE: &str = "cache:";

/// A file system as layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Bottom first.
    pub layers: Vec<LayerRef>,
    /// What they add up to.
    pub root: TreeRef,
}

impl Snapshot {
    /// What it is made of: the tree that the layers add up to, and theirs.
    pub fn trees(&self) -> impl Iterator<Item = TreeId> + '_ {
        let layers = self.layers.iter().map(|layer| layer.layer.tree);
        std::iter::once(self.root.tree).chain(layers)
    }
}

/// One layer of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Its tree.
    pub layer: TreeRef,
    /// The blob a base image brought it as, which is exported as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When a build made it, nanoseconds since the epoch; `None` for a base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u128>,
    /// Whether it was made by a process that had one user id, or of what such a process made: its owners are those that a
    /// supervisor recorded. Another build's result is the same layer without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub single: bool,
}

impl Snapshot {
    /// Whether a layer of it is [`LayerRef::single`].
    pub fn is_single(&self) -> bool {
        self.layers.iter().any(|layer| layer.single)
    }
}

impl LayerRef {
    /// A base's layer that nobody has looked into, so that its tree is not known: it can be exported as the blob it is.
    pub fn unread(origin: Origin) -> Self {
        Self {
            layer: UNREAD,
            origin: Some(origin),
            created: None,
            single: false,
        }
    }

    /// Whether it is the same layer, wherever the blob of either can be fetched.
    pub fn is_same(&self, other: &Self) -> bool {
        let blob = |layer: &Self| layer.origin.as_ref().map(|origin| origin.digest);
        (self.layer, self.created, blob(self)) == (other.layer, other.created, blob(other))
    }

    /// Whether its tree is known.
    pub fn is_read(&self) -> bool {
        self.layer != UNREAD
    }
}

/// No tree's digests: whoever looks for it finds that it is missing.
const UNREAD: TreeRef = TreeRef {
    tree: TreeId::from_bytes([0; 32]),
    content: ContentDigest::from_bytes([0; 32]),
};

/// Where a base's layer comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// SHA-256 of the blob.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
    /// As the manifest says.
    pub media_type: String,
    /// SHA-256 of the uncompressed tar.
    pub diff_id: OciDigest,
    /// A reference with a digest, `oci-layout://` and a directory, or [`CACHE`] and a cache elsewhere, where it can be fetched
    /// again.
    pub source: Option<String>,
    /// Where else it can be had, as the manifest says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// The result of a step, found by a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The key.
    pub key: CacheKey,
    /// What it was computed from.
    pub record: KeyRecord,
    /// Whom it is compared with when it misses: the same place in the same plan.
    pub slot: String,
    /// By output index.
    pub outputs: Vec<Snapshot>,
    /// When the step ended, nanoseconds since the epoch.
    pub created: u128,
    /// How long it took.
    pub duration_ms: u64,
    /// As progress showed it.
    pub name: String,
}

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file is not what was written; it has been removed.
    #[error("the cache record `{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds and keeps results of steps: this machine's store, or a cache somewhere else.
pub trait CacheBackend: Sync {
    /// The record of a key.
    ///
    /// # Errors
    /// If it cannot be read.
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordError>;

    /// Keeps a record.
    ///
    /// # Errors
    /// If it cannot be written.
    fn publish(&self, record: &Record) -> Result<(), RecordError>;

    /// The newest record of a slot and of the kind of step `kind`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn latest(&self, slot: &str, kind: &str) -> Result<Option<Record>, RecordError>;
}

/// What a cache elsewhere knows for a key: a result, and nothing of what the key was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// By output index. Shared: of hundreds of steps that stand on each other they are most of what is in memory.
    pub outputs: Arc<Vec<Snapshot>>,
    /// When the step ended, nanoseconds since the epoch.
    pub created: u128,
    /// How long it took.
    pub duration_ms: u64,
}

/// A result of which a cache elsewhere knows only which blobs its layers are, as an image has them: what is in those is known
/// when they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// By output index, the layers bottom first, each with when a build made it.
    pub outputs: Vec<Vec<(Origin, Option<u128>)>>,
    /// When the step ended, nanoseconds since the epoch.
    pub created: u128,
    /// How long it took.
    pub duration_ms: u64,
}

/// What a cache elsewhere has for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// A result whose trees are in the store by now.
    Answer(Answer),
    /// Blobs to be read.
    Unread(Unread),
}

/// Why a cache elsewhere cannot give what it says it has.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct RemoteError {
    /// Which cache.
    pub place: String,
    /// What about it.
    pub problem: String,
}

/// Caches elsewhere, filled by others: asked for what this machine's store does not know.
pub trait RemoteCache: Sync {
    /// The result of a key. Where its layers' blobs can be had is then known to the store.
    ///
    /// # Errors
    /// If there is one that cannot be used.
    fn find(&self, key: &CacheKey) -> Result<Option<Elsewhere>, RemoteError>;

    /// Whether what origins call `place` is one of these caches.
    fn reaches(&self, place: &str) -> bool;

    /// Opens a blob that is in the cache at `place`; `None` if that is none of these. The reader compares the bytes with the
    /// digest, and gives an error in place of the last if they differ.
    ///
    /// # Errors
    /// If it cannot be had.
    fn open(
        &self,
        place: &str,
        digest: &OciDigest,
        size: u64,
    ) -> Option<Result<Box<dyn Read + Send>, RemoteError>>;

    /// Bytes of the files of a cache mount, if one of the caches has it.
    fn has_mount(&self, name: &CacheMountName) -> Option<u64>;

    /// Makes the new directory `into` what a cache mount is there.
    ///
    /// # Errors
    /// If it cannot be had, or not be written. `into` is then not there, or of no use.
    fn begin_mount(
        &self,
        name: &CacheMountName,
        into: &Path,
        owners: Ownership,
        cancel: &CancelToken,
    ) -> Result<(), RemoteError>;
}

/// The records of a store.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    slots: PathBuf,
    journal: Journal,
}

impl Records {
    pub(crate) fn new(store: &Path, journal: Journal) -> Self {
        Self {
            dir: store.join("records"),
            slots: store.join("slots"),
            journal,
        }
    }

    /// A record and when it was last used.
    pub(crate) fn load(&self, key: &CacheKey) -> Result<Option<(Record, Timestamp)>, RecordError> {
        let path = self.path(key);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error).into()),
        };
        let read = file.metadata().and_then(|found| {
            let mut bytes = Vec::with_capacity(found.len() as usize + 1);
            file.read_to_end(&mut bytes)?;
            Ok((found, bytes))
        });
        let (found, bytes) = read.map_err(StoreError::io("read", &path))?;
        let used = Timestamp {
            secs: found.mtime(),
            nanos: found.mtime_nsec() as u32,
        };
        match decode(&bytes).filter(|record| record.key == *key) {
            Some(record) => Ok(Some((record, used))),
            None => {
                drop(std::fs::remove_file(&path));
                Err(RecordError::Damaged { path })
            }
        }
    }

    pub(crate) fn path(&self, key: &CacheKey) -> PathBuf {
        let hex = key.hex();
        self.dir.join(&hex[..2]).join(hex)
    }

    fn slot(&self, slot: &str, kind: &str) -> PathBuf {
        let hex = blake3::hash(format!("{kind}\0{slot}").as_bytes()).to_hex();
        self.slots.join(&hex[..2]).join(hex.as_str())
    }
}

impl CacheBackend for Records {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordError> {
        let Some((record, used)) = self.load(key)? else {
            return Ok(None);
        };
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        if now.tv_sec.saturating_sub(used.secs) > USED_AGAIN {
            let times = Timestamps {
                last_access: now,
                last_modification: now,
            };
            // Only tells gc what is in use; whoever cannot write the store can still read it.
            let _ = rustix::fs::utimensat(CWD, self.path(key), &times, AtFlags::empty());
        }
        Ok(Some(record))
    }

    fn publish(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.key);
        self.journal.write(&path, &encode(record))?;
        let slot = self.slot(&record.slot, &record.record.kind);
        if !self.journal.link(&path, &slot)? {
            self.journal.write(&slot, record.key.hex().as_bytes())?;
        }
        Ok(())
    }

    fn latest(&self, slot: &str, kind: &str) -> Result<Option<Record>, RecordError> {
        let slot = file::read(&self.slot(slot, kind))?;
        match slot.and_then(|bytes| key_in_slot(&bytes)) {
            Some(key) => self.lookup(&key),
            None => Ok(None),
        }
    }
}

/// BLAKE3 of the body in hexadecimal, a line end, the body: JSON.
fn encode(record: &Record) -> Vec<u8> {
    let body = serde_json::to_vec(record).expect("a record can always be written as JSON");
    let mut bytes = blake3::hash(&body).to_hex().as_bytes().to_vec();
    bytes.push(b'\n');
    bytes.extend(body);
    bytes
}

/// The key that a slot's file tells; nothing if it is damaged.
pub(crate) fn key_in_slot(bytes: &[u8]) -> Option<CacheKey> {
    match std::str::from_utf8(bytes).ok()?.parse() {
        Ok(key) => Some(key),
        Err(_) => decode(bytes).map(|record| record.key),
    }
}

/// A record as it was encoded; nothing if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
    let (sum, body) = bytes.split_at_checked(blake3::OUT_LEN * 2)?;
    let body = body.strip_prefix(b"\n")?;
    if blake3::hash(body).to_hex().as_bytes() != sum {
        return None;
    }
    serde_json::from_slice(body).ok()
}
