//! Cache mounts in caches: what package managers fetched and compilers made, for machines that begin with nothing.
//!
//! Of a mount a cache has the list of its files, the list of their pieces and packs of pieces
//! ([`rbuild_cache::PackedFiles`]), each a blob. What of it changed since is sent, and nothing else.
//!
//! Always true:
//! - A mount is never part of a key, and nothing says that it is right: who may write it decides what steps find there. It is
//!   taken where none is on this machine, and by a step that runs, no sooner.
//! - Its id is there as a hash: an id may be a path, or a name that tells something. What is in its files is there as it is.
//! - It was nobody's while it was read.

use std::fs;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rbuild_cache::CacheMountName;
use rbuild_cache::LayerError;
use rbuild_cache::Node;
use rbuild_cache::Ownership;
use rbuild_cache::Pack;
use rbuild_cache::PackError;
use rbuild_cache::PackedFiles;
use rbuild_cache::Store;
use rbuild_cache::TreeError;
use rbuild_cache::TreeRef;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use serde::Deserialize;
use serde::Serialize;

use super::MAX_FILES;
use super::export::ExportError;
use super::export::sha256;
use super::place::Blob;
use super::place::CacheWriter;
use super::place::Trouble;
use super::read_whole_from;
use crate::registry;

/// The type of the list of a mount's files.
const FILES: &str = "application/vnd.rbuild.cache.mount.files.v1+zstd";
/// The type of the list of their pieces.
const PIECES: &str = "application/vnd.rbuild.cache.mount.pieces.v1+zstd";
/// The type of a pack of pieces.
const PACK: &str = "application/vnd.rbuild.cache.mount.pack.v1+zstd";
/// What comes in may be so many bytes in any case, and so many times as many as its packs have.
const FREE: u64 = 16 << 30;
const TIMES: u64 = 1100;

/// A cache mount that is in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// BLAKE3 of its id, hexadecimal.
    pub id: String,
    /// BLAKE3 of what it is when it is made, hexadecimal: mounts of one id that differ in it are different ones.
    pub begins: String,
    /// Its tree.
    pub tree: TreeRef,
    /// Bytes of its files.
    pub bytes: u64,
    /// The list of its files.
    pub files: Listed,
    /// The list of their pieces.
    pub pieces: Listed,
    /// What these are in.
    pub packs: Vec<Pack>,
}

/// A blob with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// SHA-256.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
}

/// The id of a mount as caches have it.
pub fn hash_of(id: &str) -> String {
    blake3::hash(id.as_bytes()).to_hex().to_string()
}

/// How a place opens a blob.
pub type OpenAt<'a> = dyn Fn(&OciDigest, u64) -> Result<Blob, Trouble> + Sync + 'a;

/// Why a mount was not made of what a cache has.
pub enum Failure {
    /// It did not come, or was not what it should be.
    Far(Trouble),
    /// It could not be written here.
    Here(LayerError),
}

impl Mount {
    /// Whether it is the mount of that name.
    pub fn is(&self, name: &CacheMountName) -> bool {
        self.id == hash_of(&name.id) && self.begins == hash_of(&name.begins)
    }

    /// All its blobs, with their types.
    pub fn blobs(&self) -> impl Iterator<Item = (OciDigest, u64, &'static str)> {
        let lists = [(self.files, FILES), (self.pieces, PIECES)];
        let lists = lists.map(|(list, media_type)| (list.digest, list.size, media_type));
        let packs = self.packs.iter();
        let packs = packs.map(|pack| (pack.digest, pack.size, PACK));
        lists.into_iter().chain(packs)
    }

    /// Brings its lists in.
    fn lists(&self, store: &Store, open: &OpenAt<'_>) -> Result<PackedFiles, Trouble> {
        let read = |list: Listed| {
            let read = read_whole_from(open, &list.digest, list.size, MAX_FILES);
            read.map_err(|trouble| trouble.of("a list"))
        };
        let trees = store.trees();
        let files = read(self.files)?;
        trees
            .unpack(&self.tree, &mut files.as_slice())
            .map_err(|error| Trouble::with(super::chain(&error)))?;
        let pieces = read(self.pieces)?;
        let packs = self.packs.clone();
        let parsed = PackedFiles::parse(&pieces, packs, trees, &self.tree.tree);
        parsed.map_err(|problem| Trouble::with(format!("a list of pieces {problem}")))
    }

    /// Nothing that it says is trusted: what would fill the disk is not begun.
    fn check(&self, store: &Store, packed: &PackedFiles) -> Result<(), Trouble> {
        let failed = |what: &str| Trouble::with(format!("a cache mount {what}"));
        let bytes = bytes_of(store, &self.tree.tree);
        let bytes = bytes.map_err(|error| failed(&super::chain(&error)))?;
        if bytes != self.bytes {
            return Err(failed("has other files than it says"));
        }
        let sum = |number: fn(&Pack) -> u64| {
            let numbers = packed.packs.iter().map(number);
            numbers.fold(0, u64::saturating_add)
        };
        let most = FREE.saturating_add(sum(|pack| pack.size).saturating_mul(TIMES));
        match bytes.max(sum(|pack| pack.length)) <= most {
            true => Ok(()),
            false => Err(failed("comes to too many bytes")),
        }
    }

    /// Makes the new directory `into` what it is.
    ///
    /// # Errors
    /// If it did not come, or cannot be written.
    pub fn write(
        &self,
        store: &Store,
        open: &OpenAt<'_>,
        into: &Path,
        owners: Ownership,
        cancel: &CancelToken,
    ) -> Result<(), Failure> {
        let packed = self.lists(store, open).map_err(Failure::Far)?;
        self.check(store, &packed).map_err(Failure::Far)?;
        let here = |source| {
            Failure::Here(LayerError::Directory {
                action: "make",
                path: into.display().to_string(),
                source,
            })
        };
        let scratch = store.scratch();
        let scratch = scratch.map_err(|error| here(io::Error::other(error)))?;
        // One file for all: there may be more packs than a process may have files open.
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let opened = options.open(scratch.path().join("packs")).map_err(here)?;
        let starts = packed.starts();
        let packs: Vec<(&Pack, u64)> = packed.packs.iter().zip(starts).collect();
        registry::side_by_side(&packs, |&(pack, start)| {
            if cancel.is_cancelled() {
                return Err(Failure::Here(LayerError::Cancelled));
            }
            let from = open(&pack.digest, pack.size);
            let from =
                from.map_err(|trouble| Failure::Far(trouble.of("a pack of a cache mount")))?;
            pack.open(from, &opened, start)
                .map_err(|error| match error {
                    PackError::Write(error) => here(error),
                    PackError::Read(error) => {
                        let what = format!("a pack of a cache mount: {}", super::chain(&error));
                        Failure::Far(Trouble::with(what))
                    }
                })
        })?;
        fs::create_dir(into).map_err(here)?;
        let trees = store.trees();
        packed
            .write(trees, &self.tree.tree, into, &opened, owners, cancel)
            .map_err(|error| match error {
                LayerError::FileChanged { path } => {
                    Failure::Far(Trouble::with(format!("has another `{path}` than it says")))
                }
                error => Failure::Here(error),
            })
    }
}

/// A mount that is to be written.
pub struct Local<'a> {
    /// What it is found by.
    pub name: &'a CacheMountName,
    /// What is in it.
    pub tree: TreeRef,
    /// Where. Nobody writes to it.
    pub dir: &'a Path,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Brings a mount to where a cache is written; what it has of `earlier` is not sent again, unless it is `doubted`. How many bytes
/// were sent comes with it.
///
/// # Errors
/// If the mount cannot be read, or the place does not take it.
pub fn export(
    store: &Store,
    to: &dyn CacheWriter,
    local: &Local<'_>,
    earlier: Option<&Mount>,
    doubted: &(dyn Fn(&OciDigest) -> bool + Sync),
    cancel: &CancelToken,
) -> Result<(Mount, u64), ExportError> {
    let has =
        |digest: &OciDigest, size| Ok::<_, ExportError>(!doubted(digest) && to.has(digest, size)?);
    if let Some(earlier) = earlier
        && earlier.tree == local.tree
    {
        let mut blobs = earlier.blobs();
        if blobs.try_fold(true, |all, (digest, size, _)| {
            Ok::<_, ExportError>(all && has(&digest, size)?)
        })? {
            let (id, begins) = (hash_of(&local.name.id), hash_of(&local.name.begins));
            return Ok((
                Mount {
                    id,
                    begins,
                    ..earlier.clone()
                },
                0,
            ));
        }
    }
    // What cannot be read of it, or not be believed, is sent again.
    let open = |digest: &OciDigest, size| to.blob(digest, size);
    let known = earlier.filter(|earlier| {
        let lists = [earlier.files.digest, earlier.pieces.digest];
        lists.iter().all(|list| !doubted(list))
    });
    let known = known.and_then(|earlier| earlier.lists(store, &open).ok());
    let sent = AtomicU64::new(0);
    let put = |digest: &OciDigest, bytes: &[u8]| {
        if doubted(digest) {
            to.mistrust(digest)?;
        }
        if to.put_bytes(digest, bytes)? {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok::<(), ExportError>(())
    };
    let trees = store.trees();
    let tree = local.tree.tree;
    let pack = |known: &PackedFiles| {
        PackedFiles::pack(
            trees,
            &tree,
            local.dir,
            known,
            |pack: &Pack| has(&pack.digest, pack.size),
            |pack: &Pack, bytes: &[u8]| put(&pack.digest, bytes),
            cancel,
        )
    };
    let packed = match (known, PackedFiles::default()) {
        (None, nothing) => pack(&nothing)?,
        (Some(known), nothing) => match pack(&known) {
            // It may be the earlier list that says what is not so.
            Err(ExportError::Mount(LayerError::FileChanged { .. })) => pack(&nothing)?,
            packed => packed?,
        },
    };
    let list = |bytes: Vec<u8>| {
        let digest = sha256(&bytes);
        let size = bytes.len() as u64;
        if size > MAX_FILES {
            let what = format!("a list of {size} bytes, which nobody would read");
            return Err(ExportError::Source {
                source: io::Error::other(what),
            });
        }
        put(&digest, &bytes)?;
        Ok::<_, ExportError>(Listed { digest, size })
    };
    let mount = Mount {
        id: hash_of(&local.name.id),
        begins: hash_of(&local.name.begins),
        tree: local.tree,
        bytes: local.bytes,
        files: list(trees.pack(&tree)?)?,
        pieces: list(packed.to_bytes(trees, &tree)?)?,
        packs: packed.packs,
    };
    Ok((mount, sent.into_inner()))
}

/// Brings a mount that another cache has to where a cache is written, as it is. Whether it came.
///
/// # Errors
/// If the place does not take it.
pub fn carry(to: &dyn CacheWriter, mount: &Mount, open: &OpenAt<'_>) -> Result<bool, ExportError> {
    let blobs: Vec<(OciDigest, u64)> = mount
        .blobs()
        .map(|(digest, size, _)| (digest, size))
        .collect();
    // One that does not come is reason enough to begin with no other.
    let carried = registry::side_by_side(&blobs, |(digest, size)| {
        if to.has(digest, *size).map_err(Some)? {
            return Ok(());
        }
        // None is large.
        let bytes = read_whole_from(open, digest, *size, MAX_FILES).map_err(|_| None)?;
        to.put_bytes(digest, &bytes).map(drop).map_err(Some)
    });
    match carried {
        Ok(_) => Ok(true),
        Err(None) => Ok(false),
        Err(Some(error)) => Err(error),
    }
}

/// Bytes of the files of a tree, each name counted.
pub fn bytes_of(store: &Store, tree: &TreeId) -> Result<u64, TreeError> {
    let mut bytes = 0_u64;
    store.trees().walk(tree, &mut |_, entry| {
        if let Node::File(file) = &entry.node {
            bytes = bytes.saturating_add(file.size);
        }
        ControlFlow::Continue(())
    })?;
    Ok(bytes)
}
