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
}

/// Pulls images, and tells `done` of each as soon as it is there.
///
/// # Errors
/// At the first that cannot be had; those before it stay.
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
            for name in &options.names {
                let shown = format!("pull {name}");
                let step = Task::start(&shown, &shown, events);
                let pulled = step.carry_out(engine.cancel(), |step| {
                    let pinner =
                        Pinner::for_pull(settings, &store, engine.lease(), engine.registry());
                    one(engine, &pinner, name, options, step)
                })?;
                progress.aside(|| done(&pulled))?;
            }
            Ok(())
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
        Wanted::Own => single(engine, pinner, name, None, step),
        Wanted::These(platforms) => match platforms.as_slice() {
            [platform] => single(engine, pinner, name, Some(platform), step),
            _ => several(engine, pinner, name, &options.platforms, step),
        },
        Wanted::All => several(engine, pinner, name, &options.platforms, step),
    }
}

/// The image for one platform.
fn single(
    engine: &Engine<'_>,
    pinner: &Pinner<'_>,
    name: &str,
    platform: Option<&Platform>,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    let host = Platform::host();
    let pin = pinner.ask(name, platform.unwrap_or(&host))?;
    let top = Descriptor::new(media_type::OCI_MANIFEST, pin.manifest, 0);
    take(engine, name, &top, pin.index, platform, step)
}

/// Images for several platforms, and an index over them: the registry's own if they are all that it names.
fn several(
    engine: &Engine<'_>,
    pinner: &Pinner<'_>,
    name: &str,
    wanted: &Wanted,
    step: &Task<'_>,
) -> Result<Pulled, BuildError> {
    let reference: Reference = name
        .parse()
        .map_err(|error: ParseReferenceError| BuildError::new(ErrorKind::Request, error))?;
    let document = engine.registry().document(&reference);
    let (document, bytes) = document.map_err(failure::registry)?;
    let Document::Index(index) = document else {
        // A name that stands for a single image gives that if it is for one of them; the first that it is not for is named.
        let Wanted::These(platforms) = wanted else {
            return single(engine, pinner, name, None, step);
        };
        let mut refused = None;
        for platform in platforms {
            match single(engine, pinner, name, Some(platform), step) {
                Ok(pulled) => return Ok(pulled),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        return Err(refused.expect("somebody who names platforms names one"));
    };
    let whole = Descriptor::of(index.media_type.as_str(), &bytes);
    let mut entries: Vec<Descriptor> = Vec::new();
    match wanted {
        Wanted::These(platforms) => {
            for platform in platforms {
                // Of this very index, whatever the name means by now.
                let exact = reference.with_digest(whole.digest).to_string();
                let found = pinner.ask(&exact, platform)?.manifest;
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
            for entry in index.images().filter(|entry| !entry.is_index()) {
                let exact = reference.with_digest(entry.digest).to_string();
                pinner.ask(&exact, &Platform::host())?;
                entries.push(entry.clone());
            }
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
    take(engine, name, &top, Some(whole.digest), None, step)
}

/// Names an image whose documents are in the store, once its layers are.
fn take(
    engine: &Engine<'_>,
    name: &str,
    top: &Descriptor,
    index: Option<OciDigest>,
    platform: Option<&Platform>,
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
    };
    let documents = Documents::read(store, &read)?;
    // A name that stands for a single image gives that, whatever it is for.
    let own = documents.image_for(name, platform)?;
    let mut size = 0;
    for image in &documents.images {
        let digest = &image.descriptor.digest;
        let snapshot = fetch_layers(engine, digest, name, step).map_err(failure::op)?;
        for layer in &snapshot.layers {
            let protected = engine.lease().protect(LeaseRoot::Tree(layer.layer.tree));
            protected.map_err(failure::store)?;
        }
        size += image.layer_sizes(store)?.iter().sum::<u64>();
    }
    let media_type = match documents.index {
        Some(_) => read.media_type.clone(),
        None => own.manifest.media_type.clone(),
    };
    let stored = StoredImage {
        media_type,
        id: own.id(),
        created: created(&own.config),
        size,
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
    })
}
