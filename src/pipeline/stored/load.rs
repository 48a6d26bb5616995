//! `rbuild load`: the images of an archive into the store. All digests are compared: of documents and blobs with what
//! names them, of layers with the diff ids of their config.

use std::io::Read;
use std::path::PathBuf;

use rbuild_cache::ArchiveError;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Store;
use rbuild_cache::StoredImage;
use rbuild_cache::Unpacked;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use super::Documents;
use super::Needs;
use super::at_work;
use super::created;
use super::fetch_layers;
use super::protect;
use crate::image::Descriptor;
use crate::ops::Engine;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::pipeline::task::Task;
use crate::registry;
use crate::registry::Archive;
use crate::registry::archive::Archived;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild load`.
#[derive(Debug)]
pub struct LoadOptions {
    /// The archive as the user knows it.
    pub shown: PathBuf,
    /// `--platform`: of images for several, only this one.
    pub platform: Option<Platform>,
}

/// An image that is in the store now.
#[derive(Debug)]
pub struct Loaded {
    /// Its names; it may have none.
    pub names: Vec<String>,
    /// Its id.
    pub id: OciDigest,
}

/// Loads an archive.
///
/// # Errors
/// If it is none, or something in it is not what it is said to be; then no image has changed.
pub fn load(
    settings: &Settings,
    options: &LoadOptions,
    input: impl Read + Send,
    progress: &Progress,
) -> Result<Vec<Loaded>, BuildError> {
    let store = open_store(settings)?;
    // What is not in the archive is not to be had.
    at_work(
        settings,
        &store,
        Needs::Offline,
        progress,
        |engine, events| {
            let shown = format!("load {}", options.shown.display());
            let step = Task::start(&shown, &shown, events);
            step.carry_out(engine.cancel(), |step| all(engine, options, input, step))
        },
    )
}

fn all(
    engine: &Engine<'_>,
    options: &LoadOptions,
    input: impl Read + Send,
    step: &Task<'_>,
) -> Result<Vec<Loaded>, BuildError> {
    let store = engine.store();
    let unpacked = store
        .unpack_archive(input, engine.cancel())
        .map_err(|error| unusable(options, error))?;
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let found = Archive::new(&unpacked, &options.shown)
        .images(&platform, options.platform.is_some())
        .map_err(bad_archive)?;
    // All are looked at before one is named.
    let kept = found
        .iter()
        .map(|found| keep(engine, &unpacked, found, step));
    let kept: Vec<StoredImage> = kept.collect::<Result<_, _>>()?;
    found
        .iter()
        .zip(kept)
        .map(|(found, image)| name(store, found, image))
        .collect()
}

fn name(store: &Store, found: &Archived, image: StoredImage) -> Result<Loaded, BuildError> {
    // An image without a name goes by its id.
    let unnamed = [image.id.to_string()];
    let names = match found.names.as_slice() {
        [] => &unnamed,
        names => names,
    };
    for name in names {
        store.images().set(name, &image).map_err(failure::store)?;
    }
    Ok(Loaded {
        names: found.names.clone(),
        id: image.id,
    })
}

/// Puts all of an image into the store, and looks through its layers.
fn keep(
    engine: &Engine<'_>,
    unpacked: &Unpacked,
    found: &Archived,
    step: &Task<'_>,
) -> Result<StoredImage, BuildError> {
    let store = engine.store();
    // What is there already is not written anew.
    let held = engine.lease().hold().map_err(failure::store)?;
    let protected = |digest| {
        let protected = engine.lease().protect(LeaseRoot::Blob(digest));
        protected.map_err(failure::store)
    };
    let top = match (&found.index, found.images.as_slice()) {
        (Some((descriptor, index)), _) => {
            protected(store.blobs().put(index).map_err(failure::blob)?)?;
            descriptor.clone()
        }
        (None, [first, ..]) => Descriptor::of(
            first.resolved.manifest.media_type.as_str(),
            &first.resolved.manifest_bytes,
        ),
        (None, []) => return Err(bad_image("an index of the archive names no image")),
    };
    for image in &found.images {
        let resolved = &image.resolved;
        for document in [&resolved.manifest_bytes, &resolved.config_bytes] {
            protected(store.blobs().put(document).map_err(failure::blob)?)?;
        }
        for layer in &image.layers {
            protected(layer.digest)?;
            store.adopt_file(unpacked, layer).map_err(failure::blob)?;
        }
    }
    drop(held);
    let stored = StoredImage {
        digest: top.digest,
        media_type: top.media_type,
        id: top.digest,
        repo_digest: None,
        created: 0,
        size: 0,
        rung: None,
        referrers: Vec::new(),
    };
    let documents = Documents::read(store, &stored)?;
    let shown = found.names.first().map_or("", String::as_str);
    for image in &documents.images {
        protect(engine.lease(), image, &top.digest)?;
        fetch_layers(engine, &image.descriptor.digest, shown, step).map_err(failure::op)?;
    }
    let sizes = documents.images.iter().map(|image| {
        let sizes = image.layer_sizes(store)?;
        Ok(sizes.iter().sum::<u64>())
    });
    let size = sizes.sum::<Result<u64, BuildError>>()?;
    let own = documents.image_for(shown, None)?;
    Ok(StoredImage {
        id: own.id(),
        created: created(&own.config),
        size,
        ..stored
    })
}

fn bad_image(text: &str) -> BuildError {
    BuildError::new(ErrorKind::Request, anyhow::anyhow!("{text}"))
}

/// What is wrong with the archive is up to who gave it.
fn bad_archive(error: registry::RegistryError) -> BuildError {
    BuildError {
        kind: ErrorKind::Request,
        ..failure::registry(error)
    }
}

fn unusable(options: &LoadOptions, error: ArchiveError) -> BuildError {
    match error {
        ArchiveError::Cancelled => BuildError::interrupted(),
        ArchiveError::Store(error) => failure::store(error),
        ArchiveError::Thread(error) => failure::op(error.into()),
        error => {
            let error = anyhow::Error::new(error)
                .context(format!("`{}` cannot be loaded", options.shown.display()));
            BuildError::new(ErrorKind::Request, error)
        }
    }
}
