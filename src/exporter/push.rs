//! `--push` and `type=image,push=true`: the image to the registry of each of its names. Blobs that are there are not
//! sent, those of a base not even downloaded; manifests come after what they point at, the index last.

use std::io::Read;

use rayon::prelude::*;

use rbuild_cache::LayerRef;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::ReadyImage;
use super::store::OwnStore;
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
            .try_for_each(|(layer, of)| -> Result<(), ExportError> {
                let open = || {
                    (export.fetch)(of)?;
                    let blob = blobs.open(&layer.digest).map_err(std::io::Error::other)?;
                    Ok(Box::new(blob) as Box<dyn Read>)
                };
                let from = in_same_registry(of, reference);
                registry.push_blob(reference, &layer.digest, layer.size, from.as_deref(), &open)?;
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

/// The repository that a base's layer came from, if it can be mounted from there.
fn in_same_registry(layer: &LayerRef, to: &Reference) -> Option<String> {
    let source = layer.origin.as_ref()?.source.as_deref()?;
    let from: Reference = source.parse().ok()?;
    (from.registry == to.registry).then_some(from.repository)
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
