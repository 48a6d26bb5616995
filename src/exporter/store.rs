//! `type=image`: the image under its names in rbuild's own store.

use rbuild_cache::KnownLayer;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Store;
use rbuild_cache::StoredImage;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use crate::clock;
use crate::image::Descriptor;
use crate::outcome::Delivery;
use crate::registry::Reference;
use crate::request::ImageOutput;
use crate::request::Push;

/// `type=image`.
#[derive(Debug)]
pub struct OwnStore {
    /// Name it by its digest besides: `app:1@sha256:…`.
    pub canonical: bool,
}

/// The names of an image that are known when its digest is: those it was given, without tags where it goes by digest
/// alone, and `dangling-name-prefix@digest`.
///
/// # Errors
/// If one cannot be a name.
pub fn names(
    output: &ImageOutput,
    given: &[String],
    digest: OciDigest,
) -> Result<Vec<String>, ExportError> {
    let mut names = Vec::new();
    for name in given {
        names.push(match output.push {
            Push::ByDigest => untagged(name)?.with_digest(digest).to_string(),
            Push::No | Push::ByName => name.clone(),
        });
    }
    if let Some(prefix) = &output.dangling
        && (names.is_empty() || !output.dangling_if_unnamed)
    {
        names.push(untagged(prefix)?.with_digest(digest).to_string());
    }
    Ok(names)
}

fn untagged(name: &str) -> Result<Reference, ExportError> {
    let mut reference: Reference = name.parse()?;
    reference.tag = None;
    Ok(reference)
}

impl Exporter for OwnStore {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let store = export.store;
        // Bytes of all layers' tars, where they are known, as for images from elsewhere.
        let mut size = 0;
        for image in export.images {
            let documents = [image.id, image.descriptor.digest].map(LeaseRoot::Blob);
            let layers = image.layers.iter().flat_map(|(descriptor, layer)| {
                let tree = layer.layer.tree;
                [
                    LeaseRoot::Blob(descriptor.digest),
                    LeaseRoot::LayerDir(tree),
                ]
            });
            let roots: Vec<LeaseRoot> = documents.into_iter().chain(layers).collect();
            export.lease.protect_all(&roots)?;
            for document in [&image.config, &image.manifest] {
                store.blobs().put(document)?;
            }
            for (descriptor, layer) in &image.layers {
                let known = known(store, descriptor, layer)?;
                size += known.map_or(descriptor.size, |known| known.tar_size);
            }
        }
        if let Some(index) = export.index {
            export
                .lease
                .protect(LeaseRoot::Blob(index.descriptor.digest))?;
            store.blobs().put(&index.document)?;
        }
        let top = export.top();
        let image = &export.images[0];
        let mut names = export.names.to_vec();
        if self.canonical {
            for name in export.names.iter().filter(|name| !name.contains('@')) {
                let reference: Reference = name.parse()?;
                names.push(reference.with_digest(top.digest).to_string());
            }
        }
        if names.is_empty() {
            // An image without a name goes by its id.
            names.push(image.id.to_string());
        }
        let mut layers = export.images.iter().flat_map(|image| &image.layers);
        let rung = Some(if layers.any(|(_, layer)| layer.single) {
            2
        } else {
            1
        });
        for name in &names {
            let stored = StoredImage {
                digest: top.digest,
                media_type: top.media_type.clone(),
                id: image.id,
                repo_digest: None,
                created: clock::now().0,
                size,
                rung,
                referrers: Vec::new(),
            };
            // An unchanged build writes nothing.
            let now = match store.images().get(name)? {
                Some(earlier) if earlier.digest != stored.digest => stored,
                Some(earlier) if earlier.rung != rung => StoredImage { rung, ..earlier },
                Some(_) => continue,
                None => stored,
            };
            store.images().set(name, &now)?;
        }
        Ok(vec![Delivery::Store {
            names: export.names.to_vec(),
        }])
    }
}

/// What the store knows of a layer's blob; from now on, if it was made here.
fn known(
    store: &Store,
    descriptor: &Descriptor,
    layer: &LayerRef,
) -> Result<Option<KnownLayer>, ExportError> {
    let earlier = store.known_layer(&descriptor.digest)?;
    if earlier
        .as_ref()
        .is_some_and(|known| known.layer == layer.layer)
    {
        return Ok(earlier);
    }
    // Another layer may have come to the same blob, which has no fractions of seconds: that one's bytes may be gone.
    let mut blobs = store.layer_blobs(&layer.layer.tree)?.into_iter();
    let Some(blob) = blobs.find(|blob| blob.digest == descriptor.digest) else {
        return Ok(earlier);
    };
    let known = KnownLayer {
        layer: layer.layer,
        diff_id: blob.diff_id,
        tar_size: blob.tar_size,
    };
    store.set_known_layer(&descriptor.digest, &known)?;
    Ok(Some(known))
}
