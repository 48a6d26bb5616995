//! Line 8 of the pipeline: layers + config → manifest; several platforms → index.

use std::collections::BTreeMap;

use rbuild_cache::BlobOptions;
use rbuild_cache::Growing;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Snapshot;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;

use super::once::once_each;
use super::task::Task;
use crate::exporter::ReadyImage;
use crate::exporter::ReadyIndex;
use crate::exporter::begun::Begun;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::ImageLayer;
use crate::image::Index;
use crate::image::history::FinishOptions;
use crate::image::history::finish;
use crate::image::media_type;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::remote::Known;
use crate::remote::catalogue::identity;
use crate::remote::inline;
use crate::request::AnnotationLevel;
use crate::request::BuildRequest;
use crate::request::Compression;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;
use crate::ui::EventSink;

/// What was built, and how.
pub(super) struct Made<'a> {
    pub(super) output: &'a Output,
    pub(super) definition: &'a PrunedDefinition,
    /// What is known of the steps, if the image is to have it in it.
    pub(super) known: Option<&'a [Known]>,
    /// The archive that begins with the image's layers.
    pub(super) begun: Option<&'a Begun>,
}

impl Made<'_> {
    /// Says of each layer which step made it, as BuildKit's exporter does where a base has less history than layers.
    fn name(&self, layers: &mut [ImageLayer]) {
        let mut root = self.output.root;
        for layer in layers.iter_mut().rev() {
            let Some(vertex) = root.and_then(|edge| self.definition.get(&edge.vertex)) else {
                return;
            };
            let below = match &vertex.op {
                Op::Source(source) => {
                    layer.created_by = match source {
                        SourceOp::Image(image) => format!("pulled from {}", pinned(image)),
                        _ => vertex.meta.name.clone(),
                    };
                    continue;
                }
                Op::Exec(exec) => {
                    let mut mounts = exec.mounts.iter();
                    mounts
                        .find(|mount| mount.dest == "/")
                        .and_then(|mount| mount.input)
                }
                Op::File(file) => file.actions.first().and_then(|action| match action.input {
                    FileInput::Input(index) => Some(index),
                    FileInput::Scratch | FileInput::Action(_) => None,
                }),
                Op::Merge | Op::Diff => Some(0),
            };
            layer.created_by.clone_from(&vertex.meta.name);
            root = below.map(|index| vertex.inputs[index]);
        }
    }
}

fn pinned(image: &ImageSource) -> String {
    let name = image.reference.split('@').next().unwrap_or_default();
    match &image.digest {
        Some(digest) => format!("{name}@{digest}"),
        None => name.to_owned(),
    }
}

/// What times in the layers of an output are clamped to, Unix seconds; `clamp` is what the plan says.
pub(super) fn rewritten(
    request: &BuildRequest,
    spec: &OutputSpec,
    clamp: Option<i64>,
) -> Option<i64> {
    let epoch = spec.epoch.or(request.source_date_epoch);
    let clamp = clamp.map(|of_plan| epoch.unwrap_or(of_plan));
    epoch.filter(|_| spec.rewrite_timestamp).or(clamp)
}

/// How a layer is written for an output. Those of a base have the times they came with, whatever else is made of them: it is
/// pinned, and always the same.
pub(super) fn blob_options(
    spec: &OutputSpec,
    rewritten: Option<i64>,
    layer: &LayerRef,
) -> BlobOptions {
    BlobOptions {
        compression: compression(spec),
        clamp: rewritten.filter(|_| layer.origin.is_none()),
    }
}

/// An image, its layers as blobs, and when it was created. `clamp` is what the plan says about times.
pub(super) fn image(
    request: &BuildRequest,
    spec: &OutputSpec,
    clamp: Option<i64>,
    engine: &Engine<'_>,
    made: &Made<'_>,
    snapshot: &Snapshot,
    cancel: &CancelToken,
) -> Result<(ReadyImage, Option<String>), OpError> {
    let epoch = spec.epoch.or(request.source_date_epoch);
    let rewritten = rewritten(request, spec, clamp);
    let clamp = clamp.map(|of_plan| epoch.unwrap_or(of_plan));
    let options = |layer: &LayerRef| blob_options(spec, rewritten, layer);
    // Whoever reads blobs needs their bytes; rbuild's own store can make them again from directories.
    let keep = match spec.kind {
        // Directories have the times that were, so they are not what a blob with others is made of again.
        OutputKind::Image(ImageOutput { push, .. }) => push != Push::No || rewritten.is_some(),
        OutputKind::Oci { .. } | OutputKind::Docker { .. } | OutputKind::Load { .. } => true,
        OutputKind::Tar { .. } | OutputKind::Local { .. } | OutputKind::CacheOnly => false,
    };
    let pushed = spec.kind.pushes();
    let described_by = |blob: LayerBlob| {
        (
            Descriptor::new(blob.media_type(), blob.digest, blob.size),
            blob.diff_id,
        )
    };
    // A base's blob is exported as it came, unless it is to be another.
    let as_it_came = |layer: &LayerRef| {
        let origin = layer.origin.clone()?;
        if spec.force_compression {
            return None;
        }
        let media_type = Format::Oci.layer(&origin.media_type).into_owned();
        let media_type = match spec.nondistributable {
            true => media_type,
            false => media_type::distributable(&media_type).into_owned(),
        };
        let descriptor = Descriptor::new(media_type, origin.digest, origin.size);
        Some((descriptor, origin))
    };
    let ready = |layer: &LayerRef| -> Result<Option<(Descriptor, OciDigest)>, OpError> {
        if let Some((descriptor, origin)) = as_it_came(layer) {
            engine.lease().protect(LeaseRoot::Blob(origin.digest))?;
            let there = match &spec.kind {
                // A registry may have it: then nobody here needs it.
                OutputKind::Image(output) if output.push != Push::No => true,
                // What the store names it has, or has had: a cache elsewhere may know a layer that was never here.
                OutputKind::Image(_) => {
                    engine.store().blobs().contains(&origin.digest)
                        || engine.has_directory(layer)
                        || engine.store().known_layer(&origin.digest)?.is_some()
                }
                _ => !keep || engine.store().blobs().contains(&origin.digest),
            };
            return Ok(there.then_some((descriptor, origin.diff_id)));
        }
        let ready = match engine.ready_blob(layer, &options(layer), keep)? {
            None if pushed => engine.blob_that_stays(layer, &options(layer))?,
            ready => ready,
        };
        Ok(ready.map(described_by))
    };
    let make = |layer: &LayerRef,
                along: Option<&dyn Fn(Growing)>|
     -> Result<(Descriptor, OciDigest), OpError> {
        if let Some((descriptor, origin)) = as_it_came(layer) {
            engine.fetch_blob(&origin)?;
            return Ok((descriptor, origin.diff_id));
        }
        engine
            .layer_blob_along(layer, &options(layer), keep, along, cancel)
            .map(described_by)
    };
    let known = || -> Result<Vec<Option<(Descriptor, OciDigest)>>, OpError> {
        snapshot.layers.iter().map(ready).collect()
    };
    let all_of = |known: Vec<_>| known.into_iter().collect::<Option<Vec<_>>>();
    // One layer is compressed in parallel already; several small ones side by side as well.
    let make_all = || -> Result<Vec<(Descriptor, OciDigest)>, OpError> {
        let known = known()?;
        // Behind layers that are known it is known where the next one is to be.
        let sizes: Vec<_> = known.iter().map_while(Option::as_ref).collect();
        let next = sizes.len();
        let sizes: BTreeMap<_, _> = sizes
            .into_iter()
            .map(|(descriptor, _)| (descriptor.digest, descriptor.size))
            .collect();
        let along = made.begun.map(|begun| {
            let sizes = &sizes;
            move |growing| begun.begin(sizes.values().copied(), growing)
        });
        let layers = known.into_iter().zip(&snapshot.layers).enumerate();
        let layers: Vec<_> = layers
            .map(|(at, (known, layer))| (at, known, layer))
            .collect();
        let of = |(_, _, layer): &(_, _, &LayerRef)| {
            let origin = layer.origin.as_ref().map(|origin| origin.digest);
            (layer.layer.tree, origin)
        };
        once_each(&layers, of, |(at, known, layer)| match (known, &along) {
            (Some(known), _) => Ok(known.clone()),
            (None, Some(along)) if *at == next => make(layer, Some(along)),
            (None, _) => make(layer, None),
        })
    };
    // An unchanged build has nothing to make here, and must not start a thread to find that out.
    let described: Vec<(Descriptor, OciDigest)> = match all_of(known()?) {
        Some(described) => described,
        None => {
            let layers = snapshot.layers.iter();
            let layers = layers.map(|layer| format!("{} {:?}", layer.layer.tree, options(layer)));
            let name = format!("blobs of {keep} {}", layers.collect::<Vec<_>>().join(" "));
            engine.once(&name, || Ok(all_of(known()?)), make_all)?
        }
    };
    let mut layers: Vec<ImageLayer> = described
        .iter()
        .zip(&snapshot.layers)
        .map(|((descriptor, diff_id), layer)| ImageLayer {
            blob: descriptor.clone(),
            diff_id: *diff_id,
            created: layer.created.map(Timestamp),
            created_by: String::new(),
        })
        .collect();
    made.name(&mut layers);
    let identities: Vec<_> = snapshot
        .layers
        .iter()
        .map(|layer| (identity(layer), layer.created))
        .collect();
    let inline = made
        .known
        .and_then(|known| inline::of_image(known, &identities));
    let output = made.output;
    let of = |level| annotations(spec, level, Some(&output.platform));
    let options = FinishOptions {
        format: format(spec),
        epoch: epoch.or(clamp),
        field: inline.map(|value| (inline::FIELD, value)),
        annotations: of(AnnotationLevel::Manifest),
    };
    let finished = finish(&output.config, &layers, &options);
    let image = ReadyImage {
        id: finished.config_descriptor.digest,
        config: finished.config,
        manifest: finished.manifest,
        descriptor: Descriptor {
            annotations: of(AnnotationLevel::ManifestDescriptor),
            ..finished.descriptor
        },
        diff_ids: described.iter().map(|(_, diff_id)| *diff_id).collect(),
        layers: described
            .into_iter()
            .map(|(descriptor, _)| descriptor)
            .zip(snapshot.layers.clone())
            .collect(),
    };
    Ok((image, finished.created))
}

fn format(spec: &OutputSpec) -> Format {
    match spec.docker_types {
        true => Format::Docker,
        false => Format::Oci,
    }
}

/// What is said of a level, and, of manifests, for a platform: that counts more than what is said of all. What is said of
/// the index for a platform is said of the index, as BuildKit has it.
pub(super) fn annotations(
    spec: &OutputSpec,
    level: AnnotationLevel,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let of_level = spec.annotations.iter().filter(|a| a.level == level);
    let general = of_level.clone().filter(|a| a.platform.is_none());
    let own = of_level.filter(|a| {
        a.platform.is_some() && (level.is_of_index() || a.platform.as_ref() == platform)
    });
    general
        .chain(own)
        .map(|a| (a.key.clone(), a.value.clone()))
        .collect()
}

fn compression(spec: &OutputSpec) -> rbuild_cache::Compression {
    use rbuild_cache::Compression as Blob;
    match (spec.compression, &spec.kind) {
        (
            Compression::Default,
            OutputKind::Image(ImageOutput { push: Push::No, .. })
            // An engine unpacks it at once.
            | OutputKind::Load { .. }
            | OutputKind::Tar { .. }
            | OutputKind::Local { .. }
            | OutputKind::CacheOnly,
        ) => Blob::None,
        (Compression::Uncompressed, _) => Blob::None,
        (Compression::Default, _) => Blob::Gzip { level: 6 },
        (Compression::Gzip(level), _) => Blob::Gzip {
            level: level.unwrap_or(6),
        },
        (Compression::Zstd(level), _) => Blob::Zstd {
            level: level.unwrap_or(3),
        },
    }
}

/// The index over the images of several platforms, or of one that is written as several are.
pub(super) fn index(spec: &OutputSpec, images: &[ReadyImage]) -> ReadyIndex {
    let entries = images.iter().map(|image| image.descriptor.clone());
    index_of(spec, entries.collect())
}

/// The index over these manifests.
pub(super) fn index_of(spec: &OutputSpec, entries: Vec<Descriptor>) -> ReadyIndex {
    let mut index = Index::new(format(spec), entries);
    index.annotations = annotations(spec, AnnotationLevel::Index, None);
    let document = index.to_json();
    let descriptor = Descriptor {
        annotations: annotations(spec, AnnotationLevel::IndexDescriptor, None),
        ..Descriptor::of(format(spec).index(), &document)
    };
    ReadyIndex {
        document,
        descriptor,
    }
}

/// Begins an export.
pub(super) fn begin<'e>(spec: &OutputSpec, target: &str, events: &'e EventSink) -> Task<'e> {
    let what = match &spec.kind {
        OutputKind::Image { .. } => "exporting to image",
        OutputKind::Oci { .. } => "exporting to oci image format",
        OutputKind::Docker { .. } => "exporting to docker image format",
        OutputKind::Load { .. } => "loading into the local engine",
        OutputKind::Tar { .. } => "sending tarball",
        OutputKind::Local { .. } => "exporting to client directory",
        OutputKind::CacheOnly => "keeping the cache only",
    };
    Task::start(&format!("export {target} {:?}", spec.kind), what, events)
}
