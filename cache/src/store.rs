//! Opening the store, and what does not deserve a room of its own: pins, scratch directories.

mod form;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

pub use form::FormReader;
pub use form::LayerForm;
pub use form::MAX_DELTAS;
pub(crate) use form::PLAIN;
use rbuild_llb::ContentDigest;
use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use serde::Deserialize;
use serde::Serialize;

use crate::blobs::Blobs;
use crate::builds::Builds;
use crate::file;
use crate::frame::Compression;
use crate::images::Images;
use crate::journal::Journal;
use crate::layer::BLOB_VERSION;
use crate::layer::BlobOptions;
use crate::layer::EarlierFrames;
use crate::layer::FrameTable;
use crate::layer::LayerBlob;
use crate::layer::Layout;
use crate::lease::Lease;
use crate::lease::Locked;
use crate::records::Records;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// The directories that every store has from the first; others come when they are needed.
pub(crate) const PARTS: [&str; 8] = [
    "tmp", "trash", "leases", "images", "layers", "stats", "mounts", "unsynced",
];

/// Of how many blobs the frames are looked through. The same layer of another build is seldom far back.
const FRAME_TABLES: usize = 64;
/// And how large their tables may be together, in bytes.
const MAX_FRAME_TABLES: u64 = 16 << 20;

/// The store of one user. Any number of processes may have it open.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    blobs: Blobs,
    trees: Trees,
    records: Records,
    builds: Builds,
    images: Images,
    journal: Journal,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It belongs to somebody else.
    #[error("the store `{}` belongs to user {owner}, and this is user {user}: choose another with `--root`", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// A directory above it may not be entered.
    #[error("the store `{}` cannot be reached: `{}` belongs to user {owner} and is closed to user {user}: choose another with `--root`", path.display(), closed.display())]
    Closed {
        /// The store's directory.
        path: PathBuf,
        /// The directory above it.
        closed: PathBuf,
        /// Whose that is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Something that is no directory is in its place.
    #[error("the store `{}` is not a directory: remove it, or choose another with `--root`", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file of it cannot be read or written.
    #[error("cannot {action} `{}` in the store{}", path.display(), advice(source))]
    Io {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of it says something else than it should.
    #[error("`{}` in the store is damaged; it is ignored once it is removed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full (`rbuild prune` frees what can be made again; `--root` chooses another place)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            ": the file system is read-only (choose another place with `--root`)"
        }
        io::ErrorKind::PermissionDenied => {
            ": permission denied (choose another place with `--root`)"
        }
        _ => "",
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source: crate::file::plain(source),
        }
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        let full = |kind| {
            matches!(
                kind,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        matches!(self, Self::Io { source, .. } if full(source.kind()))
    }
}

/// Who a tag was last time it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPin {
    /// Digest of the platform's manifest; the manifest and its config are blobs.
    pub manifest: OciDigest,
    /// Digest of the index it was chosen from.
    pub index: Option<OciDigest>,
    /// When the registry was asked, Unix seconds.
    pub checked: u64,
}

/// What a URL last gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredUrl {
    /// SHA-256 of the content, which is a blob.
    pub checksum: OciDigest,
    /// BLAKE3 of it.
    pub digest: FileDigest,
    /// Its bytes.
    pub size: u64,
    /// `ETag`, as the server sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`, as the server sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// The same in Unix seconds; 0 where it sent none, or none that can be read.
    pub modified: i64,
}

/// What is known of a blob that was pulled or written: the tree it unpacks to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLayer {
    /// The tree.
    pub layer: TreeRef,
    /// SHA-256 of the uncompressed tar.
    pub diff_id: OciDigest,
    /// Bytes of the uncompressed tar.
    pub tar_size: u64,
}

/// The blobs made of one layer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LayerBlobs {
    blobs: Vec<Written>,
}

impl LayerBlobs {
    /// The blobs' digests.
    pub(crate) fn digests(&self) -> Vec<OciDigest> {
        let blobs = self.blobs.iter();
        blobs.map(|written| written.blob.digest).collect()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// The [`BLOB_VERSION`] it was written with.
    version: u32,
    options: BlobOptions,
    blob: LayerBlob,
    /// Where its bytes are if they are not here: what an [`Origin`](crate::Origin) has as its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elsewhere: Option<String>,
}

impl Written {
    /// Whether that is what is written with these options, in a layout that this version of rbuild writes.
    fn is(&self, version: u32, options: &BlobOptions) -> bool {
        self.is_alike(version, options, Layout::Tar)
    }

    fn is_alike(&self, version: u32, options: &BlobOptions, layout: Layout) -> bool {
        (self.version, self.options, self.blob.layout) == (version, *options, layout)
    }
}

impl Store {
    /// Opens the store below `root`, making it if it is not there. Its files are the user's own, mode 0700.
    ///
    /// # Errors
    /// If it belongs to somebody else or cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let metadata = match look(root)? {
            Some(metadata) => metadata,
            None => make(&root.join("v1"))?,
        };
        Self::of(root, &metadata)
    }

    /// Opens the store below `root`, if there is one.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path) -> Result<Option<Self>, StoreError> {
        let metadata = look(root)?;
        metadata
            .map(|metadata| Self::of(root, &metadata))
            .transpose()
    }

    fn of(root: &Path, metadata: &fs::Metadata) -> Result<Self, StoreError> {
        let path = root.join("v1");
        if !metadata.is_dir() {
            return Err(StoreError::NotADirectory { path });
        }
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(StoreError::Owner {
                path,
                owner: metadata.uid(),
                user,
            });
        }
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)
            .map_err(|e| StoreError::io("write", &path)(e.into()))?;
        let journal = Journal::open(&path)?;
        Ok(Self {
            blobs: Blobs::new(path.join("blobs/sha256"), journal.clone()),
            trees: Trees::open(&path.join("trees")),
            records: Records::new(&path, journal.clone()),
            builds: Builds::new(path.join("builds"), journal.clone()),
            images: Images::new(path.join("images"), journal.clone()),
            journal,
            path,
        })
    }

    /// The directory of this version's store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The OCI blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The trees.
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// What the last builds did.
    pub fn builds(&self) -> &Builds {
        &self.builds
    }

    /// The cache records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The named images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// A private directory for work in progress, on the store's file system.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        let parent = self.path.join("tmp");
        let lock = Locked::create(&parent)?;
        let path = lock.path().with_extension("d");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok(Scratch {
            path,
            trash: self.path.join("trash"),
            lock: Some(lock),
        })
    }

    /// Announces a build: what it names in the lease is not collected while it lives.
    ///
    /// # Errors
    /// If the lease cannot be written.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Lease::create(&self.path.join("leases"))
    }

    /// Whether any layer has a directory form.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn has_forms(&self) -> Result<bool, StoreError> {
        Ok(!file::below(&self.path.join("layers"), 2)?.is_empty())
    }

    fn sharded(&self, kind: &str, hex: &str) -> PathBuf {
        self.path
            .join(kind)
            .join(&hex[..2])
            .join(format!("{hex}.json"))
    }

    fn blobs_of(&self, layer: &TreeId) -> Result<LayerBlobs, StoreError> {
        Ok(file::read_cached(&self.sharded("layer-blobs", &layer.hex()))?.unwrap_or_default())
    }

    /// The blob of a layer that was written with `options`, as this version of rbuild would write it. Its bytes may be gone: see [`Blobs::contains`].
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn layer_blob(
        &self,
        layer: &TreeId,
        options: &BlobOptions,
    ) -> Result<Option<LayerBlob>, StoreError> {
        let known = self.blobs_of(layer)?.blobs;
        let mut known = known.into_iter();
        let same = known.find(|written| written.is(BLOB_VERSION, options));
        Ok(same.map(|written| written.blob))
    }

    /// The same, also where it was never written: of a compressed blob the plain one is known.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn known_blob(
        &self,
        layer: &TreeId,
        options: &BlobOptions,
    ) -> Result<Option<LayerBlob>, StoreError> {
        if options.compression != Compression::None {
            return self.layer_blob(layer, options);
        }
        let known = self.blobs_of(layer)?.blobs;
        let mut known = known.into_iter();
        let same = known.find(|written| {
            written.blob.layout == Layout::Tar
                && (written.version, written.options.clamp) == (BLOB_VERSION, options.clamp)
        });
        Ok(same.map(|written| LayerBlob {
            digest: written.blob.diff_id,
            size: written.blob.tar_size,
            compression: Compression::None,
            ..written.blob
        }))
    }

    /// All blobs that were made of a layer, those with other times among them: each has the bytes of its files.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn all_layer_blobs(&self, layer: &TreeId) -> Result<Vec<LayerBlob>, StoreError> {
        let known = self.blobs_of(layer)?.blobs;
        Ok(known.into_iter().map(|written| written.blob).collect())
    }

    /// With which options the blob was made of a layer, if this version of rbuild would make the same bytes again.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn written_with(
        &self,
        layer: &TreeId,
        blob: &OciDigest,
    ) -> Result<Option<BlobOptions>, StoreError> {
        let known = self.blobs_of(layer)?.blobs;
        let same = |written: &&Written| {
            written.is(BLOB_VERSION, &written.options) && written.blob.digest == *blob
        };
        Ok(known.iter().find(same).map(|written| written.options))
    }

    /// All blobs that were made of a layer as it is, with its own times.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn layer_blobs(&self, layer: &TreeId) -> Result<Vec<LayerBlob>, StoreError> {
        let known = self.blobs_of(layer)?.blobs;
        Ok(known
            .into_iter()
            .filter(|written| written.options.clamp.is_none())
            .map(|written| written.blob)
            .collect())
    }

    /// Remembers a layer's blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_layer_blob(
        &self,
        layer: &TreeId,
        options: &BlobOptions,
        blob: &LayerBlob,
    ) -> Result<(), StoreError> {
        let mut known = self.blobs_of(layer)?;
        known
            .blobs
            .retain(|written| (written.options, written.blob.layout) != (*options, blob.layout));
        known.blobs.push(Written {
            version: BLOB_VERSION,
            options: *options,
            blob: blob.clone(),
            elsewhere: None,
        });
        self.write(&self.sharded("layer-blobs", &layer.hex()), &known)
    }

    /// Remembers a blob of a layer that another store wrote, with the [`BLOB_VERSION`] it did that with, and where its
    /// bytes are. What this store wrote itself counts more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_layer_blob_elsewhere(
        &self,
        layer: &TreeId,
        version: u32,
        options: &BlobOptions,
        blob: &LayerBlob,
        place: &str,
    ) -> Result<(), StoreError> {
        let mut known = self.blobs_of(layer)?;
        let own = |written: &Written| {
            written.elsewhere.is_none() || self.blobs.contains(&written.blob.digest)
        };
        match known
            .blobs
            .iter_mut()
            .find(|written| written.is_alike(version, options, blob.layout))
        {
            Some(written) if written.blob == *blob => {
                if written.elsewhere.as_deref() == Some(place) {
                    return Ok(());
                }
                written.elsewhere = Some(place.to_owned());
            }
            Some(written) if own(written) => return Ok(()),
            _ => {
                let other = |written: &Written| !written.is_alike(version, options, blob.layout);
                known.blobs.retain(other);
                known.blobs.push(Written {
                    version,
                    options: *options,
                    blob: blob.clone(),
                    elsewhere: Some(place.to_owned()),
                });
            }
        }
        self.write(&self.sharded("layer-blobs", &layer.hex()), &known)
    }

    /// The blobs of a layer with its own times that can be had from elsewhere, and where.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn layer_blobs_elsewhere(
        &self,
        layer: &TreeId,
    ) -> Result<Vec<(LayerBlob, String)>, StoreError> {
        let known = self.blobs_of(layer)?.blobs;
        let places = known
            .into_iter()
            .filter(|written| written.options.clamp.is_none())
            .filter_map(|written| Some((written.blob, written.elsewhere?)));
        Ok(places.collect())
    }

    /// The frames of the blobs that were compressed last, as far as their blobs are there: for [`Reuse`](crate::Reuse).
    /// What is damaged is left out.
    pub fn earlier_frames(&self) -> EarlierFrames {
        let mut tables = Vec::new();
        for path in file::below(&self.path.join("frames"), 2).unwrap_or_default() {
            if let Ok(found) = fs::symlink_metadata(&path)
                && let Ok(modified) = found.modified()
            {
                tables.push((modified, path, found.len()));
            }
        }
        tables.sort_unstable();
        let mut earlier = EarlierFrames::default();
        let mut left = MAX_FRAME_TABLES;
        // Of tars that were only hashed there is no blob.
        let tables = tables.into_iter().rev().filter_map(|(_, path, len)| {
            let name = path.file_name()?.to_string_lossy();
            let digest = format!("sha256:{name}").parse().ok()?;
            self.blobs()
                .contains(&digest)
                .then_some((path, len, digest))
        });
        for (path, len, digest) in tables.take(FRAME_TABLES) {
            let Some(rest) = left.checked_sub(len) else {
                break;
            };
            left = rest;
            if let Ok(Some(bytes)) = file::read(&path)
                && let Some(table) = FrameTable::decode(&bytes)
                && let Ok(blob) = self.blobs().open(&digest)
                && blob
                    .metadata()
                    .is_ok_and(|found| found.len() == table.size())
            {
                earlier.add(table, blob);
            }
        }
        earlier
    }

    /// The frames of one blob, which need not be there, unless they are not known or damaged.
    pub fn frames(&self, blob: &OciDigest) -> Option<FrameTable> {
        let bytes = file::read(&self.frames_path(blob)).ok()??;
        FrameTable::decode(&bytes)
    }

    /// Remembers the frames of a blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_frames(&self, blob: &OciDigest, table: &FrameTable) -> Result<(), StoreError> {
        self.journal.write(&self.frames_path(blob), &table.encode())
    }

    fn frames_path(&self, blob: &OciDigest) -> PathBuf {
        let hex = blob.hex();
        self.path.join("frames").join(&hex[..2]).join(&hex)
    }

    /// Where it is kept what tree a blob unpacks to.
    pub(crate) fn known_path(&self, blob: &OciDigest) -> PathBuf {
        self.sharded("known", &blob.hex())
    }

    /// The tree of a blob that was seen before.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub fn known_layer(&self, blob: &OciDigest) -> Result<Option<KnownLayer>, StoreError> {
        file::read_cached(&self.sharded("known", &blob.hex()))
    }

    /// Remembers the tree of a blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_known_layer(&self, blob: &OciDigest, known: &KnownLayer) -> Result<(), StoreError> {
        self.write(&self.sharded("known", &blob.hex()), known)
    }

    /// What is pinned under `key`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pin(&self, key: &str) -> Result<Option<StoredPin>, StoreError> {
        file::read_cached(&self.sharded("pins", &hash(key)))
    }

    /// Pins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_pin(&self, key: &str, pin: &StoredPin) -> Result<(), StoreError> {
        self.write(&self.sharded("pins", &hash(key)), pin)
    }

    /// What a URL last gave; its blob may be gone. The URL, which may hold secrets, is not written anywhere.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn url(&self, url: &str) -> Result<Option<StoredUrl>, StoreError> {
        file::read_cached(&self.sharded("urls", &hash(url)))
    }

    /// Remembers what a URL gave.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_url(&self, url: &str, stored: &StoredUrl) -> Result<(), StoreError> {
        self.write(&self.sharded("urls", &hash(url)), stored)
    }

    /// The file that remembers the stats of a context's files. `selection` tells apart what is read of one directory.
    pub fn stat_cache(&self, context: &Path, selection: &str) -> PathBuf {
        let context = std::path::absolute(context).unwrap_or_else(|_| context.to_owned());
        self.path
            .join("stats")
            .join(hash(&format!("{}\0{selection}", context.display())))
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        self.journal.write_json(path, value)
    }

    /// Says that something is about to get its final name that no sync has covered.
    pub(crate) fn mark_unsynced(&self) -> Result<(), StoreError> {
        self.journal.note()
    }

    /// Whether anything was published through this handle; see [`Store::sync`].
    pub fn has_published(&self) -> bool {
        self.journal.has_notes()
    }

    /// Makes everything durable that was published so far: one `syncfs(2)`, which may take long. Meant to be run
    /// by a process nobody waits for.
    ///
    /// # Errors
    /// If the file system reports a write error; then what was published stays marked as not durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.journal.settle()
    }
}

/// What is where the store below `root` would be.
fn look(root: &Path) -> Result<Option<fs::Metadata>, StoreError> {
    match fs::metadata(root.join("v1")) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(StoreError::NotADirectory {
                path: root.to_owned(),
            })
        }
        Err(error) => Err(refused(root, error)),
    }
}

/// Makes a store: aside, so that one that is there is complete.
fn make(path: &Path) -> Result<fs::Metadata, StoreError> {
    let root = path.parent().unwrap_or(path);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => StoreError::NotADirectory {
            path: root.to_owned(),
        },
        _ => StoreError::io("create", root)(error),
    })?;
    let aside = tempfile::Builder::new()
        .prefix(".v1-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(root)
        .map_err(StoreError::io("create a directory in", root))?;
    for name in PARTS {
        let part = aside.path().join(name);
        fs::create_dir(&part).map_err(StoreError::io("create", &part))?;
    }
    let renamed = fs::rename(aside.path(), path);
    match (fs::metadata(path), renamed) {
        // Another process may have been quicker.
        (Ok(metadata), _) => Ok(metadata),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(StoreError::io("create", path)(error)),
    }
}

/// Why the store in `root` cannot even be looked at. stat(2) needs every directory on the way to be open: the last one
/// that can be looked at is the one that is not.
fn refused(root: &Path, error: io::Error) -> StoreError {
    let user = rustix::process::geteuid().as_raw();
    let last = root
        .ancestors()
        .find_map(|dir| Some((dir, fs::metadata(dir).ok()?.uid())));
    match last {
        Some((closed, owner))
            if error.kind() == io::ErrorKind::PermissionDenied && owner != user =>
        {
            let path = root.to_owned();
            match closed == root {
                true => StoreError::Owner { path, owner, user },
                false => StoreError::Closed {
                    path,
                    closed: closed.to_owned(),
                    owner,
                    user,
                },
            }
        }
        _ => StoreError::io("open", &root.join("v1"))(error),
    }
}

fn hash(text: &str) -> String {
    ContentDigest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()).hex()
}

/// A directory for work in progress. What is left in it is thrown away when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    trash: PathBuf,
    lock: Option<Locked>,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Scratch {
    /// Throws away what is left in it without waiting until it is gone: [`Store::empty_trash`] does that.
    pub fn discard(self) {
        if let Some(name) = self.path.file_name() {
            // If this fails, dropping it will try once more, and remove it there.
            drop(fs::rename(&self.path, self.trash.join(name)));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Renamed first: an interrupted removal leaves garbage only where garbage is looked for. What cannot be
        // removed here (files of ids that are not mapped) is left there for gc.
        let victim = self
            .path
            .file_name()
            .map(|name| self.trash.join(name))
            .unwrap_or_default();
        let gone = match fs::rename(&self.path, &victim) {
            Ok(()) => file::remove(&victim),
            Err(_) => file::remove(&self.path),
        };
        drop(gone);
        drop(self.lock.take());
    }
}

#[cfg(test)]
mod tests;
