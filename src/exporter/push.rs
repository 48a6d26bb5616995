//! `--push` and `type=image,push=true`: the image to the registry of each of its names. Blobs that are there are not
//! sent; manifests come after what they point at, the index last.

use std::io::Read;

use rayon::prelude::*;

use rbuild_cache::LayerRef;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::ReadyImage;
use super::store::OwnStore;
use crate::image::Descriptor;
use crate::outcome::Delivery;
use crate::registry::Reference;

/// Sends to registries, after naming the image in rbuild's own store.
#[derive(Debug)]
pub struct Push;

impl Push {
    fn to(export: &Export<'_>, name: &str) -> Result<OciDigest, ExportError> {
        let reference: Reference = name.parse()?;
        for image in export.images {
            Self::image(export, &reference, image)?;
        }
        let registry = export.registry;
        let top = export.top();
        let document = export
            .index
            .map_or(&export.images[0].manifest, |index| &index.document);
        Ok(registry.push_manifest(&reference, &top.media_type, document)?)
    }

    fn image(
        export: &Export<'_>,
        reference: &Reference,
        image: &ReadyImage,
    ) -> Result<(), ExportError> {
        let registry = export.registry;
        let blobs = export.store.blobs();
        image
            .layers
            .par_iter()
            .try_for_each(|(layer, from)| -> Result<(), ExportError> {
                let open = || {
                    let blob = blobs.open(&layer.digest).map_err(std::io::Error::other)?;
                    Ok(Box::new(blob) as Box<dyn Read>)
                };
                let near = near(reference, layer, from);
                registry.push_blob(reference, &layer.digest, layer.size, near.as_deref(), &open)?;
                Ok(())
            })?;
        let open = || Ok(Box::new(&image.config[..]) as Box<dyn Read>);
        registry.push_blob(reference, &image.id, image.config.len() as u64, None, &open)?;
        if export.index.is_some() {
            let by_digest = reference.with_digest(image.descriptor.digest);
            registry.push_manifest(&by_digest, &image.descriptor.media_type, &image.manifest)?;
        }
        Ok(())
    }
}

/// The repository of the same registry that a base's layer came from.
fn near(to: &Reference, layer: &Descriptor, from: &LayerRef) -> Option<String> {
    let origin = from.origin.as_ref()?;
    let source: Reference = origin.source.as_deref()?.parse().ok()?;
    let same = origin.digest == layer.digest && source.registry == to.registry;
    same.then_some(source.repository)
}

impl Exporter for Push {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let mut deliveries = OwnStore.export(export)?;
        for name in export.names {
            let digest = Self::to(export, name)?;
            deliveries.push(Delivery::Pushed {
                name: name.clone(),
                digest,
            });
        }
        Ok(deliveries)
    }
}
