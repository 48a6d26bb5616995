//! Caches that machines share: what a build asks of them, and what it leaves for others. Cache mounts are [`mounts`]' affair.

mod ahead;
mod blobs;
mod mounts;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::thread;

use rbuild_cache::Answer;
use rbuild_cache::LayerRef;
use rbuild_cache::Store;
use rbuild_cache::threads;
use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;

use super::assemble;
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
use crate::ops::side_by_side;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry::Client;
use crate::registry::Reference;
use crate::remote;
use crate::remote::CacheReader;
use crate::remote::CacheWriter;
use crate::remote::Imports;
use crate::remote::Known;
use crate::remote::actions;
use crate::remote::actions::Actions;
use crate::remote::actions::ActionsWriter;
use crate::remote::catalogue::Bytes;
use crate::remote::catalogue::identity;
use crate::remote::directory::Directory;
use crate::remote::directory::LocalReader;
use crate::remote::import::Import;
use crate::remote::objects;
use crate::remote::objects::Objects;
use crate::remote::objects::ObjectsWriter;
use crate::remote::repository;
use crate::remote::repository::RepositoryReader;
use crate::remote::repository::RepositoryWriter;
use crate::request::BuildRequest;
use crate::request::CachePlace;
use crate::request::CacheTo;
use crate::request::ObjectCache;
use crate::request::ObjectKeys;
use crate::request::OutputSpec;
use crate::request::Settings;
use crate::solver;
use crate::ui::EventSink;

pub(super) use ahead::Ahead;
use ahead::Brought;
use blobs::blob_of;
use blobs::blob_options;
use blobs::made;
use blobs::size_of;
use blobs::there;

/// How the source of an origin begins that is a directory of this machine.
const LAYOUT: &str = "oci-layout://";

/// Opens the caches of `--cache-from`. One that cannot be used is told of, and the build does without.
pub(super) fn import<'a>(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    store: &'a Store,
    registry: &Client,
    events: &EventSink,
) -> Option<Imports<'a>> {
    let requests = std::iter::once(request).chain(own.values().copied());
    let mut wanted: Vec<&CachePlace> = Vec::new();
    for from in requests.flat_map(|request| &request.cache_from) {
        if !wanted.contains(&from) {
            wanted.push(from);
        }
    }
    let mut caches = Vec::new();
    for from in wanted {
        let name = match from {
            CachePlace::Local { dir, name } => (format!("local:{}", dir.display()), name.as_str()),
            CachePlace::Registry { reference, .. } => (reference.clone(), ""),
            CachePlace::Actions { .. } | CachePlace::Objects(_) => (from.to_string(), ""),
        };
        let (shown, which) = name;
        let name = format!("importing cache manifest from {shown}");
        let step = Task::start(&format!("{name} {which}"), name, events);
        match open(request, from, registry) {
            Ok(cache) => caches.push(cache),
            Err(problem) => remark_on(events, &format!("a cache cannot be used: {problem}")),
        }
        step.end(None);
    }
    (!caches.is_empty()).then(|| Imports::new(store, caches))
}

fn open(request: &BuildRequest, from: &CachePlace, registry: &Client) -> Result<Import, String> {
    let shown = from.to_string();
    if request.offline && from.is_remote() {
        return Err(format!("{shown}: `--offline` asks nobody"));
    }
    let (reader, place): (Box<dyn CacheReader>, String) = match from {
        CachePlace::Local { dir, name } => {
            let reader = LocalReader::open(dir, name);
            let reader = reader.map_err(|trouble| format!("{shown}: {}", trouble.what))?;
            let path = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            (Box::new(reader), format!("{LAYOUT}{}", path.display()))
        }
        CachePlace::Registry {
            reference,
            insecure,
        } => {
            let reference: Reference = reference
                .parse()
                .map_err(|error| format!("{shown}: {error}"))?;
            let place = repository::place(&reference);
            let client = client(registry, &request.settings, &reference, *insecure, None);
            (Box::new(RepositoryReader::new(client, reference)), place)
        }
        CachePlace::Actions { scope, service } => {
            let service = service.clone();
            let service = service.ok_or_else(|| format!("{shown}: {NO_JOB}"))?;
            let reader = Actions::new(registry.clone(), service, scope.clone());
            (Box::new(reader), actions::place(scope))
        }
        CachePlace::Objects(cache) => {
            let reader = Objects::new(registry.clone(), cache.clone());
            (Box::new(reader), objects::place(cache))
        }
    };
    Import::open(reader, place, shown).map_err(|error| error.to_string())
}

/// Why GitHub's service cannot be asked.
const NO_JOB: &str = "ACTIONS_RESULTS_URL and ACTIONS_RUNTIME_TOKEN are not set; only jobs of GitHub Actions have them, and only actions get them";

/// The client that speaks to the registry of a cache.
fn client(
    registry: &Client,
    settings: &Settings,
    reference: &Reference,
    insecure: bool,
    cancel: Option<&CancelToken>,
) -> Client {
    if !insecure {
        return registry.clone();
    }
    let never = CancelToken::new();
    let host = [reference.registry.clone()];
    Client::trusting(settings, host, cancel.unwrap_or(&never))
}

/// Tells of what went wrong with caches that were opened, each once.
pub(super) fn tell(imports: Option<&Imports<'_>>, told: &mut Vec<String>, events: &EventSink) {
    let troubles = imports.map(Imports::troubles).unwrap_or_default();
    for trouble in troubles {
        if !told.contains(&trouble) {
            remark_on(events, &format!("a cache is of no use: {trouble}"));
            told.push(trouble);
        }
    }
}

/// Brings in the layers that a build will need of caches: what does not come is better known before something is built with
/// it. If not all came, it is to be looked up again what there is.
pub(super) fn fetched(
    request: &BuildRequest,
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
        let layers = bytes.then(|| layers_of(found, output.root.map_or(0, |root| root.output)));
        output.root.and(layers).map(|layers| (at, layers))
    });
    let mut needed: Vec<&LayerRef> = taken.collect();
    for (at, layers) in delivered {
        needed.extend(to_come(request, engine, targets, at, layers)?);
    }
    all_came(engine, needed.into_iter(), events)
}

/// The layers of an output that must come: not those that all registries which it is pushed to have, or take from where
/// they are.
fn to_come<'s>(
    request: &BuildRequest,
    engine: &Engine<'_>,
    targets: &[Target],
    output: usize,
    layers: impl Iterator<Item = &'s LayerRef>,
) -> Result<Vec<&'s LayerRef>, BuildError> {
    let Some(repositories) = deliver::pushed_to(targets, output) else {
        return Ok(layers.collect());
    };
    let users = targets
        .iter()
        .filter(|target| target.outputs.contains(&output));
    let users: Vec<(&OutputSpec, Option<i64>)> = users
        .flat_map(|target| target.specs().iter().map(|spec| (spec, target.clamp())))
        .collect();
    // A blob of each output, or none.
    let blobs = |layer: &LayerRef| -> Result<Option<Vec<(OciDigest, u64)>>, BuildError> {
        let mut blobs = Vec::new();
        for (spec, clamp) in &users {
            let blob = match &layer.origin {
                Some(_) if spec.force_compression => None,
                Some(origin) => engine
                    .is_far(origin)
                    .then_some((origin.digest, origin.size)),
                None => {
                    let rewritten = assemble::rewritten(request, spec, *clamp);
                    let options = assemble::blob_options(spec, rewritten, layer);
                    let blob = engine.far_blob(layer, &options).map_err(failure::op)?;
                    blob.map(|blob| (blob.digest, blob.size))
                }
            };
            let Some(blob) = blob else { return Ok(None) };
            blobs.push(blob);
        }
        Ok(Some(blobs))
    };
    let mut come = Vec::new();
    let mut asked = Vec::new();
    for layer in layers {
        match blobs(layer)? {
            Some(blobs) => asked.push((layer, blobs)),
            None => come.push(layer),
        }
    }
    let there = side_by_side(&asked, |(layer, blobs)| {
        blobs.iter().all(|(blob, size)| {
            repositories.iter().all(|to| {
                let registry = engine.registry();
                // Who does not answer will be asked again, by the push.
                let has = match engine.near(layer, blob, &to.registry) {
                    None => registry.has(to, blob),
                    Some(near) => registry.has_or_mounts(to, blob, *size, &near),
                };
                has.unwrap_or(false)
            })
        })
    });
    for ((layer, blobs), there) in asked.into_iter().zip(there) {
        match there {
            true => blobs.iter().for_each(|(blob, _)| engine.let_stay(*blob)),
            false => come.push(layer),
        }
    }
    Ok(come)
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
    let count = failed.len();
    if let Some(error) = failed.into_iter().next() {
        let more = match count {
            1 => String::new(),
            count => format!(" (and {} layers more)", count - 1),
        };
        let error = anyhow::Error::new(error);
        remark_on(events, &format!("a cache is of no use: {error:#}{more}"));
    }
    Ok(all)
}

/// A cache to write.
#[derive(Debug)]
struct Export<'a> {
    to: &'a CacheTo,
    settings: &'a Settings,
    /// Outputs of the definition.
    outputs: BTreeSet<usize>,
    /// Where images go that are made of them.
    pushed: Vec<Reference>,
}

/// What this store knows of steps: by which keys, and what they came to.
type Results = BTreeMap<VertexId, (Vec<CacheKey>, Answer)>;

/// What decides which bytes can be had: how many blobs are known to be bad, and whose directories can be read.
type Conditions = (usize, String);

/// A place to write to, or why it cannot be.
type Opened = anyhow::Result<Box<dyn CacheWriter>>;

/// The caches of `--cache-to`.
pub(super) struct Exports<'a> {
    list: Vec<Export<'a>>,
    /// What is known of all steps since nothing runs any more, and under what: finding it out is most of what an unchanged
    /// cache takes.
    known: RefCell<Option<(Conditions, Rc<Results>)>>,
    /// What came of opening them beforehand, by their positions; nothing once it is used.
    opened: RefCell<BTreeMap<usize, Option<Opened>>>,
    /// What went ahead.
    brought: RefCell<Vec<Brought>>,
}

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
                let export = match exports.iter_mut().find(|export| export.to == to) {
                    Some(export) => export,
                    None => {
                        exports.push(Export {
                            to,
                            settings: &request.settings,
                            outputs: BTreeSet::new(),
                            pushed: Vec::new(),
                        });
                        exports.last_mut().expect("it was added just now")
                    }
                };
                export.outputs.extend(target.outputs.iter().copied());
                if target.specs().iter().any(|spec| spec.kind.pushes()) {
                    let names = target.names().iter();
                    export
                        .pushed
                        .extend(names.filter_map(|name| name.parse().ok()));
                }
            }
        }
        Self {
            list: exports,
            known: RefCell::default(),
            opened: RefCell::default(),
            brought: RefCell::default(),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What is known of the steps when none is to run any more.
    fn known(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
    ) -> Result<Rc<Results>, BuildError> {
        let conditions = || (engine.bad_blobs(), engine.domain.clone());
        let mut known = self.known.borrow_mut();
        if let Some((under, known)) = &*known
            && *under == conditions()
        {
            return Ok(Rc::clone(known));
        }
        let found = self.while_opening(engine, || engine.known(definition));
        let found = Rc::new(found.map_err(failure::op)?);
        *known = Some((conditions(), Rc::clone(&found)));
        Ok(found)
    }

    /// Opens those that are far away while something else is done: what is there has to come from there.
    fn while_opening<T>(&self, engine: &Engine<'_>, deed: impl FnOnce() -> T) -> T {
        let (registry, cancel) = (engine.registry(), engine.cancel());
        let mut opened = self.opened.borrow_mut();
        let list = self.list.iter().enumerate();
        let far: Vec<(usize, &Export<'_>)> = list
            .filter(|(at, export)| export.to.place.is_remote() && !opened.contains_key(at))
            .collect();
        thread::scope(|scope| {
            let open = |&(at, export)| {
                let open = move || (at, Export::open(export, registry, cancel));
                // Who gets no thread opens it when it is written.
                threads::spawn(scope, open).ok()
            };
            let opening: Vec<_> = far.iter().map_while(open).collect();
            let done = deed();
            for thread in opening {
                let ended = thread.join();
                let (at, writer) = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                opened.insert(at, Some(writer));
            }
            done
        })
    }

    /// What came of opening a cache beforehand.
    fn opened(&self, export: &Export<'_>) -> Option<Opened> {
        let mut list = self.list.iter();
        let at = list.position(|other| std::ptr::eq(other, export))?;
        self.opened.borrow_mut().get_mut(&at)?.take()
    }

    /// Whether layers that are known already would be read as directories, whose files may have owners that are users of
    /// this machine inside the user namespace only. `settled` says that the build will know nothing more.
    pub(super) fn read_directories(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        settled: bool,
    ) -> Result<bool, BuildError> {
        if self.list.is_empty() {
            return Ok(false);
        }
        let known = match settled {
            true => self.known(engine, definition)?,
            false => Rc::new(engine.known(definition).map_err(failure::op)?),
        };
        let layers = known
            .values()
            .flat_map(|(_, answer)| answer.outputs.iter())
            .flat_map(|output| &output.layers)
            .filter(|layer| layer.origin.is_none());
        // Steps that stand on each other have most of their layers in common.
        let layers: BTreeMap<TreeId, &LayerRef> =
            layers.map(|layer| (layer.layer.tree, layer)).collect();
        let layers: Vec<&LayerRef> = layers.into_values().collect();
        for export in &self.list {
            let lack = engine.lack_blobs(&layers, &blob_options(export.to));
            let mut lack = lack.map_err(failure::op)?.into_iter();
            if lack.any(|layer| engine.has_directory(layer)) {
                return Ok(true);
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
            .list
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

    /// What sends layers to them before they are written; nothing if no step is to run: `last`.
    pub(super) fn ahead(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        last: bool,
    ) -> Ahead {
        let list: &[Export<'_>] = match last || engine.is_offline() {
            true => &[],
            false => &self.list[..],
        };
        Ahead::new(list, definition, engine.near_by(), engine.cancel())
    }

    /// Writes them.
    pub(super) fn write(
        &self,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        imports: Option<&Imports<'_>>,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
        ahead: &Ahead,
        events: &EventSink,
    ) -> Result<(), BuildError> {
        self.brought.replace(ahead.finish());
        for export in &self.list {
            let to = export.to;
            // Outside of GitHub's jobs buildx leaves it out, so that one command does for both.
            if let CachePlace::Actions { service: None, .. } = &to.place {
                remark_on(
                    events,
                    &format!("a cache was not written: {}: {NO_JOB}", to.place),
                );
                continue;
            }
            let id = format!("export cache {:?}", to.place);
            let step = Task::start(&id, export_name(&to.place), events);
            let written = export.write(self, engine, definition, imports, roots, &step);
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
        all: &Exports<'_>,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        imports: Option<&Imports<'_>>,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
        step: &Task<'_>,
    ) -> anyhow::Result<()> {
        let brought = all.brought.borrow();
        let brought = brought.iter();
        let brought = brought.filter(|blob| std::ptr::eq(&all.list[blob.export], self));
        let brought: Vec<&Brought> = brought.collect();
        for Brought { digest, sent, .. } in &brought {
            if let Some((began, ended)) = sent {
                step.did_between(&remote::layer_written(digest), *began, *ended);
            }
        }
        let began = clock::now();
        let opened = all.opened(self);
        let opened = opened.unwrap_or_else(|| self.open(engine.registry(), engine.cancel()));
        let writer = opened?;
        brought.iter().for_each(|blob| writer.trust(&blob.digest));
        let options = blob_options(self.to);
        let doubted = imports.map(Imports::doubted).unwrap_or_default();
        // What comes from another cache may not come: then what is made of it is left out.
        let (mut known, there) = loop {
            let known = all.known(engine, definition)?;
            let known = self.selected(definition, &known, imports, roots);
            let layers = layers_in(&known);
            let there = once_each(
                &layers,
                |layer| blob_of(layer),
                |layer| there(engine, layer, &options, &*writer, &doubted),
            )?;
            let lacking = layers.iter().zip(&there);
            let lacking = lacking.filter(|(_, there)| there.is_none());
            if all_came(engine, lacking.map(|(layer, _)| *layer), step.events)? {
                break (known, there);
            }
        };
        let layers = layers_in(&known);
        // A layer is made once, whatever else tells two of one tree apart.
        let found: Vec<(&LayerRef, Option<Bytes>)> = layers.iter().copied().zip(there).collect();
        let bytes = once_each(
            &found,
            |(layer, _)| blob_of(layer),
            |(layer, there)| match there {
                Some(there) => Ok(there.clone()),
                None => made(engine, layer, &options, &*writer, &doubted),
            },
        )?;
        let large = |bytes: &Bytes| size_of(bytes) > writer.most();
        let large = layers.iter().zip(&bytes).filter(|(_, bytes)| large(bytes));
        let large: BTreeSet<_> = large.map(|(layer, _)| identity(layer)).collect();
        let layers = layers.into_iter().map(identity).zip(bytes).collect();
        if !large.is_empty() {
            let count = known.len();
            known.retain(|known| {
                let outputs = known.answer.outputs.iter();
                let mut layers = outputs.flat_map(|output| &output.layers);
                layers.all(|layer| !large.contains(&identity(layer)))
            });
            let left_out = count - known.len();
            let why = format!("a layer has more than {} bytes", writer.most());
            let text = format!(
                "{left_out} steps are not in a cache: {}: {why}",
                self.to.place
            );
            remark_on(step.events, &text);
        }
        step.did("preparing build cache for export", began);
        let did = |what: &str, began| step.did(what, began);
        Ok(remote::export(
            engine.store(),
            writer,
            &known,
            &layers,
            &mut |writer| self.mounts(engine, definition, imports, writer, step),
            &doubted,
            &did,
        )?)
    }

    fn open(&self, registry: &Client, cancel: &CancelToken) -> Opened {
        writer(
            &self.to.place,
            self.settings,
            &self.pushed,
            registry,
            cancel,
        )
    }

    /// The steps to write: those that the outputs need, with `mode=min` those whose layers the images have.
    fn selected(
        &self,
        definition: &PrunedDefinition,
        known: &Results,
        imports: Option<&Imports<'_>>,
        roots: &BTreeMap<usize, BTreeSet<TreeId>>,
    ) -> Vec<Known> {
        let mut needed = BTreeSet::new();
        let mut of_images: BTreeSet<TreeId> = BTreeSet::new();
        for &at in &self.outputs {
            let root = definition.outputs[at].root.map(|edge| edge.vertex);
            reach(definition, root, &mut needed);
            of_images.extend(roots.get(&at).into_iter().flatten());
        }
        let of_image = |answer: &Answer| {
            let mut layers = answer.outputs.iter().flat_map(|output| &output.layers);
            layers.all(|layer| of_images.contains(&layer.layer.tree))
        };
        let steps = known.iter().filter(|(step, (_, answer))| {
            needed.contains(*step) && (self.to.all || of_image(answer))
        });
        let place = self.to.place.to_string();
        steps
            .map(|(_, (keys, answer))| of_step(keys, answer, imports, Some(&place)))
            .collect()
    }
}

/// What a cache is written with.
fn writer(
    to: &CachePlace,
    settings: &Settings,
    pushed: &[Reference],
    registry: &Client,
    cancel: &CancelToken,
) -> anyhow::Result<Box<dyn CacheWriter>> {
    Ok(match to {
        CachePlace::Local { dir, name } => Box::new(Directory::open(dir, name)?),
        CachePlace::Registry {
            reference,
            insecure,
        } => {
            let reference: Reference = reference.parse()?;
            let client = client(registry, settings, &reference, *insecure, Some(cancel));
            let near = pushed.iter();
            let near = near.filter(|image| image.registry == reference.registry);
            let near = near.map(|image| image.repository.clone()).collect();
            Box::new(RepositoryWriter::open(client, reference, near)?)
        }
        CachePlace::Actions { scope, service } => {
            let service = service.clone();
            let service = service.ok_or_else(|| anyhow::anyhow!(NO_JOB))?;
            let actions = Actions::new(registry.clone(), service, scope.clone());
            Box::new(ActionsWriter::open(actions)?)
        }
        CachePlace::Objects(cache) => {
            let objects = Objects::new(registry.clone(), cache.clone());
            Box::new(ObjectsWriter::open(objects)?)
        }
    })
}

/// What is known of the steps, where images are to have it in them: by target, or for all of them.
pub(super) fn inline(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    exports: &Exports<'_>,
    engine: &Engine<'_>,
    definition: &PrunedDefinition,
    imports: Option<&Imports<'_>>,
) -> Result<BTreeMap<String, Vec<Known>>, BuildError> {
    let of_own = own.iter().filter(|(_, own)| own.inline_cache);
    let mut names: Vec<String> = of_own.map(|(name, _)| (*name).to_owned()).collect();
    if request.inline_cache {
        names.push(String::new());
    }
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = exports.known(engine, definition)?;
    let known = known.values();
    let known = known.map(|(keys, answer)| of_step(keys, answer, imports, None));
    let known: Vec<Known> = known.collect();
    let each = names.into_iter().map(|name| (name, known.clone()));
    Ok(each.collect())
}

/// What is known of a step, for the cache that is called `to`.
fn of_step(
    keys: &[CacheKey],
    answer: &Answer,
    imports: Option<&Imports<'_>>,
    to: Option<&str>,
) -> Known {
    // By the keys that it was found by elsewhere it is to be found there again.
    let others = imports.map(|imports| imports.other_keys(keys, answer, to));
    let mut keys = keys.to_vec();
    for key in others.into_iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Known {
        keys,
        answer: answer.clone(),
    }
}

/// The layers of all results, each once.
fn layers_in(known: &[Known]) -> Vec<&LayerRef> {
    let outputs = known.iter().flat_map(|known| known.answer.outputs.iter());
    let layers = outputs.flat_map(|output| &output.layers);
    let mut seen = BTreeSet::new();
    layers
        .filter(|layer| seen.insert(identity(layer)))
        .collect()
}

fn export_name(place: &CachePlace) -> &'static str {
    match place {
        CachePlace::Local { .. } => "exporting cache to client directory",
        CachePlace::Registry { .. } => "exporting cache to registry",
        CachePlace::Actions { .. } => "exporting to GitHub Actions Cache",
        CachePlace::Objects(ObjectCache {
            keys: ObjectKeys::Amazon { .. },
            ..
        }) => "exporting cache to Amazon S3",
        CachePlace::Objects(_) => "exporting cache to Azure Blob Storage",
    }
}
