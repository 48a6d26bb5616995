//! Layers on their way to caches while later steps still run.
//!
//! What a step made is compressed by a thread of low priority, one layer after the other, and sent by two more to the places
//! that lack it. When the caches are written, after the outputs are made, what is there need not be sent again, and blobs
//! that the same registry has are mounted from there when the image is pushed.
//!
//! Only what a cache surely has is sent: with `mode=max` what any step made that its outputs need, with `mode=min` the layers
//! that outputs stand on. Only to registries and stores of objects: a directory is next door, and what a build that fails later
//! would leave in the service of GitHub Actions, named by no catalogue, would push out what others use.
//!
//! Always true:
//! - The build waits for nothing of it, but for uploads that are under way when what they send is wanted: by an image that is
//!   pushed to the same registry, or by the caches, which they are a part of.
//! - Nothing fails by it: what it could not do is done again, and told of, when the caches are written.
//! - Nothing more is begun when the last step has ended. When the build fails or is interrupted, everything stops.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;

use rayon::ThreadPool;
use rbuild_cache::BlobOptions;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::TreeId;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::cancel::OnCancel;
use rbuild_llb::definition::Edge;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;

use super::Export;
use super::blobs::blob_options;
use super::reach;
use super::writer;
use crate::clock;
use crate::ops::Coming;
use crate::ops::Engine;
use crate::ops::NearBy;
use crate::ops::StepResult;
use crate::registry::Client;
use crate::registry::Reference;
use crate::remote::CacheWriter;
use crate::request::CachePlace;
use crate::request::Settings;

/// Blobs that are sent at once.
const UPLOADS: usize = 2;
/// How much steps go before: the niceness of nice(1).
const NICE: i32 = 10;
/// With fewer bytes free the disk is left to the steps.
const ROOM: u64 = 1 << 30;

/// What a step made; or nothing, when no step makes anything any more.
type Made = Option<(VertexId, StepResult)>;

/// See the module.
pub(in crate::pipeline) struct Ahead {
    caches: Vec<Cache>,
    tell: mpsc::Sender<Made>,
    told: Mutex<Option<mpsc::Receiver<Made>>>,
    /// Nothing more is begun.
    ended: CancelToken,
    uploads: Uploads,
    _on_cancel: OnCancel,
}

/// A cache that layers are sent to.
struct Cache {
    options: BlobOptions,
    /// The outputs of steps whose layers it will have; all of a step's if none are named.
    steps: BTreeMap<VertexId, Option<BTreeSet<u32>>>,
}

/// A blob that was brought to a place.
#[derive(Debug, Clone)]
pub(super) struct Brought {
    /// The position of the export.
    pub(super) export: usize,
    pub(super) digest: OciDigest,
    /// When it was sent; it was there if it was not.
    pub(super) sent: Option<(Timestamp, Timestamp)>,
}

impl Ahead {
    /// For the caches that are far away.
    pub(super) fn new(
        exports: &[Export<'_>],
        definition: &PrunedDefinition,
        near_by: NearBy,
        cancel: &CancelToken,
    ) -> Self {
        let ended = CancelToken::new();
        let far = exports.iter().enumerate().filter(|(_, export)| {
            matches!(
                export.to.place,
                CachePlace::Registry { .. } | CachePlace::Objects(_)
            )
        });
        let (mut caches, mut places) = (Vec::new(), Vec::new());
        for (number, export) in far {
            caches.push(Cache {
                options: blob_options(export.to),
                steps: steps(export, definition),
            });
            places.push(Place::new(number, export));
        }
        let mut all = vec![ended.clone()];
        all.extend(places.iter().map(|place| place.stop.clone()));
        let on_cancel = cancel.on_cancel(move || all.iter().for_each(CancelToken::cancel));
        let (tell, told) = mpsc::channel();
        Self {
            caches,
            tell,
            told: Mutex::new(Some(told)),
            ended,
            uploads: Uploads {
                shared: Arc::new(Shared {
                    places,
                    queue: Mutex::default(),
                    changed: Condvar::new(),
                    brought: Mutex::default(),
                    near_by,
                }),
                threads: Mutex::default(),
            },
            _on_cancel: on_cancel,
        }
    }

    /// Gets what steps made, as soon as it is kept.
    pub(in crate::pipeline) fn listener(
        &self,
    ) -> Option<impl Fn(&Vertex, &StepResult) + Send + Sync + use<>> {
        let tell = self.tell.clone();
        (!self.caches.is_empty()).then_some(move |vertex: &Vertex, made: &StepResult| {
            // Nobody listens once the last step has ended.
            drop(tell.send(Some((vertex.id(), made.clone()))));
        })
    }

    /// Carries out steps, and sends what they make meanwhile.
    pub(in crate::pipeline) fn beside<T, E>(
        &self,
        engine: &Engine<'_>,
        solve: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        /// Says that nothing more is made, whatever happens.
        struct End<'a>(&'a Ahead);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.ended.cancel();
                self.0.uploads.shared.close();
                drop(self.0.tell.send(None));
            }
        }
        let told = locked(&self.told).take();
        let Some(told) = told.filter(|_| !self.caches.is_empty()) else {
            return solve();
        };
        let solved = thread::scope(|scope| {
            let end = End(self);
            let named = thread::Builder::new().name("cache-ahead".to_owned());
            let preparing = named.spawn_scoped(scope, move || self.prepare(engine, told));
            let solved = solve();
            drop(end);
            // What went wrong there goes wrong again where it is told.
            drop(preparing.map(thread::ScopedJoinHandle::join));
            solved
        });
        if solved.is_err() {
            self.uploads.abandon();
        }
        solved
    }

    /// Waits for what is under way. What was brought there, by the caches' positions.
    pub(super) fn finish(&self) -> Vec<Brought> {
        self.uploads.finish()
    }

    fn prepare(&self, engine: &Engine<'_>, told: mpsc::Receiver<Made>) {
        // The threads that are started here are as nice.
        let _ = rustix::process::nice(NICE);
        let mut pool = None;
        let mut seen: BTreeSet<(usize, TreeId)> = BTreeSet::new();
        for made in told {
            let Some((step, result)) = made else { return };
            for (number, cache) in self.caches.iter().enumerate() {
                let Some(outputs) = cache.steps.get(&step) else {
                    continue;
                };
                let made = result.outputs.iter().zip(0_u32..);
                let made = made.filter(|(_, at)| {
                    let outputs = outputs.as_ref();
                    outputs.is_none_or(|outputs| outputs.contains(at))
                });
                // Those of bases are in their registries, or come when they are asked for.
                let layers = made.flat_map(|(snapshot, _)| &snapshot.layers);
                for layer in layers.filter(|layer| layer.origin.is_none()) {
                    if self.ended.is_cancelled() {
                        return;
                    }
                    if !seen.insert((number, layer.layer.tree)) {
                        continue;
                    }
                    if let Some(blob) = self.blob(engine, layer, &cache.options, &mut pool) {
                        let path = engine.store().blobs().path(&blob.digest);
                        self.uploads.add(number, &blob, path);
                    }
                }
            }
        }
    }

    /// The blob of a layer, made if that is surely needed: one that is known and not here may be where it is to go.
    fn blob(
        &self,
        engine: &Engine<'_>,
        layer: &LayerRef,
        options: &BlobOptions,
        pool: &mut Option<ThreadPool>,
    ) -> Option<LayerBlob> {
        let ready = engine.ready_blob(layer, options, true).ok()?;
        if ready.is_some() {
            return ready;
        }
        let store = engine.store();
        let known = store.layer_blob(&layer.layer.tree, options).ok()?;
        if known.is_some() || engine.is_only_elsewhere(layer) || store.space().ok()?.free < ROOM {
            return None;
        }
        if pool.is_none() {
            *pool = rayon::ThreadPoolBuilder::new().build().ok();
        }
        let make = || engine.layer_blob(layer, options, true, &self.ended);
        pool.as_ref()?.install(make).ok()
    }
}

/// The steps whose layers a cache surely has.
fn steps(
    export: &Export<'_>,
    definition: &PrunedDefinition,
) -> BTreeMap<VertexId, Option<BTreeSet<u32>>> {
    let roots = export.outputs.iter();
    let roots = roots.filter_map(|&at| definition.outputs[at].root);
    if export.to.all {
        let mut needed = BTreeSet::new();
        roots.for_each(|root| reach(definition, Some(root.vertex), &mut needed));
        return needed.into_iter().map(|step| (step, None)).collect();
    }
    let mut steps: BTreeMap<VertexId, Option<BTreeSet<u32>>> = BTreeMap::new();
    for root in roots {
        let mut next = Some(root);
        while let Some(edge) = next {
            let outputs = steps.entry(edge.vertex).or_default();
            if !outputs.get_or_insert_default().insert(edge.output) {
                break;
            }
            next = definition
                .get(&edge.vertex)
                .and_then(|vertex| below(vertex, edge.output));
        }
    }
    steps
}

/// What an output of a step is made on top of: it has all layers of that.
fn below(vertex: &Vertex, output: u32) -> Option<Edge> {
    let input = match &vertex.op {
        Op::Exec(exec) => {
            let mut mounts = exec.mounts.iter();
            let written = mounts.find(|mount| mount.output == Some(output))?;
            written.input.filter(|_| written.selector.is_empty())?
        }
        Op::File(file) => input_below(file, output)?,
        Op::Source(_) | Op::Merge | Op::Diff => return None,
    };
    vertex.inputs.get(input).copied()
}

fn input_below(file: &FileOp, output: u32) -> Option<usize> {
    let mut actions = file.actions.iter();
    let mut action = actions.find(|action| action.output == Some(output))?;
    // None leads to itself, or to a later one; were it otherwise, this would end all the same.
    for _ in &file.actions {
        match action.input {
            FileInput::Scratch => return None,
            FileInput::Input(input) => return Some(input),
            FileInput::Action(earlier) => action = file.actions.get(earlier)?,
        }
    }
    None
}

/// Where blobs are sent.
struct Place {
    /// The position of the export.
    export: usize,
    to: CachePlace,
    settings: Settings,
    pushed: Vec<Reference>,
    /// Ends requests that are under way.
    stop: CancelToken,
    /// Opened when there is something to send; nothing if that failed.
    writer: OnceLock<Option<Box<dyn CacheWriter>>>,
    /// It refused something: it is left alone.
    refused: AtomicBool,
}

impl Place {
    fn new(number: usize, export: &Export<'_>) -> Self {
        Self {
            export: number,
            to: export.to.place.clone(),
            settings: export.settings.clone(),
            pushed: export.pushed.clone(),
            stop: CancelToken::new(),
            writer: OnceLock::new(),
            refused: AtomicBool::new(false),
        }
    }

    fn writer(&self) -> Option<&dyn CacheWriter> {
        let open = || {
            let client = Client::cancelled_by(&self.settings, &self.stop);
            writer(&self.to, &self.settings, &self.pushed, &client, &self.stop).ok()
        };
        self.writer.get_or_init(open).as_deref()
    }

    /// The repository, if it is one.
    fn repository(&self) -> Option<Reference> {
        match &self.to {
            CachePlace::Registry { reference, .. } => reference.parse().ok(),
            _ => None,
        }
    }
}

/// A blob to be sent.
struct Upload {
    /// A position in [`Shared::places`].
    place: usize,
    digest: OciDigest,
    size: u64,
    path: PathBuf,
}

/// What is to be sent, and no more if it is closed.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Upload>,
    closed: bool,
}

/// What the threads that send have in common.
struct Shared {
    places: Vec<Place>,
    queue: Mutex<Queue>,
    changed: Condvar,
    brought: Mutex<Vec<Brought>>,
    near_by: NearBy,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn close(&self) {
        let mut queue = locked(&self.queue);
        queue.closed = true;
        queue.waiting.clear();
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        locked(&self.queue).closed
    }

    /// The next one, which is on its way from now on: no image is pushed before the queue is closed.
    fn next(&self) -> Option<(Upload, Option<Coming>)> {
        let mut queue = locked(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(upload) = queue.waiting.pop_front() {
                let repository = self.places[upload.place].repository();
                let coming = repository.map(|to| self.near_by.comes(upload.digest, to));
                return Some((upload, coming));
            }
            let waited = self.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn send_all(&self) {
        while let Some((upload, coming)) = self.next() {
            let place = &self.places[upload.place];
            if place.refused.load(Ordering::Relaxed) {
                continue;
            }
            match self.send(place, &upload, coming) {
                Some(brought) => locked(&self.brought).push(brought),
                None => place.refused.store(true, Ordering::Relaxed),
            }
        }
    }

    fn send(&self, place: &Place, upload: &Upload, coming: Option<Coming>) -> Option<Brought> {
        let Upload {
            digest, size, path, ..
        } = upload;
        let tries = AtomicU32::new(0);
        let open = || {
            // Who waits for the last of it does not wait for one more try.
            if tries.fetch_add(1, Ordering::Relaxed) > 0 && self.is_closed() {
                return Err(io::Error::other("nobody waits for it"));
            }
            Ok(Box::new(File::open(path)?) as Box<dyn Read>)
        };
        let writer = place.writer()?;
        let began = clock::now();
        let sent = writer.put(digest, *size, &open).ok()?;
        if let Some(coming) = coming {
            coming.arrived();
        }
        Some(Brought {
            export: place.export,
            digest: *digest,
            sent: sent.then(|| (began, clock::now())),
        })
    }
}

/// The threads that send.
struct Uploads {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Uploads {
    fn add(&self, place: usize, blob: &LayerBlob, path: PathBuf) {
        let mut queue = locked(&self.shared.queue);
        queue.waiting.push_back(Upload {
            place,
            digest: blob.digest,
            size: blob.size,
            path,
        });
        drop(queue);
        self.shared.changed.notify_one();
        let mut threads = locked(&self.threads);
        if threads.len() < UPLOADS {
            let shared = Arc::clone(&self.shared);
            let named = thread::Builder::new().name(format!("cache-upload-{}", threads.len()));
            threads.extend(named.spawn(move || shared.send_all()).ok());
        }
    }

    fn finish(&self) -> Vec<Brought> {
        self.shared.close();
        // Whoever has not answered yet will be asked again; he is not waited for twice.
        let places = self.shared.places.iter();
        let silent = places.filter(|place| place.writer.get().is_none());
        silent.for_each(|place| place.stop.cancel());
        for thread in locked(&self.threads).drain(..) {
            // One that panicked brought nothing.
            drop(thread.join());
        }
        std::mem::take(&mut *locked(&self.shared.brought))
    }

    fn abandon(&self) {
        let places = self.shared.places.iter();
        places.for_each(|place| place.stop.cancel());
        drop(self.finish());
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.abandon();
    }
}
