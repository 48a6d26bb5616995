//! Line 8 of the pipeline: layers + config → manifest; several platforms → index.

use rayon::prelude::*;

use rbuild_cache::BlobOptions;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::Snapshot;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;

use crate::clock;
use crate::exporter::ReadyImage;
use crate::exporter::ReadyIndex;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::ImageLayer;
use crate::image::Index;
use crate::image::history::FinishOptions;
use crate::image::history::finish;
use crate::image::media_type;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::request::BuildRequest;
use crate::request::Compression;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::ui::EventSink;

/// What was built, and how.
pub(super) struct Made<'a> {
    pub(super) output: &'a Output,
    pub(super) definition: &'a PrunedDefinition,
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

/// An image, its layers as blobs. `clamp` is what the plan says about times.
pub(super) fn image(
    request: &BuildRequest,
    spec: &OutputSpec,
    clamp: Option<i64>,
    engine: &Engine<'_>,
    made: &Made<'_>,
    snapshot: Snapshot,
    cancel: &CancelToken,
) -> Result<ReadyImage, OpError> {
    let clamp = if spec.rewrite_timestamp {
        request.source_date_epoch
    } else {
        clamp
    };
    let options = BlobOptions {
        compression: compression(spec),
        clamp,
    };
    // Whoever reads blobs needs their bytes; rbuild's own store can make them again from directories.
    let keep = match spec.kind {
        // Directories have the times that were, so they are not what a blob with others is made of again.
        OutputKind::Image { push } => push || clamp.is_some(),
        OutputKind::Oci { .. } | OutputKind::Docker { .. } | OutputKind::Load => true,
        OutputKind::Tar { .. } | OutputKind::Local { .. } | OutputKind::CacheOnly => false,
    };
    let described_by = |blob: LayerBlob| {
        let suffix = match blob.compression {
            rbuild_cache::Compression::None => "",
            rbuild_cache::Compression::Gzip { .. } => "+gzip",
            rbuild_cache::Compression::Zstd { .. } => "+zstd",
        };
        let media_type = format!("{}{suffix}", media_type::OCI_LAYER);
        (
            Descriptor::new(media_type, blob.digest, blob.size),
            blob.diff_id,
        )
    };
    // A base's blob is exported as it came, unless it is to be another. What a plan says about times is said of what it
    // makes: a base that is pinned has always the same.
    let as_it_came = |layer: &LayerRef| {
        let origin = layer.origin.clone()?;
        if spec.force_compression || (spec.rewrite_timestamp && clamp.is_some()) {
            return None;
        }
        let media_type = Format::Oci.layer(&origin.media_type);
        let descriptor = Descriptor::new(media_type, origin.digest, origin.size);
        Some((descriptor, origin))
    };
    let ready = |layer: &LayerRef| -> Result<Option<(Descriptor, OciDigest)>, OpError> {
        if let Some((descriptor, origin)) = as_it_came(layer) {
            // A registry may have it: then nobody here needs it.
            let pushed = matches!(spec.kind, OutputKind::Image { .. });
            let there = pushed || !keep || engine.store().blobs().contains(&origin.digest);
            return Ok(there.then_some((descriptor, origin.diff_id)));
        }
        Ok(engine.ready_blob(layer, &options, keep)?.map(described_by))
    };
    let make = |layer: &LayerRef| -> Result<(Descriptor, OciDigest), OpError> {
        if let Some((descriptor, origin)) = as_it_came(layer) {
            engine.fetch_blob(&origin)?;
            return Ok((descriptor, origin.diff_id));
        }
        engine
            .layer_blob(layer, &options, keep, cancel)
            .map(described_by)
    };
    // An unchanged build has nothing to make here, and must not start a thread to find that out.
    let known: Vec<Option<(Descriptor, OciDigest)>> = snapshot
        .layers
        .iter()
        .map(ready)
        .collect::<Result<_, _>>()?;
    let described: Vec<(Descriptor, OciDigest)> = match known.iter().any(Option::is_none) {
        false => known.into_iter().flatten().collect(),
        // One layer is compressed in parallel already; several small ones side by side as well.
        true => known
            .into_par_iter()
            .zip(&snapshot.layers)
            .map(|(known, layer)| known.map_or_else(|| make(layer), Ok))
            .collect::<Result<_, _>>()?,
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
    let output = made.output;
    let options = FinishOptions {
        format: Format::Oci,
        epoch: request.source_date_epoch.or(clamp),
        annotations: Default::default(),
    };
    let finished = finish(&output.config, &layers, &options);
    Ok(ReadyImage {
        platform: output.platform.clone(),
        id: finished.config_descriptor.digest,
        config: finished.config,
        manifest: finished.manifest,
        descriptor: finished.descriptor,
        layers: described
            .into_iter()
            .map(|(descriptor, _)| descriptor)
            .zip(snapshot.layers.clone())
            .collect(),
        snapshot,
    })
}

fn compression(spec: &OutputSpec) -> rbuild_cache::Compression {
    use rbuild_cache::Compression as Blob;
    match (spec.compression, &spec.kind) {
        (
            Compression::Default,
            OutputKind::Image { push: false }
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

/// The index over several platforms.
pub(super) fn index(images: &[ReadyImage]) -> Option<ReadyIndex> {
    if images.len() < 2 {
        return None;
    }
    let entries = images
        .iter()
        .map(|image| image.descriptor.clone())
        .collect();
    let document = Index::new(Format::Oci, entries).to_json();
    let descriptor = Descriptor::of(media_type::OCI_INDEX, &document);
    Some(ReadyIndex {
        document,
        descriptor,
    })
}

/// The export as progress shows it.
pub(super) struct ExportStep {
    event: VertexEvent,
}

impl ExportStep {
    pub(super) fn start(spec: &OutputSpec, target: &str, events: &EventSink) -> Self {
        let what = match &spec.kind {
            OutputKind::Image { .. } => "exporting to image",
            OutputKind::Oci { .. } => "exporting to oci image format",
            OutputKind::Docker { .. } => "exporting to docker image format",
            OutputKind::Load => "loading into the local engine",
            OutputKind::Tar { .. } => "sending tarball",
            OutputKind::Local { .. } => "exporting to client directory",
            OutputKind::CacheOnly => "keeping the cache only",
        };
        let hash = blake3::hash(format!("export {target} {:?}", spec.kind).as_bytes());
        let event = VertexEvent {
            digest: format!("sha256:{}", hash.to_hex()),
            inputs: Vec::new(),
            name: what.to_owned(),
            started: Some(clock::now()),
            completed: None,
            cached: false,
            error: String::new(),
        };
        events.send(Event::Vertex(event.clone()));
        Self { event }
    }

    pub(super) fn end(mut self, error: Option<String>, events: &EventSink) {
        self.event.completed = Some(clock::now());
        self.event.error = error.unwrap_or_default();
        events.send(Event::Vertex(self.event));
    }
}
