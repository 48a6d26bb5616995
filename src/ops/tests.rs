//! The engine on a fake executor and a fake cache: no process, no namespace.

mod keys;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rbuild_cache::Follow;
use rbuild_cache::Node;
use rbuild_cache::RecordError;
use rbuild_llb::Edge;
use rbuild_llb::ImageConfig;
use rbuild_llb::Platform;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SecurityMode;

use super::exec::Executor;
use super::*;
use crate::request::ProxySettings;
use crate::request::Registries;
use crate::request::Settings;
use crate::sandbox;
use crate::sandbox::Exit;
use crate::sandbox::SandboxError;
use crate::sandbox::Step;
use crate::sandbox::Stream;
use crate::solver;
use crate::solver::SolveError;
use crate::solver::SolveOptions;

/// How a process ends.
#[derive(Debug, Clone, Copy)]
enum End {
    With(Exit),
    /// It cannot be started.
    NotStarted,
    /// Its build is cancelled while it runs.
    Cancelled,
}

/// Writes `/dir/file` with the step's arguments, and ends as it is told.
#[derive(Debug)]
struct Writer {
    end: End,
    runs: Arc<AtomicUsize>,
    /// The build's.
    cancel: CancelToken,
}

impl Executor for Writer {
    fn domain(&self) -> &str {
        "test"
    }

    fn ownership(&self) -> Ownership {
        Ownership::Recorded
    }

    fn stacking(&self) -> Stacking {
        Stacking::Must
    }

    fn network_remark(&self, _: &CancelToken) -> Result<Option<String>, SandboxError> {
        Ok(None)
    }

    fn run(
        &self,
        step: &Step,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Exit, SandboxError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let sandbox::Root::Overlay {
            upper: Some(upper), ..
        } = &step.root
        else {
            panic!("{:?}", step.root)
        };
        assert_eq!(fs::read_dir(upper).unwrap().count(), 0, "it is not empty");
        let text = step.args.iter().map(|word| word.to_str().unwrap());
        let text = text.collect::<Vec<_>>().join(" ");
        fs::create_dir(upper.join("dir")).unwrap();
        fs::write(upper.join("dir/file"), &text).unwrap();
        output(Stream::Stdout, b"written");
        match self.end {
            End::With(exit) => Ok(exit),
            End::NotStarted => Err(SandboxError::Threads),
            End::Cancelled => {
                self.cancel.cancel();
                assert!(cancel.is_cancelled(), "the step is not told");
                Ok(Exit::Signal(9))
            }
        }
    }
}

/// Records in memory, some of which cannot be read.
#[derive(Default)]
struct Memory {
    records: Mutex<BTreeMap<CacheKey, Record>>,
    unreadable: Mutex<BTreeSet<CacheKey>>,
}

impl CacheBackend for Memory {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordError> {
        if self.unreadable.lock().unwrap().contains(key) {
            let path = "memory".into();
            return Err(RecordError::Damaged { path });
        }
        Ok(self.records.lock().unwrap().get(key).cloned())
    }

    fn publish(&self, record: &Record) -> Result<(), RecordError> {
        self.unreadable.lock().unwrap().remove(&record.key);
        let mut records = self.records.lock().unwrap();
        records.insert(record.key, record.clone());
        Ok(())
    }

    fn latest(&self, slot: &str, kind: &str) -> Result<Option<Record>, RecordError> {
        let records = self.records.lock().unwrap();
        let mut of_slot = records
            .values()
            .filter(|record| record.slot == slot && record.record.kind == kind);
        Ok(of_slot.next().cloned())
    }
}

/// `RUN` of each list of words, one on top of the other, the first on nothing.
fn runs(commands: &[&[&str]]) -> PrunedDefinition {
    let mut definition = Definition::new();
    let platform = Platform::new("linux", "amd64", "");
    let mut below = None;
    for (index, words) in commands.iter().enumerate() {
        let root = Mount {
            input: below.map(|_| 0),
            selector: String::new(),
            dest: "/".into(),
            output: Some(0),
            readonly: false,
            kind: MountKind::Bind,
        };
        let op = Op::Exec(ExecOp {
            args: words.iter().map(|&word| word.to_owned().into()).collect(),
            env: std::sync::Arc::default(),
            cwd: "/".into(),
            user: String::new(),
            mounts: vec![root],
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            proxy_env: ProxyEnv::default(),
            limits: std::sync::Arc::default(),
        });
        let id = definition.add(Vertex {
            op,
            inputs: below.map(Edge::of).into_iter().collect(),
            platform: platform.clone(),
            meta: VertexMeta {
                name: format!("[{}/2] RUN {}", index + 1, words.join(" ")),
                ..VertexMeta::default()
            },
        });
        below = Some(id);
    }
    definition.outputs.push(Output {
        name: "0".into(),
        platform,
        root: below.map(Edge::of),
        config: ImageConfig::default(),
    });
    definition.prune()
}

/// Registries that nobody asks.
fn registry_of(dir: &Path) -> registry::Client {
    registry::Client::new(&Settings {
        root: dir.to_owned(),
        temp_dir: dir.to_owned(),
        registries: Registries::default(),
        docker_config: None,
        docker_auth: None,
        ca: None,
        tag_max_age: 0,
        ranges_only: false,
        proxies: ProxySettings::default(),
        gc: crate::request::GcSettings::default(),
        stacker: None,
        isolation: Default::default(),
        nested_namespaces: true,
        emulators: Default::default(),
        keep_failed: crate::request::KeepFailed::Never,
    })
}

/// A store and a cache, kept over builds.
struct World {
    dir: tempfile::TempDir,
    store: Store,
    memory: Memory,
    remote: Option<Answers>,
}

/// What came of a build.
struct Built {
    result: Result<Snapshot, SolveError<OpError>>,
    /// Steps whose process was started.
    ran: usize,
    /// Why steps missed, in order.
    missed: Vec<String>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self {
            dir,
            store,
            memory: Memory::default(),
            remote: None,
        }
    }

    fn build(&self, definition: &PrunedDefinition, end: End) -> Built {
        let registry = registry_of(self.dir.path());
        let lease = self.store.lease().unwrap();
        let cancel = CancelToken::new();
        let mut engine = Engine::new(
            &self.store,
            &lease,
            definition,
            &registry,
            &cancel,
            EngineOptions::default(),
            "test".into(),
        );
        engine.backend = &self.memory;
        if let Some(remote) = &self.remote {
            engine.set_remote(remote);
        }
        let looked_up = solver::plan(definition, &engine).unwrap();
        let words = why::Words {
            trees: self.store.trees(),
            conceal: &|text| text.to_owned(),
        };
        let missed = looked_up.steps().filter_map(|step| match step.state {
            PlannedState::Run(miss) | PlannedState::Undecided(miss) => {
                Some(words.why(step.vertex, miss, |_| "below".to_owned()))
            }
            PlannedState::Unneeded | PlannedState::Cached { .. } => None,
        });
        let missed = missed.collect();
        let runs = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            end,
            runs: Arc::clone(&runs),
            cancel: cancel.clone(),
        };
        engine.set_executor(Box::new(writer), definition.iter().count());
        let options = SolveOptions {
            jobs: 1,
            cancel: &cancel,
            events: &|_| {},
            clock: &clock::now,
            may_fail: &|_| false,
        };
        let solved = solver::solve(looked_up, &engine, options);
        Built {
            result: solved.map(|solved| match &solved.roots[0] {
                solver::Root::Made(made) => made.outputs[0].clone(),
                _ => unreachable!("the definition has one output, which is no empty file system"),
            }),
            ran: runs.load(Ordering::Relaxed),
            missed,
        }
    }

    /// Directories a process could still be writing to.
    fn workspaces(&self) -> usize {
        let entries = fs::read_dir(self.store.path().join("tmp")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).count()
    }

    /// All paths of a tree.
    fn paths(&self, tree: &rbuild_cache::TreeRef) -> Vec<String> {
        let mut paths = Vec::new();
        let mut note = |path: &[u8], _: &rbuild_cache::Entry| {
            if !path.is_empty() {
                paths.push(String::from_utf8(path.to_vec()).unwrap());
            }
            std::ops::ControlFlow::Continue(())
        };
        self.store.trees().walk(&tree.tree, &mut note).unwrap();
        paths
    }
}

#[test]
fn what_a_process_wrote_is_its_layer() {
    let world = World::new();
    let definition = runs(&[&["first"], &["the", "second"]]);
    let built = world.build(&definition, End::With(Exit::Code(0)));
    let snapshot = built.result.unwrap();
    assert_eq!(built.ran, 2);
    assert_eq!(built.missed, ["first time", "first time"]);
    assert_eq!(snapshot.layers.len(), 2);
    for layer in &snapshot.layers {
        assert_eq!(world.paths(&layer.layer), ["dir", "dir/file"]);
    }
    let trees = world.store.trees();
    let found = trees.lookup(&snapshot.root.tree, b"dir/file", Follow::All);
    let entry = found.unwrap().unwrap().entry;
    let Node::File(file) = &entry.node else {
        panic!("{entry:?}")
    };
    assert_eq!(
        file.digest.hex(),
        blake3::hash(b"the second").to_hex().as_str()
    );
    // The layer's directory is what the process wrote, moved and not copied.
    let form = world
        .store
        .layer_form(&snapshot.layers[1].layer.tree, "test");
    assert_eq!(
        fs::read(form.unwrap().dirs()[0].join("dir/file")).unwrap(),
        b"the second"
    );
    assert_eq!(world.workspaces(), 0);
}

#[test]
fn a_process_that_fails_leaves_nothing() {
    let definition = runs(&[&["it"]]);
    for end in [
        End::With(Exit::Code(3)),
        End::With(Exit::Signal(11)),
        End::With(Exit::OutOfMemory { limit: None }),
        End::NotStarted,
        End::Cancelled,
    ] {
        let world = World::new();
        let built = world.build(&definition, end);
        let error = built.result.unwrap_err();
        let told = match (&end, &error) {
            (End::With(exit), SolveError::Failed { source, .. }) => {
                matches!(source, OpError::Failed { exit: ExitText(told), .. } if told == exit)
            }
            (End::NotStarted, SolveError::Failed { source, .. }) => {
                matches!(source, OpError::Sandbox(SandboxError::Threads))
            }
            (End::Cancelled, SolveError::Cancelled) => true,
            _ => false,
        };
        assert!(told, "{end:?}: {error:?}");
        assert!(world.memory.records.lock().unwrap().is_empty(), "{end:?}");
        assert_eq!(world.workspaces(), 0, "{end:?}");
        let layers = fs::read_dir(world.store.path().join("layers")).unwrap();
        assert_eq!(layers.count(), 0, "{end:?}");

        let again = world.build(&definition, End::With(Exit::Code(0)));
        assert!(again.result.is_ok());
        assert_eq!(again.ran, 1, "{end:?}");
        assert_eq!(again.missed, ["first time"], "{end:?}");
    }
}

#[test]
fn steps_are_kept_where_the_cache_keeps_them() {
    let world = World::new();
    let definition = runs(&[&["first"], &["second"]]);
    let end = End::With(Exit::Code(0));
    let first = world.build(&definition, end).result.unwrap();
    let again = world.build(&definition, end);
    assert_eq!((again.ran, again.result.unwrap()), (0, first.clone()));

    // Another cache knows nothing of it, whatever the store holds.
    let records = std::mem::take(&mut *world.memory.records.lock().unwrap());
    assert_eq!(world.build(&definition, end).ran, 2);
    *world.memory.records.lock().unwrap() = records;
    let again = world.build(&definition, end);
    assert_eq!((again.ran, again.result.unwrap()), (0, first));
}

#[test]
fn a_record_that_cannot_be_read_is_a_miss_that_says_so() {
    let world = World::new();
    let definition = runs(&[&["first"], &["second"]]);
    let end = End::With(Exit::Code(0));
    let first = world.build(&definition, end).result.unwrap();
    let broken: Vec<CacheKey> = world
        .memory
        .records
        .lock()
        .unwrap()
        .keys()
        .copied()
        .collect();
    world.memory.unreadable.lock().unwrap().extend(broken);
    let again = world.build(&definition, end);
    assert_eq!(again.ran, 2);
    for missed in &again.missed {
        assert!(
            missed.contains("the cache record `memory` is damaged"),
            "{missed}"
        );
    }
    assert_eq!(again.result.unwrap().root.content, first.root.content);
    assert_eq!(world.build(&definition, end).ran, 0);
}

/// Answers in memory.
struct Answers(BTreeMap<CacheKey, rbuild_cache::Answer>);

impl RemoteCache for Answers {
    fn find(
        &self,
        key: &CacheKey,
    ) -> Result<Option<rbuild_cache::Elsewhere>, rbuild_cache::RemoteError> {
        Ok(self
            .0
            .get(key)
            .cloned()
            .map(rbuild_cache::Elsewhere::Answer))
    }

    fn reaches(&self, _: &str) -> bool {
        false
    }

    fn open(
        &self,
        _: &str,
        _: &rbuild_llb::OciDigest,
        _: u64,
    ) -> Option<Result<Box<dyn std::io::Read + Send>, rbuild_cache::RemoteError>> {
        None
    }

    fn has_mount(&self, _: &rbuild_cache::CacheMountName) -> Option<u64> {
        None
    }

    fn begin_mount(
        &self,
        _: &rbuild_cache::CacheMountName,
        _: &std::path::Path,
        _: Ownership,
        _: &CancelToken,
    ) -> Result<(), rbuild_cache::RemoteError> {
        unreachable!("it has none")
    }
}

/// What a cache elsewhere knows is used and becomes a record like any other, unless it contradicts itself.
#[test]
fn results_from_elsewhere_are_kept_as_if_the_step_had_run() {
    let mut world = World::new();
    let definition = runs(&[&["first"], &["second"]]);
    let end = End::With(Exit::Code(0));
    let made = world.build(&definition, end).result.unwrap();
    let records = std::mem::take(&mut *world.memory.records.lock().unwrap());
    let answers = |change: &dyn Fn(&mut Snapshot)| {
        let answer = |record: &Record| {
            let mut outputs = record.outputs.clone();
            outputs.iter_mut().for_each(change);
            rbuild_cache::Answer {
                outputs: outputs.into(),
                created: record.created,
                duration_ms: record.duration_ms,
            }
        };
        let answers = records.iter().map(|(key, record)| (*key, answer(record)));
        Answers(answers.collect())
    };
    let empty = world.store.trees().empty();
    world.remote = Some(answers(&|snapshot| snapshot.root = empty));
    let refused = world.build(&definition, end);
    assert_eq!(refused.ran, 2);
    for missed in &refused.missed {
        assert!(missed.contains("does not fit"), "{missed}");
    }
    world.memory.records.lock().unwrap().clear();
    world.remote = Some(answers(&|_| {}));
    let found = world.build(&definition, end);
    assert_eq!((found.ran, found.result.unwrap()), (0, made.clone()));
    // The last step's alone was asked for.
    let kept = world.memory.records.lock().unwrap().clone();
    assert_eq!(kept.len(), 1);
    for (key, record) in kept {
        assert_eq!(record, records[&key]);
    }
    world.remote = None;
    let again = world.build(&definition, end);
    assert_eq!((again.ran, again.result.unwrap()), (0, made));
}
