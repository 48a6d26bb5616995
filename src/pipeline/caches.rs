//! Caches that machines share: what a build asks of them, and what it leaves for others.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_cache::BLOB_VERSION;
use rbuild_cache::BlobOptions;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::Origin;
use rbuild_cache::Store;
use rbuild_llb::TreeId;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;

use super::deliver;
use super::deliver::Delivering;
use super::deliver::Target;
use super::deliver::reach;
use super::failure;
use super::once::once_each;
use super::remark_on;
use super::task::Task;
use crate::clock;
use crate::ops::Engine;
use crate::ops::StepResult;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::remote;
use crate::remote::Imports;
use crate::remote::Known;
use crate::remote::catalogue::Bytes;
use crate::remote::catalogue::Written;
use crate::remote::catalogue::identity;
use crate::remote::directory::Directory;
use crate::remote::import::Import;
use crate::request::BuildRequest;
use crate::request::CacheFrom;
use crate::request::CacheTo;
use crate::request::Compression;
use crate::solver;
use crate::ui::EventSink;

/// How the source of an origin begins that is a directory of this machine.
const LAYOUT: &str = "oci-layout://";

/// Opens the caches of `--cache-from`. One that cannot be used is told of, and the build does without.
pub(super) fn import<'a>(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    store: &'a Store,
    events: &EventSink,
) -> Option<Imports<'a>> {
    let requests = std::iter::once(request).chain(own.values().copied());
    let mut wanted: Vec<&CacheFrom> = Vec::new();
    for from in requests.flat_map(|request| &request.cache_from) {
        if !wanted.contains(&from) {
            wanted.push(from);
        }
    }
    let mut caches = Vec::new();
    for from in wanted {
        let name = format!("importing cache manifest from local:{}", from.src.display());
        let step = Task::start(&format!("{name} {}", from.name), name, events);
        match Import::open(from) {
            Ok(cache) => caches.push(cache),
            Err(error) => remark_on(events, &format!("a cache cannot be used: {error}")),
        }
        step.end(None);
    }
    (!caches.is_empty()).then(|| Imports::new(store, caches))
}

/// Brings in the layers that a build will need of caches: what does not come is better known before something is built with
/// it. If not all came, it is to be looked up again what there is.
pub(super) fn fetched(
    engine: &Engine<'_>,
    definition: &PrunedDefinition,
    plan: &solver::Plan<'_, StepResult>,
    targets: &[Target],
    events: &EventSink,
) -> Result<bool, BuildError> {
    let taken = plan
        .taken()
        .flat_map(|(found, output)| layers_of(found, output));
    let outputs = definition.outputs.iter().enumerate();
    let delivered = outputs.filter_map(|(at, output)| {
        let found = plan.found_root(at)?;
        let bytes = deliver::takes_bytes(targets, at);
        bytes.then_some(layers_of(found, output.root?.output))
    });
    all_came(engine, taken.chain(delivered.flatten()), events)
}

fn layers_of(result: &StepResult, output: u32) -> impl Iterator<Item = &LayerRef> {
    let output = result.outputs.get(output as usize);
    output.into_iter().flat_map(|snapshot| &snapshot.layers)
}

fn all_came<'s>(
    engine: &Engine<'_>,
    layers: impl Iterator<Item = &'s LayerRef>,
    events: &EventSink,
) -> Result<bool, BuildError> {
    let failed = engine.fetch_far(layers).map_err(failure::op)?;
    let all = failed.is_empty();
    for error in failed {
        remark_on(
            events,
            &format!("a cache is of no use: {:#}", anyhow::Error::new(error)),
        );
    }
    Ok(all)
}

/// A cache to write.
#[derive(Debug)]
struct Export<'a> {
    to: &'a CacheTo,
    /// Outputs of the definition.
    outputs: BTreeSet<usize>,
}

/// The caches of `--cache-to`.
#[derive(Debug)]
pub(super) struct Exports<'a>(Vec<Export<'a>>);

impl<'a> Exports<'a> {
    /// Those of all targets, and those that targets have of their own.
    pub(super) fn new(
        request: &'a BuildRequest,
        own: &BTreeMap<&str, &'a BuildRequest>,
        targets: &[Target],
    ) -> Self {
        let mut exports: Vec<Export<'a>> = Vec::new();
        for target in targets {
            let of_target = own.get(target.name.as_str()).map(|own| &own.cache_to);
            for to in request
                .cache_to
                .iter()
                .chain(of_target.into_iter().flatten())
            {
                let outputs = target.outputs.iter().copied();
                match exports.iter_mut().find(|export| export.to == to) {
                    Some(export) => export.outputs.extend(outputs),
                    None => exports.push(Export {
                        to,
                        outputs: outputs.collect(),
                    }),
                }
            }
        }
        Self(exports)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether layers that are known already would be read as directories, whose files may have owners that are users of
    /// this machine inside the user namespace only.
    pub(super) fn read_directories(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
    ) -> Result<bool, BuildError> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let known = known(engine, definition)?;
        let layers: Vec<&LayerRef> = known
            .values()
            .flat_map(|known| &known.answer.outputs)
            .flat_map(|output| &output.layers)
            .collect();
        for export in &self.0 {
            let options = blob_options(export.to);
            for layer in layers.iter().filter(|layer| layer.origin.is_none()) {
                let ready = engine.ready_blob(layer, &options, true);
                if ready.map_err(failure::op)?.is_none() && engine.has_directory(layer) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The layers of the outputs that caches are written of, by their trees.
    pub(super) fn roots(
        &self,
        delivery: &Delivering<'_>,
    ) -> Result<BTreeMap<usize, BTreeSet<TreeId>>, BuildError> {
        let outputs: BTreeSet<usize> = self
            .0
            .iter()
            .flat_map(|export| export.outputs.clone())
            .collect();
        let mut roots = BTreeMap::new();
        for at in outputs {
            let layers = delivery
                .root(at)?
                .map(|root| root.layers)
                .unwrap_or_default();
            roots.insert(at, layers.iter().map(|layer| layer.layer.tree).collect());
        }
        Ok(roots)
    }

    /// Writes them.
    pub(super) fn write(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
        events: &EventSink,
    ) -> Result<(), BuildError> {
        if self.0.is_empty() {
            return Ok(());
        }
        for export in &self.0 {
            let to = export.to;
            let id = format!("export cache {} {}", to.dest.display(), to.name);
            let step = Task::start(&id, "exporting cache to client directory", events);
            let written = export.write(engine, definition, roots, &step);
            let failed = match &written {
                Err(error) if !engine.cancel().is_cancelled() => Some(format!("{error:#}")),
                _ => None,
            };
            step.end(failed);
            match written {
                Ok(()) => {}
                Err(_) if engine.cancel().is_cancelled() => return Err(BuildError::interrupted()),
                Err(error) if to.ignore_error => {
                    remark_on(events, &format!("a cache was not written: {error:#}"));
                }
                Err(error) => {
                    let error = error.context("cannot export the cache");
                    return Err(BuildError::new(ErrorKind::Environment, error)
                        .hint("`ignore-error=true` makes a build do without"));
                }
            }
        }
        Ok(())
    }
}

impl Export<'_> {
    fn write(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
        step: &Task<'_>,
    ) -> anyhow::Result<()> {
        let began = clock::now();
        let directory = Directory::open(&self.to.dest)?;
        let options = blob_options(self.to);
        // What comes from another cache may not come: then what is made of it is left out.
        let known = loop {
            let known = self.selected(definition, &known(engine, definition)?, roots);
            let layers = known.iter().flat_map(|known| &known.answer.outputs);
            let layers = layers.flat_map(|output| &output.layers);
            let lacks = |layer: &&LayerRef| there(engine, layer, &options, &directory).is_none();
            if all_came(engine, layers.filter(lacks), step.events)? {
                break known;
            }
        };
        let mut layers: Vec<&LayerRef> = Vec::new();
        let mut seen = BTreeSet::new();
        for snapshot in known.iter().flat_map(|known| &known.answer.outputs) {
            let new = snapshot
                .layers
                .iter()
                .filter(|layer| seen.insert(identity(layer)));
            layers.extend(new);
        }
        // A layer is made once, whatever else tells two of one tree apart.
        let tree = |layer: &&LayerRef| {
            let origin = layer.origin.as_ref().map(|origin| origin.digest);
            (layer.layer.tree, origin)
        };
        let bytes = once_each(&layers, tree, |layer| {
            bytes(engine, layer, &options, &directory)
        })?;
        step.did("preparing build cache for export", began);
        let layers = layers.into_iter().map(identity).zip(bytes).collect();
        let did = |what: &str, began| step.did(what, began);
        Ok(remote::export(
            engine.store(),
            directory,
            &self.to.name,
            &known,
            &layers,
            &did,
        )?)
    }

    /// The steps to write: those that the outputs need, with `mode=min` those whose layers the images have.
    fn selected(
        &self,
        definition: &PrunedDefinition,
        known: &BTreeMap<VertexId, Known>,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
    ) -> Vec<Known> {
        let mut needed = BTreeSet::new();
        let mut of_images: BTreeSet<TreeId> = BTreeSet::new();
        for &at in &self.outputs {
            let root = definition.outputs[at].root.map(|edge| edge.vertex);
            reach(definition, root, &mut needed);
            of_images.extend(roots.get(&at).into_iter().flatten());
        }
        let of_image = |known: &Known| {
            let mut layers = known
                .answer
                .outputs
                .iter()
                .flat_map(|output| &output.layers);
            layers.all(|layer| of_images.contains(&layer.layer.tree))
        };
        let steps = known
            .iter()
            .filter(|(step, known)| needed.contains(*step) && (self.to.all || of_image(known)));
        steps.map(|(_, known)| known.clone()).collect()
    }
}

/// What is known of the steps.
fn known(
    engine: &Engine<'_>,
    definition: &PrunedDefinition,
) -> Result<BTreeMap<VertexId, Known>, BuildError> {
    let known = engine.known(definition).map_err(failure::op)?;
    let known = known.into_iter();
    Ok(known
        .map(|(step, (keys, answer))| (step, Known { keys, answer }))
        .collect())
}

/// Where a layer's bytes are, if the directory has them already, or need not have them.
fn there(
    engine: &Engine<'_>,
    layer: &LayerRef,
    options: &BlobOptions,
    directory: &Directory,
) -> Option<Bytes> {
    let has = |blob, size| directory.has(blob, size) && !engine.is_bad(blob);
    if let Some(origin) = &layer.origin {
        let source = origin.source.as_ref();
        return match source.is_some_and(|source| !source.starts_with(LAYOUT)) {
            true => Some(Bytes::Origin(origin.clone())),
            false => has(&origin.digest, origin.size).then(|| here(origin)),
        };
    }
    let known = engine.store().layer_blob(&layer.layer.tree, options);
    let blob = known.ok().flatten()?;
    has(&blob.digest, blob.size).then(|| written(blob, options))
}

/// The blob of a layer is in the store, or in the directory, or where its base comes from.
fn bytes(
    engine: &Engine<'_>,
    layer: &LayerRef,
    options: &BlobOptions,
    directory: &Directory,
) -> anyhow::Result<Bytes> {
    if let Some(there) = there(engine, layer, options, directory) {
        return Ok(there);
    }
    let (bytes, blob) = match &layer.origin {
        Some(origin) => {
            engine.fetch_blob(origin)?;
            (here(origin), origin.digest)
        }
        None => {
            let blob = engine.layer_blob(layer, options, true, engine.cancel())?;
            let digest = blob.digest;
            (written(blob, options), digest)
        }
    };
    if engine.is_bad(&blob) {
        directory.remove(&blob)?;
    }
    Ok(bytes)
}

/// A base's blob that the cache itself has.
fn here(origin: &Origin) -> Bytes {
    Bytes::Origin(Origin {
        source: None,
        ..origin.clone()
    })
}

fn written(blob: LayerBlob, options: &BlobOptions) -> Bytes {
    Bytes::Blob(Written {
        version: BLOB_VERSION,
        options: *options,
        blob,
    })
}

/// As images in archives and registries have them.
fn blob_options(to: &CacheTo) -> BlobOptions {
    use rbuild_cache::Compression as Blob;
    BlobOptions {
        compression: match to.compression {
            Compression::Uncompressed => Blob::None,
            Compression::Default => Blob::Gzip { level: 6 },
            Compression::Gzip(level) => Blob::Gzip {
                level: level.unwrap_or(6),
            },
            Compression::Zstd(level) => Blob::Zstd {
                level: level.unwrap_or(3),
            },
        },
        clamp: None,
    }
}
