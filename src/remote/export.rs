//! Writes a cache.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;
use rbuild_cache::BlobError;
use rbuild_cache::LayerRef;
use rbuild_cache::Store;
use rbuild_cache::TreeError;
use rbuild_llb::OciDigest;
use rbuild_llb::event::Timestamp;
use sha2::Digest as _;
use sha2::Sha256;

use super::CACHE;
use super::CATALOGUE;
use super::FILES;
use super::catalogue::Bytes;
use super::catalogue::Catalogue;
use super::catalogue::Files;
use super::catalogue::Identity;
use super::catalogue::Known;
use super::catalogue::Layer;
use super::catalogue::identity;
use super::directory::Directory;
use crate::clock;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Manifest;

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
    /// A tree.
    #[error("cannot list the files of a layer")]
    Tree(#[from] TreeError),
    /// A blob.
    #[error("cannot read a layer")]
    Blob(#[from] BlobError),
}

impl ExportError {
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// Writes what is known of steps, in the place of what the directory has under `name`. `bytes` says where those of each layer
/// are; blobs that the cache itself is to have are in the store, or in the directory. `did` is told what was written, and
/// when that began.
///
/// # Errors
/// If it cannot be written. What the directory had under the name, it has then still.
pub fn export(
    store: &Store,
    directory: Directory,
    name: &str,
    known: &[Known],
    bytes: &BTreeMap<Identity, Bytes>,
    did: &(dyn Fn(&str, Timestamp) + Sync),
) -> Result<(), ExportError> {
    let mut layers: BTreeMap<_, &LayerRef> = BTreeMap::new();
    for snapshot in known.iter().flat_map(|step| &step.answer.outputs) {
        layers.extend(snapshot.layers.iter().map(|layer| (identity(layer), layer)));
    }
    let has = |digest: &OciDigest, size: u64| directory.has(digest, size);
    let written = layers.into_par_iter().map(|(identity, layer)| {
        let pack = store.trees().pack(&layer.layer.tree)?;
        let files = Files {
            digest: sha256(&pack),
            size: pack.len() as u64,
        };
        directory.put_bytes(&files.digest, &pack)?;
        let entry = Layer {
            layer: layer.layer,
            created: layer.created,
            single: layer.single,
            files,
            bytes: bytes[&identity].clone(),
        };
        if let Some((digest, size, _)) = entry.blob()
            && !has(&digest, size)
        {
            let began = clock::now();
            directory.put(&digest, size, store.blobs().open(&digest)?)?;
            did(&format!("writing layer {digest}"), began);
        }
        Ok((identity, entry))
    });
    let written: BTreeMap<_, Layer> = written.collect::<Result<_, ExportError>>()?;
    let catalogue = Catalogue::of(known, &written);
    let document = catalogue.to_json();
    let config = Descriptor::of(CATALOGUE, &document);
    let mut blobs = Vec::new();
    let mut list = |descriptor: Descriptor| {
        if !blobs.contains(&descriptor) {
            blobs.push(descriptor);
        }
    };
    for layer in &catalogue.layers {
        list(Descriptor::new(FILES, layer.files.digest, layer.files.size));
        if let Some((digest, size, media_type)) = layer.blob() {
            list(Descriptor::new(media_type, digest, size));
        }
    }
    let manifest = Manifest {
        artifact_type: Some(CACHE.to_owned()),
        ..Manifest::new(Format::Oci, config.clone(), blobs)
    };
    let manifest_document = manifest.to_json();
    let descriptor = Descriptor::of(manifest.media_type.as_str(), &manifest_document);
    for (what, descriptor, document) in [
        ("config", &config, document),
        ("cache image manifest", &descriptor, manifest_document),
    ] {
        let began = clock::now();
        directory.put_bytes(&descriptor.digest, &document)?;
        did(&format!("writing {what} {}", descriptor.digest), began);
    }
    directory.publish(name, &descriptor)
}

fn sha256(bytes: &[u8]) -> OciDigest {
    OciDigest::from_bytes(Sha256::digest(bytes).into())
}
