//! `--push`, `type=registry` and `type=image,push=true`: the image to the registry of each of its names. Blobs that are there
//! are not sent, those of a base not even downloaded; manifests come after what they point at, the index last.

use std::io::Read;

use rayon::prelude::*;

use rbuild_cache::StoredImage;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::ReadyImage;
use super::ReadyIndex;
use super::store::OwnStore;
use crate::image::Descriptor;
use crate::outcome::Delivery;
use crate::registry::Client;
use crate::registry::Pushed;
use crate::registry::Reference;
use crate::request::ImageOutput;
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
        match &self.insecure {
            None => Ok(export.registry.clone()),
            Some(settings) => insecure(settings, export.names, export.cancel),
        }
    }
}

/// A client that trusts the registries of these names.
fn insecure(
    settings: &Settings,
    names: &[String],
    cancel: &CancelToken,
) -> Result<Client, ExportError> {
    let hosts = names.iter();
    let hosts = hosts.map(|name| Ok(name.parse::<Reference>()?.registry));
    let hosts = hosts.collect::<Result<Vec<String>, ExportError>>()?;
    Ok(Client::trusting(settings, hosts, cancel))
}

/// Sends an index under each of its names, or under its digest alone; the images are there already.
///
/// # Errors
/// If a registry does not take it.
pub fn send_index(
    index: &ReadyIndex,
    output: &ImageOutput,
    names: &[String],
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<Vec<Delivery>, ExportError> {
    let client = match output.insecure {
        true => insecure(settings, names, cancel)?,
        false => Client::cancelled_by(settings, cancel),
    };
    let names = super::store::names(output, names, index.descriptor.digest)?;
    let mut deliveries = Vec::new();
    for name in names {
        let reference: Reference = name.parse()?;
        let digest =
            client.push_manifest(&reference, &index.descriptor.media_type, &index.document)?;
        deliveries.push(Delivery::Pushed { name, digest });
    }
    Ok(deliveries)
}

/// Gives an image its names that is in their repositories already, by its digest.
///
/// # Errors
/// If a registry does not have it, or does not take a name.
pub fn send_tags(
    image: &Descriptor,
    output: &ImageOutput,
    names: &[String],
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<Vec<Delivery>, ExportError> {
    let client = match output.insecure {
        true => insecure(settings, names, cancel)?,
        false => Client::cancelled_by(settings, cancel),
    };
    let digest = image.digest;
    let mut deliveries = Vec::new();
    for name in super::store::names(output, names, digest)? {
        let reference: Reference = name.parse()?;
        if reference.digest.is_none() {
            let (document, bytes) = client.document(&reference.with_digest(digest))?;
            let media_type = match image.media_type.as_str() {
                "" => document.media_type(),
                known => known,
            };
            client.push_manifest(&reference, media_type, &bytes)?;
        }
        deliveries.push(Delivery::Pushed { name, digest });
    }
    Ok(deliveries)
}

/// The repositories of these names, each once.
///
/// # Errors
/// If one is no name.
pub fn repositories(names: &[String]) -> Result<Vec<String>, ExportError> {
    let mut repositories = Vec::new();
    for name in names {
        let Reference {
            registry,
            repository,
            ..
        } = name.parse()?;
        let name = format!("{registry}/{repository}");
        if !repositories.contains(&name) {
            repositories.push(name);
        }
    }
    Ok(repositories)
}

/// What became of an image that was sent.
#[derive(Debug)]
pub struct Sent {
    /// What the registry knows it by.
    pub digest: OciDigest,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that were there.
    pub existed: usize,
}

/// Sends an image to the registry that `name` is in.
///
/// # Errors
/// If the registry does not take it.
pub fn send(export: &Export<'_>, name: &str) -> Result<Sent, ExportError> {
    let reference: Reference = name.parse()?;
    let mut blobs = Vec::new();
    for image in export.images {
        blobs.extend(send_image(export, &reference, image)?);
    }
    let registry = export.registry;
    let top = export.top();
    let document = export
        .index
        .map_or(&export.images[0].manifest, |index| &index.document);
    let sent = blobs.iter().filter(|how| **how == Pushed::Sent).count();
    Ok(Sent {
        digest: registry.push_manifest(&reference, &top.media_type, document)?,
        sent,
        existed: blobs.len() - sent,
    })
}

fn send_image(
    export: &Export<'_>,
    reference: &Reference,
    image: &ReadyImage,
) -> Result<Vec<Pushed>, ExportError> {
    let registry = export.registry;
    let blobs = export.store.blobs();
    let mut pushed = image
        .layers
        .par_iter()
        .map(|(layer, of)| -> Result<Pushed, ExportError> {
            let open = || {
                (export.fetch)(of, &layer.digest)?;
                let blob = blobs.open(&layer.digest).map_err(std::io::Error::other)?;
                Ok(Box::new(blob) as Box<dyn Read>)
            };
            let near = (export.near)(of, &layer.digest);
            let near = near.filter(|near| near.registry == reference.registry);
            let near = near.map(|near| near.repository);
            Ok(registry.push_blob(reference, &layer.digest, layer.size, near.as_deref(), &open)?)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let open = || Ok(Box::new(&image.config[..]) as Box<dyn Read>);
    pushed.push(registry.push_blob(
        reference,
        &image.id,
        image.config.len() as u64,
        None,
        &open,
    )?);
    if export.index.is_some() {
        let by_digest = reference.with_digest(image.descriptor.digest);
        registry.push_manifest(&by_digest, &image.descriptor.media_type, &image.manifest)?;
    }
    Ok(pushed)
}

impl Exporter for Push {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        // An image of which something stayed where it is would be a name for what is not here.
        let mut layers = export.images.iter().flat_map(|image| &image.layers);
        let whole = layers.all(|(_, layer)| layer.is_read() && (export.here)(layer));
        let store = self.store.as_ref().filter(|_| whole);
        let stored = store.map(|store| store.export(export));
        let mut deliveries = stored.transpose()?.unwrap_or_default();
        let registry = self.client(export)?;
        let export = &Export {
            registry: &registry,
            ..*export
        };
        for name in export.names {
            let Sent { digest, .. } = send(export, name)?;
            remember(export, name, digest)?;
            deliveries.push(Delivery::Pushed {
                name: name.clone(),
                digest,
            });
        }
        Ok(deliveries)
    }
}

/// Notes in the store by which digest the registry knows the image.
fn remember(export: &Export<'_>, name: &str, digest: OciDigest) -> Result<(), ExportError> {
    let images = export.store.images();
    // The name may mean something else by now.
    if let Some(stored) = images.get(name)?
        && stored.digest == export.top().digest
        && stored.repo_digest != Some(digest)
    {
        let repo_digest = Some(digest);
        images.set(
            name,
            &StoredImage {
                repo_digest,
                ..stored
            },
        )?;
    }
    Ok(())
}
