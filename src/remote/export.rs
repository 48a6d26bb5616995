//! Writes a cache.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;
use rbuild_cache::BlobError;
use rbuild_cache::LayerError;
use rbuild_cache::LayerRef;
use rbuild_cache::Store;
use rbuild_cache::TreeError;
use rbuild_cache::TreeRef;
use rbuild_llb::OciDigest;
use rbuild_llb::event::Timestamp;
use sha2::Digest as _;
use sha2::Sha256;

use super::catalogue::Bytes;
use super::catalogue::Catalogue;
use super::catalogue::Files;
use super::catalogue::Identity;
use super::catalogue::Known;
use super::catalogue::Layer;
use super::catalogue::Pack;
use super::catalogue::identity;
use super::mounts::Mount;
use super::pack;
use super::place::CacheWriter;
use crate::clock;
use crate::registry;

/// Why a cache could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The destination.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The destination holds something else.
    #[error("`{}` has an `index.json` that is not that of an OCI image layout", path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
    },
    /// The destination is elsewhere, and refused.
    #[error("cannot write to `{place}`")]
    Place {
        /// What it is called.
        place: String,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// What was to be sent.
    #[error("cannot read what is to be sent")]
    Source {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A tree.
    #[error("cannot list the files of a layer")]
    Tree(#[from] TreeError),
    /// A blob.
    #[error("cannot read a layer")]
    Blob(#[from] BlobError),
    /// A cache mount.
    #[error("cannot read a cache mount")]
    Mount(#[from] LayerError),
}

impl ExportError {
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// Brings cache mounts to a place, and says which are there.
pub type BringMounts<'a> = dyn FnMut(&dyn CacheWriter) -> Result<Vec<Mount>, ExportError> + 'a;

/// Writes what is known of steps, in the place of what was there, and the cache mounts that `mounts` brings there, which is
/// called once the rest is. `bytes` says where those of each layer are; blobs that the
/// cache itself is to have are in the store, or where it is written to. Of what is `doubted` it is not believed that the place
/// has it. `did` is told what was written, and when that began.
///
/// # Errors
/// If it cannot be written. What was there is there then still.
pub fn export(
    store: &Store,
    to: Box<dyn CacheWriter + '_>,
    known: &[Known],
    bytes: &BTreeMap<Identity, Bytes>,
    mounts: &mut BringMounts<'_>,
    doubted: &BTreeSet<OciDigest>,
    did: &(dyn Fn(&str, Timestamp) + Sync),
) -> Result<(), ExportError> {
    let mut layers: BTreeMap<_, &LayerRef> = BTreeMap::new();
    for snapshot in known.iter().flat_map(|step| step.answer.outputs.iter()) {
        layers.extend(snapshot.layers.iter().map(|layer| (identity(layer), layer)));
    }
    let trees: BTreeSet<TreeRef> = layers.values().map(|layer| layer.layer).collect();
    let listed = list_files(store, &*to, &trees, to.earlier(), doubted)?;
    // What is there may have been written by another zstd.
    let Listed { files, packs } = match listed {
        Some(listed) => listed,
        None => {
            list_files(store, &*to, &trees, None, doubted)?.ok_or_else(|| ExportError::Source {
                source: io::Error::other("a list of files is not the same twice"),
            })?
        }
    };
    let entry = |(identity, layer): (Identity, &LayerRef)| {
        let entry = Layer {
            layer: layer.layer,
            created: layer.created,
            single: layer.single,
            files: files[&layer.layer],
            bytes: bytes[&identity].clone(),
        };
        (identity, entry)
    };
    let entries: BTreeMap<Identity, Layer> = layers.into_iter().map(entry).collect();
    let blobs: BTreeSet<_> = entries
        .values()
        .filter_map(|layer| layer.blob().map(|(digest, size, _)| (digest, size)))
        .collect();
    let blobs: Vec<(OciDigest, u64)> = blobs.into_iter().collect();
    registry::side_by_side(&blobs, |&(digest, size)| {
        let began = clock::now();
        let open = || {
            let blob = store.blobs().open(&digest).map_err(io::Error::other)?;
            Ok(Box::new(blob) as Box<dyn io::Read>)
        };
        if to.put(&digest, size, &open)? {
            did(&layer_written(&digest), began);
        }
        Ok::<_, ExportError>(())
    })?;
    let mounts = mounts(&*to)?;
    let catalogue = Catalogue::of(known, &entries, packs, mounts);
    let began = clock::now();
    to.publish(&catalogue.to_json(), catalogue.blobs(), &|what| {
        did(what, began)
    })
}

/// How progress calls the upload of a layer.
pub fn layer_written(digest: &OciDigest) -> String {
    format!("writing layer {digest}")
}

/// Where lists of files are.
struct Listed {
    files: BTreeMap<TreeRef, Files>,
    packs: Vec<Pack>,
}

/// Brings the lists of files of layers there, the small ones in packs. Nothing comes of it if lists that are named in
/// `earlier` would be others now. What is `doubted` is brought there again.
fn list_files(
    store: &Store,
    to: &dyn CacheWriter,
    trees: &BTreeSet<TreeRef>,
    earlier: Option<&Catalogue>,
    doubted: &BTreeSet<OciDigest>,
) -> Result<Option<Listed>, ExportError> {
    // What the cache knows already need not be made again; it is the same for the same tree.
    let of_earlier = |catalogue: &Catalogue| -> BTreeMap<TreeRef, Files> {
        let layers = catalogue.layers.iter();
        let files = layers.map(|layer| (layer.layer, layer.files));
        files
            .filter(|(_, files)| !doubted.contains(&files.digest))
            .collect()
    };
    let put = |digest: &OciDigest, bytes: &[u8]| {
        if doubted.contains(digest) {
            to.mistrust(digest)?;
        }
        to.put_bytes(digest, bytes)
    };
    let earlier_files = earlier.map(of_earlier).unwrap_or_default();
    let list = |tree: &TreeRef| -> Result<(TreeRef, Files), ExportError> {
        let tree = *tree;
        if let Some(files) = earlier_files.get(&tree) {
            return Ok((tree, Files { at: None, ..*files }));
        }
        let pack = store.trees().pack(&tree.tree)?;
        let digest = sha256(&pack);
        let size = pack.len() as u64;
        if size > pack::SMALL {
            put(&digest, &pack)?;
        }
        let at = None;
        Ok((tree, Files { digest, size, at }))
    };
    let files = trees.par_iter().map(list);
    let mut files: BTreeMap<TreeRef, Files> = files.collect::<Result<_, _>>()?;
    let tree_of: BTreeMap<OciDigest, TreeRef> = files
        .iter()
        .map(|(tree, files)| (files.digest, *tree))
        .collect();
    let sizes: BTreeMap<OciDigest, u64> = files
        .values()
        .map(|files| (files.digest, files.size))
        .collect();
    let groups = pack::groups(sizes.iter().map(|(digest, size)| (*digest, *size)));
    let known = earlier.map(packs_of).unwrap_or_default();
    let made_again = |digest: &OciDigest| -> Result<Option<Vec<u8>>, ExportError> {
        let bytes = store.trees().pack(&tree_of[digest].tree)?;
        Ok((sha256(&bytes) == *digest).then_some(bytes))
    };
    let make = |group: &Vec<OciDigest>| -> Result<Option<Pack>, ExportError> {
        if let Some(pack) = known.get(group)
            && !doubted.contains(&pack.digest)
        {
            return Ok(Some(*pack));
        }
        let mut bytes = Vec::new();
        for digest in group {
            match made_again(digest)? {
                Some(list) => bytes.extend(list),
                None => return Ok(None),
            }
        }
        let digest = sha256(&bytes);
        put(&digest, &bytes)?;
        let size = bytes.len() as u64;
        Ok(Some(Pack { digest, size }))
    };
    let packs = groups.par_iter().map(make);
    let packs: Vec<Option<Pack>> = packs.collect::<Result<_, _>>()?;
    let Some(packs) = packs.into_iter().collect::<Option<Vec<Pack>>>() else {
        return Ok(None);
    };
    let mut places: BTreeMap<OciDigest, (usize, u64)> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let mut offset = 0;
        for digest in group {
            places.insert(*digest, (at, offset));
            offset += sizes[digest];
        }
    }
    for (tree, files) in &mut files {
        files.at = places.get(&files.digest).copied();
        let alone = files.at.is_none() && files.size <= pack::SMALL;
        if alone && earlier_files.get(tree) != Some(files) {
            match made_again(&files.digest)? {
                Some(list) => put(&files.digest, &list)?,
                None => return Ok(None),
            };
        }
    }
    Ok(Some(Listed { files, packs }))
}

/// The packs of a catalogue, by what is in them, in order.
fn packs_of(catalogue: &Catalogue) -> BTreeMap<Vec<OciDigest>, Pack> {
    let mut members: Vec<BTreeMap<u64, OciDigest>> = vec![BTreeMap::new(); catalogue.packs.len()];
    for Files { digest, at, .. } in catalogue.layers.iter().map(|layer| layer.files) {
        if let Some((pack, offset)) = at {
            members[pack].insert(offset, digest);
        }
    }
    let members = members.into_iter().map(|of| of.into_values().collect());
    members.zip(catalogue.packs.iter().copied()).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> OciDigest {
    OciDigest::from_bytes(Sha256::digest(bytes).into())
}
