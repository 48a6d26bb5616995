//! `--push`, `type=registry` and `type=image,push=true`: the image to the registry of each of its names. Blobs that are there are not
//! sent; manifests come after what they point at, the index last.

use std::io::Read;

use rayon::prelude::*;

use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::ReadyImage;
use super::store::OwnStore;
use crate::outcome::Delivery;
use crate::registry::Client;
use crate::registry::Reference;
use crate::request::Settings;

/// Sends to the registries of the names; one that ends in a digest has no tag there.
#[derive(Debug)]
pub struct Push {
    /// Names it in rbuild's own store first.
    pub store: Option<OwnStore>,
    /// `registry.insecure`: what a client is made of that trusts these registries, whatever else is said of them.
    pub insecure: Option<Settings>,
}

impl Push {
    fn client(&self, export: &Export<'_>) -> Result<Client, ExportError> {
        let Some(settings) = &self.insecure else {
            return Ok(export.registry.clone());
        };
        let mut settings = settings.clone();
        for name in export.names {
            let host = name.parse::<Reference>()?.registry;
            // Both, as BuildKit sets them: plain HTTP, then TLS with any certificate.
            let registry = settings.registries.entry(host).or_default();
            registry.http = Some(true);
            registry.insecure = true;
        }
        Ok(Client::cancelled_by(&settings, export.cancel))
    }

    fn to(export: &Export<'_>, registry: &Client, name: &str) -> Result<OciDigest, ExportError> {
        let reference: Reference = name.parse()?;
        for image in export.images {
            Self::image(export, registry, &reference, image)?;
        }
        let top = export.top();
        let document = export
            .index
            .map_or(&export.images[0].manifest, |index| &index.document);
        Ok(registry.push_manifest(&reference, &top.media_type, document)?)
    }

    fn image(
        export: &Export<'_>,
        registry: &Client,
        reference: &Reference,
        image: &ReadyImage,
    ) -> Result<(), ExportError> {
        let blobs = export.store.blobs();
        image
            .layers
            .par_iter()
            .try_for_each(|(layer, _)| -> Result<(), ExportError> {
                let open = || {
                    let blob = blobs.open(&layer.digest).map_err(std::io::Error::other)?;
                    Ok(Box::new(blob) as Box<dyn Read>)
                };
                registry.push_blob(reference, &layer.digest, layer.size, None, &open)?;
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

impl Exporter for Push {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let stored = self.store.as_ref().map(|store| store.export(export));
        let mut deliveries = stored.transpose()?.unwrap_or_default();
        let registry = self.client(export)?;
        for name in export.names {
            let digest = Self::to(export, &registry, name)?;
            deliveries.push(Delivery::Pushed {
                name: name.clone(),
                digest,
            });
        }
        Ok(deliveries)
    }
}
