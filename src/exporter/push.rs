//! `--push`, `type=registry` and `type=image,push=true`: the image to the registry of each of its names. Blobs that are there
//! are not sent, those of a base not even downloaded; manifests come after what they point at, the index last. Registries
//! get their names side by side; those of one registry go one after another, since what one repository got the next takes from
//! there, and is asked for no second time for another of its tags.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::sync::Mutex;

use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
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
use crate::image::Document;
use crate::outcome::Delivery;
use crate::registry;
use crate::registry::Client;
use crate::registry::MAX_DOCUMENT;
use crate::registry::Pushed;
use crate::registry::Reference;
use crate::registry::RegistryError;
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

/// A client for what an output is pushed with, to these names.
fn client(
    output: &ImageOutput,
    names: &[String],
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<Client, ExportError> {
    match output.insecure {
        true => insecure(settings, names, cancel),
        false => Ok(Client::cancelled_by(settings, cancel)),
    }
}

/// One that trusts the registries of these names.
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
    let client = client(output, names, settings, cancel)?;
    let names = super::store::names(output, names, index.descriptor.digest)?;
    let kind = &index.descriptor.media_type;
    let sent = by_registry(&names, |_, name| {
        let digest = client.push_manifest(&name.parse()?, kind, &index.document)?;
        Ok(pushed(name, digest))
    });
    sent.map_err(all)
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
    let client = client(output, names, settings, cancel)?;
    let digest = image.digest;
    let names = super::store::names(output, names, digest)?;
    let sent = by_registry(&names, |_, name| {
        let reference: Reference = name.parse()?;
        if reference.digest.is_none() {
            let (document, bytes) = client.document(&reference.with_digest(digest))?;
            let media_type = match image.media_type.as_str() {
                "" => document.media_type(),
                known => known,
            };
            client.push_manifest(&reference, media_type, &bytes)?;
        }
        Ok(pushed(name, digest))
    });
    sent.map_err(all)
}

fn pushed(name: &str, digest: OciDigest) -> Delivery {
    Delivery::Pushed {
        name: name.to_owned(),
        digest,
    }
}

/// Does the same for each of several names, told by its place among them: for those of one registry one after another, for
/// several registries side by side. What fails holds up the rest of its registry, and no other.
///
/// # Errors
/// All failures, in the order of the names.
pub fn by_registry<T: Send, E: Send>(
    names: &[impl AsRef<str> + Sync],
    deed: impl Fn(usize, &str) -> Result<T, E> + Sync,
) -> Result<Vec<T>, Vec<E>> {
    let mut registries: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        // What is no name has its error from who makes something of it.
        let registry = name.as_ref().parse().map(|name: Reference| name.registry);
        let registry = registries.entry(registry.unwrap_or_default());
        registry.or_default().push(at);
    }
    let registries: Vec<Vec<usize>> = registries.into_values().collect();
    let done = registry::side_by_side(&registries, |places| -> Result<_, Infallible> {
        let mut done = Vec::new();
        for at in places {
            let result = deed(*at, names[*at].as_ref());
            let failed = result.is_err();
            done.push((*at, result));
            if failed {
                break;
            }
        }
        Ok(done)
    });
    let Ok(done) = done;
    let mut done: Vec<(usize, Result<T, E>)> = done.into_iter().flatten().collect();
    done.sort_by_key(|(at, _)| *at);
    let (mut fine, mut failed) = (Vec::new(), Vec::new());
    for (_, result) in done {
        match result {
            Ok(result) => fine.push(result),
            Err(error) => failed.push(error),
        }
    }
    match failed.is_empty() {
        true => Ok(fine),
        false => Err(failed),
    }
}

/// What went wrong, of which there is something.
fn all(mut errors: Vec<ExportError>) -> ExportError {
    match errors.len() {
        1 => errors.remove(0),
        _ => ExportError::Several(errors),
    }
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

/// What several pushes found in repositories, or brought there: nobody is asked for it again, and other repositories of the
/// same registry take it from there.
#[derive(Debug, Default)]
pub struct Brought(Mutex<BTreeMap<OciDigest, Vec<Reference>>>);

impl Brought {
    /// Whether it is in the repository of `to`; if not, one of the same registry where it is.
    fn find(&self, to: &Reference, digest: &OciDigest) -> Result<(), Option<String>> {
        let known = self.0.lock().expect(UNPOISONED);
        let of_registry = known.get(digest).into_iter().flatten();
        let mut of_registry = of_registry.filter(|place| place.registry == to.registry);
        match of_registry.clone().any(|place| is_beside(place, to)) {
            true => Ok(()),
            false => Err(of_registry.next().map(|place| place.repository.clone())),
        }
    }

    fn note(&self, to: &Reference, digest: OciDigest) {
        let mut known = self.0.lock().expect(UNPOISONED);
        known.entry(digest).or_default().push(to.clone());
    }
}

const UNPOISONED: &str = "nothing panics with it in hand";

fn is_beside(one: &Reference, other: &Reference) -> bool {
    (&one.registry, &one.repository) == (&other.registry, &other.repository)
}

/// A blob of what is to be sent; those that several have are one.
enum Blob<'a> {
    Layer(&'a Descriptor, &'a LayerRef),
    Config(&'a OciDigest, &'a [u8]),
    /// What the store has as it is.
    Stored(&'a Descriptor),
}

/// Sends an image to the registry that `name` is in: blobs side by side, then the manifests of an index' images, then what
/// the name is for.
///
/// # Errors
/// If the registry does not take it.
pub fn send(export: &Export<'_>, name: &str, brought: &Brought) -> Result<Sent, ExportError> {
    let reference: Reference = name.parse()?;
    let mut blobs: BTreeMap<&OciDigest, Blob<'_>> = BTreeMap::new();
    for image in export.images {
        for (layer, of) in &image.layers {
            blobs.insert(&layer.digest, Blob::Layer(layer, of));
        }
        blobs.insert(&image.id, Blob::Config(&image.id, &image.config));
    }
    let blobs: Vec<Blob<'_>> = blobs.into_values().collect();
    let how = registry::side_by_side(&blobs, |blob| bring(export, &reference, blob, brought))?;
    let sent = how.iter().filter(|how| **how == Pushed::Sent).count();
    if export.index.is_some() {
        registry::side_by_side(export.images, |image| -> Result<(), ExportError> {
            let ReadyImage { descriptor, .. } = image;
            if brought.find(&reference, &descriptor.digest).is_err() {
                let by_digest = reference.with_digest(descriptor.digest);
                let kind = &descriptor.media_type;
                export
                    .registry
                    .push_manifest(&by_digest, kind, &image.manifest)?;
                brought.note(&reference, descriptor.digest);
            }
            Ok(())
        })?;
    }
    let document = export
        .index
        .map_or(&export.images[0].manifest, |index| &index.document);
    let kind = &export.top().media_type;
    Ok(Sent {
        digest: export.registry.push_manifest(&reference, kind, document)?,
        sent,
        existed: how.len() - sent,
    })
}

/// Sends what is about an image, or part of it, as the store has it, with its blobs, to the repository that `name` is in.
///
/// # Errors
/// If something of it is not in the store, or the registry does not take it.
pub fn send_referrer(
    export: &Export<'_>,
    name: &str,
    digest: OciDigest,
    brought: &Brought,
) -> Result<(), ExportError> {
    let to = name.parse::<Reference>()?.with_digest(digest);
    export.lease.protect(LeaseRoot::Blob(digest))?;
    let bytes = export.store.blobs().read(&digest, MAX_DOCUMENT)?;
    let document = Document::parse(&bytes, None).map_err(|source| RegistryError::Document {
        what: digest.to_string(),
        source,
    })?;
    if let Document::Manifest(manifest) = &document {
        let blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
        let roots: Vec<LeaseRoot> = blobs.clone().map(|b| LeaseRoot::Blob(b.digest)).collect();
        export.lease.protect_all(&roots)?;
        let blobs: Vec<Blob<'_>> = blobs.map(Blob::Stored).collect();
        registry::side_by_side(&blobs, |blob| bring(export, &to, blob, brought))?;
    }
    let kind = document.media_type();
    export.registry.push_manifest(&to, kind, &bytes)?;
    Ok(())
}

/// Sees to it that the repository of `to` has a blob.
fn bring(
    export: &Export<'_>,
    to: &Reference,
    blob: &Blob<'_>,
    brought: &Brought,
) -> Result<Pushed, ExportError> {
    let (digest, size) = match blob {
        Blob::Layer(blob, _) | Blob::Stored(blob) => (&blob.digest, blob.size),
        Blob::Config(id, bytes) => (*id, bytes.len() as u64),
    };
    let Err(beside) = brought.find(to, digest) else {
        return Ok(Pushed::Existed);
    };
    let open = || {
        if let Blob::Config(_, bytes) = blob {
            return Ok(Box::new(*bytes) as Box<dyn Read>);
        }
        if let Blob::Layer(_, of) = blob {
            (export.fetch)(of, digest)?;
        }
        let blob = export.store.blobs().open(digest);
        Ok(Box::new(blob.map_err(std::io::Error::other)?) as Box<dyn Read>)
    };
    let near = match blob {
        Blob::Layer(_, of) => (export.near)(of, digest, &to.registry),
        Blob::Config(..) | Blob::Stored(_) => None,
    };
    let near = near.or(beside);
    let how = export
        .registry
        .push_blob(to, digest, size, near.as_deref(), &open)?;
    brought.note(to, *digest);
    Ok(how)
}

impl Exporter for Push {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        // An image of which something stayed where it is would be a name for what is not here.
        let mut layers = export.images.iter().flat_map(|image| &image.layers);
        let whole = layers.all(|(_, layer)| layer.is_read() && (export.here)(layer));
        let store = self.store.as_ref().filter(|_| whole);
        let stored = store.map(|store| store.export(export));
        let mut deliveries = stored.transpose()?.unwrap_or_default();
        let registry = match &self.insecure {
            None => export.registry.clone(),
            Some(settings) => insecure(settings, export.names, export.cancel)?,
        };
        let export = &Export {
            registry: &registry,
            ..*export
        };
        let brought = Brought::default();
        let sent = by_registry(export.names, |_, name| {
            let Sent { digest, .. } = send(export, name, &brought)?;
            remember(export, name, digest)?;
            Ok(pushed(name, digest))
        });
        deliveries.extend(sent.map_err(all)?);
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

#[cfg(test)]
mod t {
    use super::*;
    use std::sync::Barrier;
    use std::sync::Mutex;

    #[test]
    fn registries_are_served_side_by_side_and_each_in_order() {
        let names = ["a.example/x:1", "b.example/x:1", "a.example/y:1", "x"];
        // It would wait for ever if one waited for another.
        let met = Barrier::new(3);
        let order = Mutex::new(Vec::new());
        let done = by_registry(&names, |at, name| {
            if at != 2 {
                met.wait();
            }
            order.lock().unwrap().push(at);
            Ok::<_, ()>(name.to_owned())
        });
        assert_eq!(done, Ok(names.map(str::to_owned).to_vec()));
        let order = order.into_inner().unwrap();
        let of_a: Vec<_> = order.into_iter().filter(|at| at % 2 == 0).collect();
        assert_eq!(of_a, [0, 2]);
    }

    #[test]
    fn all_that_fails_is_told_and_holds_up_its_own_registry_alone() {
        let names = ["a.example/x:1", "b.example/x:1", "a.example/y:1", "x"];
        let tried = Mutex::new(Vec::new());
        let done = by_registry(&names, |at, _| {
            tried.lock().unwrap().push(at);
            match at {
                1 => Ok(()),
                at => Err(at),
            }
        });
        assert_eq!(done, Err(vec![0, 3]));
        let mut tried = tried.into_inner().unwrap();
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 3]);
    }
}
