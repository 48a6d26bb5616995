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
use crate::image::media_type;
use crate::ops::Engine;
use crate::outcome::BuildError;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::pipeline::pin::Pinner;
use crate::pipeline::task::Task;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild pull`.
#[derive(Debug)]
pub struct PullOptions {
    /// Names, normalised.
    pub names: Vec<String>,
    /// `--platform`; else this machine's.
    pub platform: Option<Platform>,
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
    /// The platform it is for.
    pub platform: Platform,
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
    let store = engine.store();
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let pin = pinner.ask(name, &platform)?;
    let read = StoredImage {
        digest: pin.manifest,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        id: pin.manifest,
        repo_digest: Some(pin.index.unwrap_or(pin.manifest)),
        created: 0,
        size: 0,
    };
    let documents = Documents::read(store, &read)?;
    // A name that stands for a single image gives that, whatever it is for.
    let image = documents.image_for(name, options.platform.as_ref())?;
    let snapshot = fetch_layers(engine, &pin.manifest, name, step).map_err(failure::op)?;
    for layer in &snapshot.layers {
        let protected = engine.lease().protect(LeaseRoot::Tree(layer.layer.tree));
        protected.map_err(failure::store)?;
    }
    let stored = StoredImage {
        media_type: image.manifest.media_type.clone(),
        id: image.id(),
        created: created(&image.config),
        size: image.layer_sizes(store)?.iter().sum(),
        ..read
    };
    store.images().set(name, &stored).map_err(failure::store)?;
    Ok(Pulled {
        name: name.to_owned(),
        id: stored.id,
        digest: pin.index.unwrap_or(pin.manifest),
        size: stored.size,
        platform: image.config.platform(),
    })
}
