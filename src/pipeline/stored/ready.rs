//! From an image of the store to one that exporters take: with all of its blobs.

use rbuild_cache::BlobOptions;
use rbuild_cache::Compression;
use rbuild_cache::KnownLayer;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Store;
use rbuild_llb::OciDigest;

use super::Documents;
use super::ImageDocuments;
use super::Needs;
use super::protect;
use crate::exporter::Export;
use crate::exporter::ReadyImage;
use crate::exporter::ReadyIndex;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::image::media_type;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::failure;
use crate::pipeline::once::once_each;
use crate::sandbox;

/// As a build compresses what it pushes.
const GZIP: Compression = Compression::Gzip { level: 6 };

/// How one layer becomes the blob that is wanted.
#[derive(Debug)]
enum Way {
    /// It is there.
    There,
    /// It is made of the layer's other forms, as this store has made it before, or would.
    Make {
        known: KnownLayer,
        options: BlobOptions,
    },
    /// A plain tar that came from elsewhere is compressed as it is.
    Compress,
}

/// An image on its way out.
pub(super) struct Going {
    /// As the user named it.
    text: String,
    documents: Documents,
    /// Of each image, of each layer.
    ways: Vec<Vec<Way>>,
}

/// An image as exporters take it.
pub(super) struct Ready {
    pub(super) images: Vec<ReadyImage>,
    pub(super) index: Option<ReadyIndex>,
}

impl Going {
    /// Finds out what is to be done; with `compress`, layers that are plain tars go compressed.
    pub(super) fn plan(
        store: &Store,
        text: &str,
        documents: Documents,
        compress: bool,
    ) -> Result<Self, BuildError> {
        let ways = documents.images.iter().map(|image| {
            let layers = image.manifest.layers.iter();
            layers
                .map(|layer| way(store, text, layer, compress))
                .collect()
        });
        Ok(Self {
            ways: ways.collect::<Result<_, _>>()?,
            text: text.to_owned(),
            documents,
        })
    }

    /// Whether layers are made of directories, which may have files that nobody can read outside the user namespace.
    fn reads_directories(&self, store: &Store) -> bool {
        let domain = sandbox::expected_domain();
        self.ways.iter().flatten().any(|way| match way {
            Way::Make { known, options } => {
                let made = store.layer_blob(&known.layer.tree, options).ok().flatten();
                let there = made.is_some_and(|blob| store.blobs().contains(&blob.digest));
                !there && store.layer_form(&known.layer.tree, &domain).is_some()
            }
            Way::There | Way::Compress => false,
        })
    }

    /// Makes what is missing.
    pub(super) fn make(&self, engine: &Engine<'_>) -> Result<Ready, BuildError> {
        let mut images = Vec::new();
        for (image, ways) in self.documents.images.iter().zip(&self.ways) {
            protect(engine.lease(), image, &self.documents.top.digest)?;
            images.push(self.image(engine, image, ways)?);
        }
        let index = self.documents.index.as_ref();
        let index = index.map(|document| self.index(document, &images));
        Ok(Ready { images, index })
    }

    fn image(
        &self,
        engine: &Engine<'_>,
        image: &ImageDocuments,
        ways: &[Way],
    ) -> Result<ReadyImage, BuildError> {
        let diff_ids = &image.config.rootfs.diff_ids;
        let layers = image.manifest.layers.iter().zip(ways).zip(diff_ids);
        let layers: Vec<_> = layers.collect();
        let digest =
            |((layer, _), diff_id): &((&Descriptor, _), &OciDigest)| (layer.digest, **diff_id);
        let layers = once_each(&layers, digest, |((layer, way), diff_id)| {
            self.layer(engine, layer, way, diff_id)
        })?;
        let (manifest, descriptor) = match layers == image.manifest.layers {
            true => (image.manifest_bytes.clone(), image.descriptor.clone()),
            false => {
                let mut manifest = image.manifest.clone();
                manifest.layers.clone_from(&layers);
                let bytes = manifest.to_json();
                let changed = Descriptor::of(manifest.media_type, &bytes);
                let descriptor = Descriptor {
                    digest: changed.digest,
                    size: changed.size,
                    ..image.descriptor.clone()
                };
                (bytes, descriptor)
            }
        };
        let snapshot = engine.image_snapshot(image.descriptor.digest, &self.text, &|_| {});
        let snapshot = snapshot.map_err(failure::op)?;
        Ok(ReadyImage {
            config: image.config_bytes.clone(),
            id: image.id(),
            manifest,
            descriptor,
            layers: layers.into_iter().zip(snapshot.layers).collect(),
            diff_ids: diff_ids.clone(),
        })
    }

    fn layer(
        &self,
        engine: &Engine<'_>,
        layer: &Descriptor,
        way: &Way,
        diff_id: &OciDigest,
    ) -> Result<Descriptor, BuildError> {
        let packed = |digest, size| Descriptor {
            media_type: format!("{}{}", layer.media_type, suffix(&layer.media_type)),
            digest,
            size,
            ..layer.clone()
        };
        match way {
            Way::There => Ok(layer.clone()),
            Way::Compress => {
                let done = engine
                    .store()
                    .compress_blob(&layer.digest, GZIP, engine.cancel());
                let (digest, size) = done.map_err(|error| failure::op(OpError::from(error)))?;
                let protected = engine.lease().protect(LeaseRoot::Blob(digest));
                protected.map_err(failure::store)?;
                Ok(packed(digest, size))
            }
            Way::Make { known, options } => {
                let of = LayerRef {
                    layer: known.layer,
                    origin: None,
                    created: None,
                    single: false,
                };
                let blob = engine.layer_blob(&of, options, true, engine.cancel());
                let blob = blob.map_err(failure::op)?;
                if blob.diff_id != *diff_id {
                    return Err(lost(&self.text, &layer.digest));
                }
                Ok(match options.compression {
                    GZIP if is_plain(layer) => packed(blob.digest, blob.size),
                    _ => layer.clone(),
                })
            }
        }
    }

    /// The index, with the manifests as they are now.
    fn index(&self, document: &[u8], images: &[ReadyImage]) -> ReadyIndex {
        let now: Vec<Descriptor> = images
            .iter()
            .map(|image| image.descriptor.clone())
            .collect();
        let before = self.documents.images.iter().map(|image| &image.descriptor);
        let document = match serde_json::from_slice::<Index>(document) {
            Ok(index) if !before.eq(&now) => Index {
                manifests: now,
                ..index
            }
            .to_json(),
            _ => document.to_vec(),
        };
        let top = &self.documents.top;
        ReadyIndex {
            descriptor: Descriptor {
                annotations: top.annotations.clone(),
                ..Descriptor::of(top.media_type.as_str(), &document)
            },
            document,
        }
    }
}

fn is_plain(layer: &Descriptor) -> bool {
    [media_type::OCI_LAYER, media_type::DOCKER_LAYER].contains(&layer.media_type.as_str())
}

/// What follows the type of a plain tar once it is gzipped.
fn suffix(plain: &str) -> &'static str {
    match Format::Docker.layer(plain) == plain {
        true => ".gzip",
        false => "+gzip",
    }
}

fn way(store: &Store, text: &str, layer: &Descriptor, compress: bool) -> Result<Way, BuildError> {
    let known = store.known_layer(&layer.digest).map_err(failure::store)?;
    let made = match known {
        None => None,
        Some(known) => {
            let options = store.written_with(&known.layer.tree, &layer.digest);
            let options = options.map_err(failure::store)?;
            options.map(|options| (known, options))
        }
    };
    let there = store.blobs().contains(&layer.digest);
    let pack = compress && is_plain(layer);
    match made {
        Some((known, options)) if pack => Ok(Way::Make {
            known,
            options: BlobOptions {
                compression: GZIP,
                ..options
            },
        }),
        _ if there && pack => Ok(Way::Compress),
        _ if there => Ok(Way::There),
        Some((known, options)) => Ok(Way::Make { known, options }),
        None => Err(lost(text, &layer.digest)),
    }
}

fn lost(text: &str, layer: &OciDigest) -> BuildError {
    let error = anyhow::anyhow!("layer {layer} of `{text}` is no longer in the store");
    BuildError::new(ErrorKind::Environment, error).hint(super::AGAIN)
}

impl Ready {
    pub(super) fn export<'e>(&'e self, engine: &'e Engine<'e>, names: &'e [String]) -> Export<'e> {
        let index = self.index.as_ref();
        let image = self.images.first().map(|image| &image.descriptor);
        Export {
            roots: &[],
            several: index.is_some(),
            images: &self.images,
            index,
            top: index.map(|index| &index.descriptor).or(image),
            names,
            epoch: None,
            store: engine.store(),
            lease: engine.lease(),
            registry: engine.registry(),
            open: &|_, _, _| Err(std::io::ErrorKind::Unsupported.into()),
            fetch: &|_, _| Ok(()),
            near: &crate::exporter::base_of,
            here: &|_| true,
            begun: None,
            cancel: engine.cancel(),
        }
    }
}

/// What it takes to make the blobs of these images.
pub(super) fn needs(store: &Store, going: &[Going]) -> Needs {
    match going.iter().any(|going| going.reads_directories(store)) {
        true => Needs::Namespace,
        false => Needs::Offline,
    }
}
