//! `rbuild pull`: images of registries into the store, whole, so that nobody has to be asked for them again.

use rbuild_cache::LeaseRoot;
use rbuild_cache::StoredImage;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use super::Documents;
use super::Needs;
use super::at_work;
use super::created;
use super::fetch_layers;
use super::referrers;
use super::telling;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Index;
use crate::image::media_type;
use crate::ops::Engine;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::pipeline::pin::Pinner;
use crate::pipeline::task::Task;
use crate::registry;
use crate::registry::MAX_DOCUMENT;
use crate::registry::ParseReferenceError;
use crate::registry::Reference;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild pull`.
#[derive(Debug)]
pub struct PullOptions {
    /// Names, normalised.
    pub names: Vec<String>,
    /// `--platform`.
    pub platforms: Wanted,
    /// `--referrers`: with what is about them.
    pub referrers: bool,
}

/// The platforms to pull of an image that is for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This machine's.
    Own,
    /// These, each with what stands in for it.
    These(Vec<Platform>),
    /// All there are.
    All,
}

/// An image that is in the store now.
#[derive(Debug)]
pub struct Pulled {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: OciDigest,
    /// What its registry knows it by.
    pub digest: OciDigest,
    /// Bytes of its layers, uncompressed.
    pub size: u64,
    /// The platforms it is for.
    pub platforms: Vec<Platform>,
    /// Documents about it that the store has.
    pub referrers: usize,
}

/// Pulls images side by side, and tells `done` of each in their order as soon as it is there.
///
/// # Errors
/// If one cannot be had; no other is begun then, and those that are there stay.
pub fn pull(
    settings: &Settings,
    options: &PullOptions,
    progress: &Progress,
    done: &mut dyn FnMut(&Pulled) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let store = open_store(settings)?;
    at_work(
        settings,
        &store,
        Needs::Network,
        progress,
        |engine, events| {
            let pinner = Pinner::for_pull(settings, &store, engine.lease(), engine.registry());
            let names: Vec<(usize, &String)> = options.names.iter().enumerate().collect();
            telling(
                |there| {
                    let all = registry::side_by_side(&names, |&(at, name)| {
                        let shown = format!("pull {name}");
                        let step = Task::start(&shown, &shown, events);
                        let pulled = step.carry_out(engine.cancel(), |step| {
                            one(engine, &pinner, name, options, step)
                        })?;
                        // Who no longer listens has failed, and says so.
                        drop(there.send((at, pulled)));
                        Ok(())
                    });
                    all.map(drop)
                },
                &mut |pulled| progress.aside(|| done(pulled)),
            )
        },
    )
}

fn one(
    engine: &Engine<'_>,
    pinner: &Pinner<'_>,
    name: &str,
    options: &PullOptions,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    match &options.platforms {
        Wanted::Own => single(engine, pinner, name, None, options, step),
        Wanted::These(platforms) => match platforms.as_slice() {
            [platform] => single(engine, pinner, name, Some(platform), options, step),
            _ => several(engine, pinner, name, options, step),
        },
        Wanted::All => several(engine, pinner, name, options, step),
    }
}

/// The image for one platform.
fn single(
    engine: &Engine<'_>,
    pinner: &Pinner<'_>,
    name: &str,
    platform: Option<&Platform>,
    options: &PullOptions,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    let host = Platform::host();
    let pin = pinner.ask(name, platform.unwrap_or(&host))?;
    let top = Descriptor::new(media_type::OCI_MANIFEST, pin.manifest, 0);
    take(engine, name, &top, pin.index, platform, options, step)
}

/// Images for several platforms, and an index over them: the registry's own if they are all that it names.
fn several(
    engine: &Engine<'_>,
    pinner: &Pinner<'_>,
    name: &str,
    options: &PullOptions,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    let reference: Reference = name
        .parse()
        .map_err(|error: ParseReferenceError| BuildError::new(ErrorKind::Request, error))?;
    let document = engine.registry().document(&reference);
    let (document, bytes) = document.map_err(failure::registry)?;
    let Document::Index(index) = document else {
        // A name that stands for a single image gives that if it is for one of them; the first that it is not for is named.
        let Wanted::These(platforms) = &options.platforms else {
            return single(engine, pinner, name, None, options, step);
        };
        let mut refused = None;
        for platform in platforms {
            match single(engine, pinner, name, Some(platform), options, step) {
                Ok(pulled) => return Ok(pulled),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        return Err(refused.expect("somebody who names platforms names one"));
    };
    let whole = Descriptor::of(index.media_type.as_str(), &bytes);
    let mut entries: Vec<Descriptor> = Vec::new();
    match &options.platforms {
        Wanted::These(platforms) => {
            // Of this very index, whatever the name means by now.
            let exact = reference.with_digest(whole.digest).to_string();
            let found = registry::side_by_side(platforms, |platform| pinner.ask(&exact, platform))?;
            for (platform, found) in platforms.iter().zip(found) {
                let found = found.manifest;
                if entries.iter().any(|entry| entry.digest == found) {
                    continue;
                }
                let mut named = index.manifests.iter();
                let entry = named.find(|entry| entry.digest == found).cloned();
                entries.push(match entry {
                    Some(entry) => entry,
                    // It is in an index within the index.
                    None => {
                        let bytes = engine.store().blobs().read(&found, MAX_DOCUMENT);
                        let bytes = bytes.map_err(failure::blob)?;
                        Descriptor::of(media_type::OCI_MANIFEST, &bytes).with_platform(platform)
                    }
                });
            }
        }
        Wanted::Own | Wanted::All => {
            let images = index.images().filter(|entry| !entry.is_index());
            entries.extend(images.cloned());
            registry::side_by_side(&entries, |entry| {
                let exact = reference.with_digest(entry.digest).to_string();
                pinner.ask(&exact, &Platform::host())
            })?;
        }
    }
    let document = match entries == index.manifests {
        true => bytes,
        false => Index {
            manifests: entries,
            ..index
        }
        .to_json(),
    };
    let store = engine.store();
    let digest = store.blobs().put(&document).map_err(failure::blob)?;
    let protected = engine.lease().protect(LeaseRoot::Blob(digest));
    protected.map_err(failure::store)?;
    let top = Descriptor::new(whole.media_type, digest, document.len() as u64);
    take(engine, name, &top, Some(whole.digest), None, options, step)
}

/// Names an image whose documents are in the store, once its layers are.
fn take(
    engine: &Engine<'_>,
    name: &str,
    top: &Descriptor,
    index: Option<OciDigest>,
    platform: Option<&Platform>,
    options: &PullOptions,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    let store = engine.store();
    let read = StoredImage {
        digest: top.digest,
        media_type: top.media_type.clone(),
        id: top.digest,
        repo_digest: Some(index.unwrap_or(top.digest)),
        created: 0,
        size: 0,
        rung: None,
        referrers: Vec::new(),
    };
    let documents = Documents::read(store, &read)?;
    // A name that stands for a single image gives that, whatever it is for.
    let own = documents.image_for(name, platform)?;
    let sizes = registry::side_by_side(&documents.images, |image| -> Result<u64, BuildError> {
        let digest = &image.descriptor.digest;
        let snapshot = fetch_layers(engine, digest, name, step).map_err(failure::op)?;
        for layer in &snapshot.layers {
            let protected = engine.lease().protect(LeaseRoot::Tree(layer.layer.tree));
            protected.map_err(failure::store)?;
        }
        Ok(image.layer_sizes(store)?.iter().sum())
    })?;
    let size = sizes.iter().sum();
    let earlier = store.images().get(name).map_err(failure::store)?;
    let referrers = match options.referrers {
        true => referrers::bring(engine, name, &documents)?,
        // What is about it is so whether or not it was asked for again.
        false => earlier
            .filter(|earlier| earlier.digest == top.digest)
            .map_or_else(Vec::new, |earlier| earlier.referrers),
    };
    let media_type = match documents.index {
        Some(_) => read.media_type.clone(),
        None => own.manifest.media_type.clone(),
    };
    let stored = StoredImage {
        media_type,
        id: own.id(),
        created: created(&own.config),
        size,
        referrers,
        ..read
    };
    store.images().set(name, &stored).map_err(failure::store)?;
    let platforms = documents.images.iter().map(|image| image.config.platform());
    Ok(Pulled {
        name: name.to_owned(),
        id: stored.id,
        digest: index.unwrap_or(top.digest),
        size,
        platforms: platforms.collect(),
        referrers: stored.referrers.len(),
    })
}
