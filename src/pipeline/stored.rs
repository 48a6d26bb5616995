//! What is done with whole images besides building them: to the store by [`pull`] and [`load`], from it by [`push`] and
//! [`save`]; and what the store knows of one.
//!
//! An image of the store is its documents, which are blobs, and layers that are trees with bytes in one of their forms.
//! Who wants blobs of an image that was built here may find layers as directories alone: their blobs are made then, as
//! an export of the build would have made them.

pub(in crate::pipeline) mod load;
mod pull;
mod push;
mod ready;
pub mod referrers;
mod save;

pub use load::LoadOptions;
pub use load::Loaded;
pub use load::load;
pub use pull::PullOptions;
pub use pull::Pulled;
pub use pull::Wanted;
pub use pull::pull;
pub use push::PushOptions;
pub use push::Pushed;
pub use push::push;
pub use save::SaveOptions;
pub use save::Saved;
pub use save::save;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::StoredImage;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::event::Event;

use super::durability;
use super::failure;
use super::sandbox_settings;
use super::task::Task;
use crate::clock;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Index;
use crate::image::Manifest;
use crate::image::history;
use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::ops::OpError;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::registry::MAX_DOCUMENT;
use crate::request::Settings;
use crate::sandbox;
use crate::sandbox::SandboxError;
use crate::ui::EventSink;
use crate::ui::Progress;

/// An image of the store that the user chose.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// As the user wrote it.
    pub text: String,
    /// The name it was chosen by, normalised; `None` if by its id.
    pub name: Option<String>,
    /// The image.
    pub image: StoredImage,
}

/// The documents of an image of the store, or of several for different platforms.
#[derive(Debug)]
pub struct Documents {
    /// What names the whole.
    pub top: Descriptor,
    /// The index, if there is one.
    pub index: Option<Vec<u8>>,
    /// One a platform.
    pub images: Vec<ImageDocuments>,
}

/// The documents of an image for one platform.
#[derive(Debug)]
pub struct ImageDocuments {
    /// Points at the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
    /// Its bytes; their digest is the image's id.
    pub config_bytes: Vec<u8>,
}

impl ImageDocuments {
    /// The image's id.
    pub fn id(&self) -> OciDigest {
        self.manifest.config.digest
    }

    /// Bytes of each layer's tar where that is known, else of its blob; bottom first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn layer_sizes(&self, store: &Store) -> Result<Vec<u64>, BuildError> {
        let layers = self.manifest.layers.iter();
        let sizes = layers.map(|layer| {
            let known = store.known_layer(&layer.digest).map_err(failure::store)?;
            Ok(known.map_or(layer.size, |known| known.tar_size))
        });
        sizes.collect()
    }
}

impl Documents {
    /// Reads what the store has of an image.
    ///
    /// # Errors
    /// If something of it is not there, or cannot be read.
    pub fn read(store: &Store, image: &StoredImage) -> Result<Self, BuildError> {
        let bytes = document(store, &image.digest)?;
        let top = Descriptor::of(image.media_type.as_str(), &bytes);
        match parse(&image.digest, &bytes)? {
            Document::Manifest(manifest) => {
                let mut image = one(store, top, *manifest, bytes)?;
                image.descriptor = image.descriptor.with_platform(&image.config.platform());
                Ok(Self {
                    top: image.descriptor.clone(),
                    images: vec![image],
                    index: None,
                })
            }
            Document::Index(Index { manifests, .. }) => {
                let images = manifests.into_iter().map(|entry| {
                    let bytes = document(store, &entry.digest)?;
                    match parse(&entry.digest, &bytes)? {
                        Document::Manifest(manifest) => one(store, entry, *manifest, bytes),
                        Document::Index(_) => Err(damaged(&entry.digest)),
                    }
                });
                Ok(Self {
                    images: images.collect::<Result<_, _>>()?,
                    top,
                    index: Some(bytes),
                })
            }
        }
    }

    /// The image for a platform, or without one for this machine's, or the only or first one there is.
    ///
    /// # Errors
    /// If there is none for the platform asked for; `text` is how the user named the whole.
    pub fn image_for(
        &self,
        text: &str,
        platform: Option<&Platform>,
    ) -> Result<&ImageDocuments, BuildError> {
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host).fallbacks();
        let fits = |platform: &Platform| {
            let mut images = self.images.iter();
            images.find(|image| image.config.platform() == *platform)
        };
        if let Some(image) = wanted.iter().find_map(fits) {
            return Ok(image);
        }
        match (platform, self.images.first()) {
            (None, Some(first)) => Ok(first),
            (Some(platform), _) => Err(self.no_platform(text, platform)),
            (None, None) => Err(damaged(&self.top.digest)),
        }
    }

    fn no_platform(&self, text: &str, platform: &Platform) -> BuildError {
        let found = self.images.iter().map(|image| image.config.platform());
        let found: Vec<String> = found.map(|platform| format!("`{platform}`")).collect();
        let error = anyhow::anyhow!(
            "`{text}` has no image for `{platform}` in rbuild's store: there is {}",
            found.join(", ")
        );
        BuildError::new(ErrorKind::Request, error)
    }
}

fn one(
    store: &Store,
    descriptor: Descriptor,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
) -> Result<ImageDocuments, BuildError> {
    let config_bytes = document(store, &manifest.config.digest)?;
    let config =
        serde_json::from_slice(&config_bytes).map_err(|_| damaged(&manifest.config.digest))?;
    Ok(ImageDocuments {
        descriptor,
        manifest,
        manifest_bytes,
        config,
        config_bytes,
    })
}

fn document(store: &Store, digest: &OciDigest) -> Result<Vec<u8>, BuildError> {
    let read = store.blobs().read(digest, MAX_DOCUMENT);
    read.map_err(|error| failure::blob(error).hint(AGAIN))
}

fn parse(digest: &OciDigest, bytes: &[u8]) -> Result<Document, BuildError> {
    Document::parse(bytes, None).map_err(|_| damaged(digest))
}

const AGAIN: &str = "build or pull the image again";

fn damaged(digest: &OciDigest) -> BuildError {
    let error = anyhow::anyhow!("the document {digest} in the store cannot be used");
    BuildError::new(ErrorKind::Environment, error).hint(AGAIN)
}

/// Unix seconds of an RFC 3339 time.
pub fn unix_seconds(text: &str) -> Option<i64> {
    history::parse_rfc3339(text).map(|(seconds, _)| seconds)
}

/// Nanoseconds since the epoch at which the config says that the image was made; now, if it does not.
fn created(config: &ImageConfig) -> u128 {
    let said = config.created.as_deref().and_then(unix_seconds);
    match said.map(u128::try_from) {
        Some(Ok(seconds)) => seconds * 1_000_000_000,
        _ => clock::now().0,
    }
}

/// Makes sure that all layers of an image whose documents are in the store are there, each with bytes that are as its
/// config says: what is missing is fetched from the registry that `name` is in.
fn fetch_layers(
    engine: &Engine<'_>,
    manifest: &OciDigest,
    name: &str,
    step: &Task<'_>,
) -> Result<Snapshot, OpError> {
    let events = |mut event| {
        if let Event::Status(status) = &mut event {
            status.vertex.clone_from(&step.event.digest);
        }
        step.events.send(event);
    };
    let snapshot = engine.image_snapshot(*manifest, name, &events)?;
    // Of layers that are known the blobs may be gone.
    registry::side_by_side(&snapshot.layers, |layer| match &layer.origin {
        Some(origin) => engine.fetch_blob(origin),
        None => Ok(()),
    })?;
    Ok(snapshot)
}

/// What work with images needs besides a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Registries.
    Network,
    /// Nothing: what the store lacks is said to be lacking.
    Offline,
    /// Files of all owners, which only the user namespace can read; no network either.
    Namespace,
}

/// Does `deed` with an engine on `store`, in a process that can be interrupted and whose progress is shown. What is
/// published meanwhile is made durable, also if it fails.
fn at_work<T>(
    settings: &Settings,
    store: &Store,
    needs: Needs,
    progress: &Progress,
    deed: impl FnOnce(&Engine<'_>, &EventSink) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let lease = store.lease().map_err(failure::store)?;
    let cancel = CancelToken::new();
    let registry = registry::Client::cancelled_by(settings, &cancel);
    let definition = Definition::new();
    let options = EngineOptions {
        offline: needs != Needs::Network,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(
        store,
        &lease,
        &definition,
        &registry,
        &cancel,
        options,
        sandbox::expected_domain(),
    );
    if needs == Needs::Namespace {
        match sandbox::enter(&sandbox_settings(settings, store)) {
            Ok(entered) => engine.set_executor(Box::new(entered), 0),
            // What can be read from here is read, and that may be all of it.
            Err(SandboxError::Unavailable { .. }) => {}
            Err(error) => return Err(failure::sandbox(error)),
        }
    }
    super::begin(&cancel)?;
    progress.resume();
    let done = deed(&engine, &progress.events());
    durability::sync_later(store, settings);
    done
}

/// Hands on what comes with its place in an order, each as soon as those before it have come; what is left, when nothing
/// more comes.
fn in_order<T, E>(
    come: impl IntoIterator<Item = (usize, T)>,
    hand_on: &mut dyn FnMut(&T) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for (at, thing) in come {
        waiting.insert(at, thing);
        while let Some(thing) = waiting.remove(&next) {
            hand_on(&thing)?;
            next += 1;
        }
    }
    waiting.values().try_for_each(hand_on)
}

/// Does what takes its time on a thread of its own, and hands on here, in their order, what it says is there meanwhile. What it
/// fails with counts more than what handing on does.
fn telling<T: Send, E: Send>(
    deed: impl FnOnce(mpsc::Sender<(usize, T)>) -> Result<(), E> + Send,
    tell: &mut dyn FnMut(&T) -> Result<(), E>,
) -> Result<(), E> {
    let (there, come) = mpsc::channel();
    thread::scope(|scope| {
        let all = scope.spawn(move || deed(there));
        let told = in_order(come, tell);
        let all = all.join();
        all.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        told
    })
}

/// Keeps gc away from all of an image.
fn protect(lease: &Lease, image: &ImageDocuments, top: &OciDigest) -> Result<(), BuildError> {
    let layers = image.manifest.layers.iter().map(|layer| layer.digest);
    let documents = [*top, image.descriptor.digest, image.id()];
    let blobs = documents.into_iter().chain(layers);
    let roots: Vec<LeaseRoot> = blobs.map(LeaseRoot::Blob).collect();
    lease.protect_all(&roots).map_err(failure::store)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn what_comes_out_of_order_is_told_in_order() {
        let told = |come: &[usize]| {
            let mut told = Vec::new();
            let come = come.iter().map(|at| (*at, at * 10));
            in_order(come, &mut |thing| {
                told.push(*thing);
                Ok::<_, ()>(())
            })
            .unwrap();
            told
        };
        assert_eq!(told(&[2, 0, 1, 3]), [0, 10, 20, 30]);
        // The second never came.
        assert_eq!(told(&[3, 0, 2]), [0, 20, 30]);
        let mut first = Vec::new();
        let refused = in_order([(1, 'b'), (0, 'a'), (2, 'c')], &mut |thing| {
            first.push(*thing);
            Err(*thing)
        });
        assert_eq!((refused, first), (Err('a'), vec!['a']));
    }
}
