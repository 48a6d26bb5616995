//! `type=image`: the image under its names in rbuild's own store.

use rbuild_cache::KnownLayer;
use rbuild_cache::LeaseRoot;
use rbuild_cache::StoredImage;

use super::Export;
use super::ExportError;
use super::Exporter;
use crate::clock;
use crate::outcome::Delivery;

/// `type=image`.
#[derive(Debug)]
pub struct OwnStore;

impl Exporter for OwnStore {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let store = export.store;
        for image in export.images {
            store.blobs().put(&image.config)?;
            store.blobs().put(&image.manifest)?;
            for (descriptor, layer) in &image.layers {
                if store.known_layer(&descriptor.digest)?.is_none()
                    && let Some(blob) = store
                        .layer_blobs(&layer.layer.tree)?
                        .into_iter()
                        .find(|blob| blob.digest == descriptor.digest)
                {
                    let known = KnownLayer {
                        layer: layer.layer,
                        diff_id: blob.diff_id,
                        tar_size: blob.tar_size,
                    };
                    store.set_known_layer(&descriptor.digest, &known)?;
                }
                export.lease.protect(LeaseRoot::Tree(layer.layer.tree))?;
            }
        }
        if let Some(index) = export.index {
            store.blobs().put(&index.document)?;
        }
        let top = export.top();
        let image = &export.images[0];
        let size = size(export)?;
        // An image without a name goes by its id.
        let unnamed = [image.id.to_string()];
        let names = if export.names.is_empty() {
            &unnamed
        } else {
            export.names
        };
        for name in names {
            let stored = StoredImage {
                digest: top.digest,
                media_type: top.media_type.clone(),
                id: image.id,
                repo_digest: None,
                created: clock::now().0,
                size,
            };
            // An unchanged build writes nothing.
            let earlier = store.images().get(name)?;
            if earlier.is_none_or(|earlier| earlier.digest != stored.digest) {
                store.images().set(name, &stored)?;
            }
        }
        Ok(vec![Delivery::Store {
            names: export.names.to_vec(),
        }])
    }
}

/// Bytes of all layers' tars, where they are known, as for images from elsewhere.
fn size(export: &Export<'_>) -> Result<u64, ExportError> {
    let layers = export.images.iter().flat_map(|image| &image.layers);
    let sizes = layers.map(|(descriptor, _)| {
        let known = export.store.known_layer(&descriptor.digest)?;
        Ok(known.map_or(descriptor.size, |known| known.tar_size))
    });
    sizes.sum()
}
