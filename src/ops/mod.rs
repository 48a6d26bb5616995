//! Evaluates ops: [`source`] (images: `pull`), [`file`], [`exec`] and [`stack`] (merge and diff) each know one kind.
//!
//! [`Engine`] is the real [`Evaluate`]. It owns nothing that outlives the build but what it puts into the store, and
//! it is told everything (contexts, secrets, pins are in the graph) when it is made. A step's result is a
//! [`Snapshot`]: layers, and the merged tree they add up to.

pub mod bytes;
mod cache;
pub mod copy;
mod error;
pub mod exec;
pub mod file;
mod forms;
pub(crate) mod git;
pub(crate) mod http;
pub mod mode;
mod near_by;
mod nearest;
pub mod owner;
mod pull;
mod remote;
mod roots;
pub mod source;
pub mod ssh;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod transfer;
mod turn;
pub mod why;
mod workspace;

pub use error::ExitText;
pub use error::OpError;
pub(crate) use near_by::Coming;
pub(crate) use near_by::NearBy;
pub(crate) use pull::side_by_side;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rbuild_cache::CacheBackend;
use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Ownership;
use rbuild_cache::Record;
use rbuild_cache::RemoteCache;
use rbuild_cache::Scan;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::KeyRecord;
use rbuild_llb::Op;
use rbuild_llb::TreeId;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::encode::Encoder;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;

use crate::clock;
use crate::registry;
use crate::request::SecretSource;
use crate::request::SshSource;
use crate::sandbox::Stacking;
use crate::solver::Earlier;
use crate::solver::Evaluate;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::Load;
use crate::solver::Made;
use crate::solver::PlannedState;
use crate::solver::PlannedStep;
use crate::solver::StepControl;
use turn::Turn;

/// A directory that a local source reads.
#[derive(Debug, Clone)]
pub struct LocalRoot {
    /// The directory.
    pub path: PathBuf,
    /// As the user named it.
    pub shown: String,
}

/// What the engine is told about the build.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// The directories behind local sources, by name.
    pub locals: BTreeMap<String, LocalRoot>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Who signs for steps, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// What earlier builds of the same plan are found under, to explain misses.
    pub plan: String,
    /// Times of files the build itself makes, Unix seconds; `None` for now.
    pub source_date_epoch: Option<i64>,
    /// Whether the network may be asked.
    pub offline: bool,
    /// `--min-rung=1`: results that were made with one user id are none.
    pub ranges_only: bool,
    /// Steps of which what they wrote is of use even if they failed.
    pub kept: BTreeSet<VertexId>,
    /// What is done about steps that fail.
    pub failing: exec::Failing,
}

/// Evaluates the ops of one build.
pub struct Engine<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) definition: &'a Definition,
    pub(crate) registry: &'a registry::Client,
    pub(crate) cancel: &'a CancelToken,
    pub(crate) options: EngineOptions,
    /// The id map directory forms are written in; see [`rbuild_cache::Store::layer_form`].
    pub(crate) domain: String,
    pub(crate) ownership: Ownership,
    executor: Option<Box<dyn exec::Executor>>,
    /// Where the build's steps keep and find each other's results.
    backend: &'a dyn CacheBackend,
    /// Where results are looked for that the build's own place does not know.
    remote: Option<&'a dyn RemoteCache>,
    far: remote::Far,
    /// Who is told what steps made.
    results: Option<Listener>,
    scans: Mutex<BTreeMap<LocalSource, Arc<Scan>>>,
    bytes: bytes::Bytes,
    pulls: pull::Pulls,
    workspaces: workspace::Workspaces,
    /// Agents that hold keys of files, by id.
    key_agents: Mutex<BTreeMap<String, ssh::KeyAgent>>,
    roots: roots::Roots,
    /// Whether the layers below a process are stacked by overlayfs.
    stacks: AtomicBool,
    counterparts: OnceLock<nearest::Counterparts>,
    /// What steps left that failed, of those that are kept.
    left: Mutex<BTreeMap<VertexId, Snapshot>>,
    /// Tells this build from others.
    build: String,
    /// The first step that failed, if it is to be entered.
    held: Mutex<Option<exec::HeldFailure>>,
    /// Steps that failed and are kept.
    enterable: Mutex<BTreeSet<VertexId>>,
    /// Whether a process failed when the store's disk had next to nothing free.
    filled: AtomicBool,
    /// Whether it was said that the network of steps is not what it could be.
    network_was_remarked: AtomicBool,
    mounts: cache::Mounts,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// Gets what a step made when it is kept, on the step's thread.
type Listener = Box<dyn Fn(&Vertex, &StepResult) + Send + Sync>;

/// All outputs of a step.
#[derive(Debug, Clone)]
pub struct StepResult {
    /// By output index.
    pub outputs: Arc<Vec<Snapshot>>,
}

impl<'a> Engine<'a> {
    /// An engine that cannot run processes yet.
    pub fn new(
        store: &'a Store,
        lease: &'a Lease,
        definition: &'a Definition,
        registry: &'a registry::Client,
        cancel: &'a CancelToken,
        options: EngineOptions,
        domain: String,
    ) -> Self {
        Self {
            store,
            lease,
            definition,
            registry,
            cancel,
            options,
            domain,
            ownership: Ownership::Keep,
            executor: None,
            backend: store.records(),
            remote: None,
            far: remote::Far::default(),
            results: None,
            scans: Mutex::default(),
            bytes: bytes::Bytes::default(),
            pulls: pull::Pulls::new(),
            workspaces: workspace::Workspaces::default(),
            key_agents: Mutex::default(),
            roots: roots::Roots::default(),
            stacks: AtomicBool::new(true),
            counterparts: OnceLock::new(),
            left: Mutex::default(),
            build: format!("{}-{}", clock::now().0, std::process::id()),
            held: Mutex::default(),
            enterable: Mutex::default(),
            filled: AtomicBool::new(false),
            network_was_remarked: AtomicBool::new(false),
            mounts: cache::Mounts::default(),
        }
    }

    /// The file system as a step left it that failed, if it is one of [`EngineOptions::kept`].
    pub fn left_by(&self, step: &VertexId) -> Option<Snapshot> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.get(step).cloned()
    }

    /// Whether a process failed when the disk that it wrote to had next to nothing free.
    pub fn disk_was_full(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    /// Writes what is not in the store yet of a tree, which then stays.
    fn keep_tree(&self, tree: &TreeId) -> Result<(), OpError> {
        self.keep_trees(&[*tree])
    }

    /// The same of several, which take less when they are written at once.
    fn keep_trees(&self, trees: &[TreeId]) -> Result<(), OpError> {
        let _held = self.lease.hold()?;
        self.store.trees().persist_all(trees)?;
        let roots: Vec<LeaseRoot> = trees.iter().copied().map(LeaseRoot::Tree).collect();
        self.lease.protect_all(&roots)?;
        Ok(())
    }

    /// Looks at the disk after a process failed, while what it wrote is still there.
    fn look_at_the_disk(&self) {
        let free = self.store.space().map_or(u64::MAX, |space| space.free);
        if free < NEXT_TO_NOTHING {
            self.filled.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the engine which processes must run, as far as is known: what they will see is made ready for them as it
    /// comes in.
    pub fn expect<'v>(&mut self, pending: impl Iterator<Item = &'v Vertex>) {
        self.pulls.expect(self.definition, pending);
    }

    /// Lets the engine take results from caches elsewhere.
    pub fn set_remote(&mut self, remote: &'a dyn RemoteCache) {
        self.remote = Some(remote);
    }

    /// Has somebody told what steps made, as soon as it is kept. He is called on their threads, and must not take long.
    pub fn tell_results(
        &mut self,
        listener: impl Fn(&Vertex, &StepResult) + Send + Sync + 'static,
    ) {
        self.results = Some(Box::new(listener));
    }

    /// Lets the engine run processes, `expected` of them as far as is known: called once this process is inside its
    /// user namespace.
    pub fn set_executor(&mut self, executor: Box<dyn exec::Executor>, expected: usize) {
        self.workspaces = workspace::Workspaces::expecting(expected);
        self.domain = executor.domain().to_owned();
        self.ownership = executor.ownership();
        self.stacks = AtomicBool::new(executor.stacking() != Stacking::Cannot);
        self.executor = Some(executor);
    }

    fn stacks(&self) -> bool {
        self.stacks.load(Ordering::Relaxed)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.store
    }

    /// The registries.
    pub fn registry(&self) -> &registry::Client {
        self.registry
    }

    /// What ends it early.
    pub fn cancel(&self) -> &CancelToken {
        self.cancel
    }

    /// Whether the network may not be asked.
    pub fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// What keeps gc away.
    pub fn lease(&self) -> &Lease {
        self.lease
    }

    /// The time files made by the build get, Unix seconds.
    fn file_time(&self) -> i64 {
        self.options
            .source_date_epoch
            .unwrap_or_else(|| (clock::now().0 / 1_000_000_000) as i64)
    }

    /// Whether every layer still has its bytes, or can fetch them again.
    pub(crate) fn usable(&self, snapshot: &Snapshot) -> Result<(), String> {
        for layer in &snapshot.layers {
            let tree = &layer.layer.tree;
            let has_blob = || {
                let blobs = self.store.all_layer_blobs(tree).unwrap_or_default();
                blobs
                    .iter()
                    .any(|blob| self.store.blobs().contains(&blob.digest))
            };
            let fetchable = layer.origin.as_ref().is_some_and(|origin| {
                self.store.blobs().contains(&origin.digest) || self.is_fetchable(origin)
            });
            let known = fetchable || self.form(tree).is_some() || has_blob();
            if !known && !self.bytes.is_made_here(tree) && !self.is_elsewhere(layer) {
                return Err(format!(
                    "only the list of the files of layer {} is in the store",
                    tree.short()
                ));
            }
        }
        Ok(())
    }

    /// What the input at `index` of `vertex` is, if it is a local source.
    fn local_input(&self, vertex: &Vertex, index: usize) -> Option<&LocalSource> {
        let edge = vertex.inputs.get(index)?;
        match &self.definition.get(&edge.vertex)?.op {
            Op::Source(SourceOp::Local(local)) => Some(local),
            _ => None,
        }
    }

    /// The definition keys of the inputs that are not local sources; those enter by what is taken from them.
    fn input_keys(&self, vertex: &Vertex, inputs: &[InputKey]) -> KeyValue {
        let keys = inputs.iter().enumerate();
        keys.map(|(index, input)| match self.local_input(vertex, index) {
            Some(_) => KeyValue::from("local"),
            None => KeyValue::List(vec![KeyValue::from(input.key), KeyValue::from(input.index)]),
        })
        .collect()
    }
}

/// With so many bytes free or fewer, what failed has failed for want of space.
const NEXT_TO_NOTHING: u64 = 1 << 20;

impl Evaluate for Engine<'_> {
    type Output = StepResult;
    type Error = OpError;
    type Turn = Turn;

    fn definition_record(
        &self,
        vertex: &Vertex,
        inputs: &[InputKey],
    ) -> Result<KeyRecord, OpError> {
        let mut record = match &vertex.op {
            Op::Source(source) => self.source_record(source)?,
            Op::Exec(exec) => self.exec_record(vertex, exec, inputs)?,
            Op::File(file) => self.file_record(vertex, file, inputs)?,
            Op::Merge | Op::Diff => {
                let mut record = KeyRecord::new(vertex.op.kind());
                record.field("inputs", self.input_keys(vertex, inputs));
                record
            }
        };
        record.field("platform", vertex.platform.to_string());
        Ok(record)
    }

    fn content_record(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, StepResult>],
    ) -> Result<Option<KeyRecord>, OpError> {
        let record = match &vertex.op {
            Op::Source(_) | Op::Merge | Op::Diff => return Ok(None),
            Op::Exec(exec) => self.exec_content_record(exec, inputs)?,
            Op::File(file) => self.file_content_record(file, inputs)?,
        };
        Ok(Some(record).map(|mut record| {
            record.field("platform", vertex.platform.to_string());
            record
        }))
    }

    fn load(&self, vertex: &Vertex, record: &KeyRecord, key: &CacheKey) -> Load<StepResult> {
        // A context is at hand since its key was made; its files are read where they are.
        if let Op::Source(SourceOp::Local(local)) = &vertex.op {
            return match self.context(local) {
                Ok(snapshot) => Load::Hit(StepResult {
                    outputs: Arc::new(vec![snapshot]),
                }),
                Err(error) => Load::Unusable(error.to_string()),
            };
        }
        // What a URL gave is found by its checksum.
        if let Op::Source(SourceOp::Http(http)) = &vertex.op {
            let found = self.known_url(http).and_then(|known| match known {
                Some(known) => Ok(Some(self.file_of_url(http, &known)?)),
                None => Ok(None),
            });
            return match found {
                Ok(Some(snapshot)) => Load::Hit(StepResult {
                    outputs: Arc::new(vec![snapshot]),
                }),
                Ok(None) => Load::Miss,
                Err(error) => Load::Unusable(error.to_string()),
            };
        }
        // Before it is looked up: what is found after this stays.
        if let Err(error) = self.lease.protect(LeaseRoot::Record(*key)) {
            return Load::Unusable(error.to_string());
        }
        let own = match self.backend.lookup(key) {
            Ok(Some(found)) => match self.all_usable(&found.outputs) {
                Ok(()) => Load::Hit(StepResult {
                    outputs: Arc::new(found.outputs),
                }),
                Err(reason) => Load::Unusable(reason),
            },
            Ok(None) => Load::Miss,
            Err(error) => Load::Unusable(error.to_string()),
        };
        self.in_time(match self.remote {
            Some(remote) if !matches!(own, Load::Hit(_)) => {
                match self.adopt(remote, vertex, record, key) {
                    Load::Miss => own,
                    answer => answer,
                }
            }
            _ => own,
        })
    }

    fn turn(
        &self,
        vertex: &Vertex,
        record: &KeyRecord,
        key: &CacheKey,
        step: &StepControl<'_>,
    ) -> Result<Option<Turn>, OpError> {
        self.turn_of(vertex, record, key, step)
    }

    fn fail(&self, turn: Turn) {
        turn.fail();
    }

    fn execute(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, StepResult>],
        step: &StepControl<'_>,
    ) -> Result<StepResult, OpError> {
        let inputs: Vec<&Snapshot> = inputs
            .iter()
            .map(|input| &input.output.outputs[input.index as usize])
            .collect();
        let mut outputs = match &vertex.op {
            Op::Source(source) => vec![self.source(vertex, source, step)?],
            Op::Exec(exec) => self.exec(vertex, exec, &inputs, step)?,
            Op::File(file) => self.file(file, &inputs, step)?,
            Op::Merge => vec![self.merge(&inputs)?],
            Op::Diff => vec![self.diff(&inputs)?],
        };
        let ran = matches!(vertex.op, Op::Exec(_)) && self.ownership == Ownership::Recorded;
        if ran || inputs.iter().any(|input| input.is_single()) {
            let last = outputs
                .iter_mut()
                .filter_map(|snapshot| snapshot.layers.last_mut());
            last.for_each(|layer| layer.single = true);
        }
        if let Op::File(_) = &vertex.op {
            self.remember_place(vertex, &outputs);
            if let Some(span) = vertex.meta.spans.first() {
                self.remember_maker(&outputs, span);
            }
        }
        Ok(StepResult {
            outputs: Arc::new(outputs),
        })
    }

    fn earlier(&self, vertex: &Vertex, record: &KeyRecord) -> Option<Earlier> {
        let earlier = self.nearest(vertex, &record.kind)?;
        Some(Earlier {
            record: earlier.record,
            duration_ms: earlier.duration_ms,
        })
    }

    fn store(
        &self,
        vertex: &Vertex,
        records: &[KeyRecord],
        output: &StepResult,
        made: Made,
    ) -> Result<(), OpError> {
        // A context is read anew each time, and a URL has its own record; their files are no result.
        if matches!(
            &vertex.op,
            Op::Source(SourceOp::Local(_) | SourceOp::Http(_))
        ) {
            return Ok(());
        }
        let trees: Vec<TreeId> = output.outputs.iter().flat_map(Snapshot::trees).collect();
        self.keep_trees(&trees)?;
        let (created, duration_ms) = match made {
            Made::Executed { started, completed } => (
                completed.0,
                u64::try_from(completed.0.saturating_sub(started.0) / 1_000_000)
                    .unwrap_or(u64::MAX),
            ),
            Made::Found { by } => self.backend.lookup(&by)?.map_or_else(
                || (clock::now().0, 0),
                |found| (found.created, found.duration_ms),
            ),
        };
        for record in records {
            // What a later miss names the files from; most of it is in the layer as well. Where it cannot be kept, that
            // one names none.
            for tree in record.trees() {
                drop(self.keep_tree(&tree));
            }
            let key = record.key();
            self.backend.publish(&Record {
                key,
                record: record.clone(),
                slot: self.slot(vertex),
                outputs: output.outputs.to_vec(),
                created,
                duration_ms,
                name: vertex.meta.name.clone(),
            })?;
        }
        self.workspaces.tidy(self.store);
        if let Some(tell) = &self.results {
            tell(vertex, output);
        }
        Ok(())
    }
}

impl Engine<'_> {
    /// How long a step took, in milliseconds: when the result that is known for it was made, or else when what stood in
    /// its place ran last.
    pub(crate) fn last_took(&self, step: &PlannedStep<'_>) -> Option<u64> {
        let key = match step.state {
            PlannedState::Cached { by } => by,
            _ => step.key,
        };
        if let Ok(Some(record)) = self.backend.lookup(&key) {
            return Some(record.duration_ms);
        }
        let nearest = self.nearest(step.vertex, step.vertex.op.kind());
        nearest.map(|record| record.duration_ms)
    }

    /// Remembers where in the plan layers were made: by what is done there and not by its number, so that instructions
    /// may come and go before it.
    fn remember_place(&self, vertex: &Vertex, outputs: &[Snapshot]) {
        for (index, output) in outputs.iter().enumerate() {
            let Some(layer) = output.layers.last() else {
                continue;
            };
            self.bytes.place_layer(layer.layer.tree, || {
                let mut op = Encoder::new();
                op.put(&vertex.op);
                let op = blake3::hash(op.bytes()).to_hex();
                let plan = &self.options.plan;
                format!("{plan}\0{}\0{op}\0{index}", vertex.platform)
            });
        }
    }
}
