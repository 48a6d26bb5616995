//! The table of what is in the keys (the documentation of [`crate::solver`]), row by row: what is changed, which of the two keys it
//! changes, and what is said of it when the step misses for that.

mod exec;
mod file;
mod source;

use std::path::Path;

use rbuild_cache::LayerRef;
use rbuild_cache::TreeRef;
use rbuild_cache::scan_dir;
use rbuild_llb::OciDigest;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::ImageSource;

use super::why::Words;
use super::*;
use crate::request::Secret;
use crate::solver::Difference;
use crate::solver::Miss;

/// Which keys are others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Both,
    Definition,
    Content,
    Neither,
}
use Keys::Both;
use Keys::Content;
use Keys::Definition as ByDefinition;
use Keys::Neither;

/// A step with all that its keys could depend on.
#[derive(Debug, Clone)]
struct Case {
    op: Op,
    name: String,
    args: Vec<String>,
    ignore_cache: bool,
    platform: Platform,
    /// The digest of the image that is input 0.
    base: u8,
    /// What that holds: a directory of the world.
    base_files: &'static str,
    /// Of how many layers.
    base_layers: usize,
    /// The directory that is the context, input 1.
    context: &'static str,
    excluded: Vec<String>,
    modes: FileModes,
    epoch: Option<i64>,
    secret: &'static str,
}

impl Case {
    fn of(op: Op) -> Self {
        Self {
            op,
            name: "[build 2/3] it".to_owned(),
            args: vec!["VERSION".to_owned()],
            ignore_cache: false,
            platform: Platform::new("linux", "amd64", ""),
            base: 1,
            base_files: "base",
            base_layers: 1,
            context: "context",
            excluded: Vec::new(),
            modes: FileModes::Exact,
            epoch: None,
            secret: "s3cret",
        }
    }

    fn exec(&mut self) -> &mut ExecOp {
        match &mut self.op {
            Op::Exec(exec) => exec,
            other => panic!("{other:?}"),
        }
    }

    fn mount(&mut self, at: usize) -> &mut Mount {
        &mut self.exec().mounts[at]
    }

    fn action(&mut self) -> &mut FileActionKind {
        match &mut self.op {
            Op::File(file) => &mut file.actions[0].kind,
            other => panic!("{other:?}"),
        }
    }

    fn copy(&mut self) -> &mut CopyAction {
        match self.action() {
            FileActionKind::Copy(copy) => copy,
            other => panic!("{other:?}"),
        }
    }
}

struct Rows {
    world: World,
    /// The number of rows that were looked at.
    seen: usize,
}

/// The two records of a step.
type Records = (KeyRecord, Option<KeyRecord>);

impl Rows {
    fn new() -> Self {
        let world = World::new();
        let write = |path: &str, text: &str| {
            let path = world.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for dir in ["context", "elsewhere", "edited", "executable", "unselected"] {
            write(&format!("{dir}/src/a.py"), "a\n");
            write(&format!("{dir}/src/b.py"), "b\n");
            write(&format!("{dir}/same/a.py"), "a\n");
            write(&format!("{dir}/other"), "other\n");
        }
        write("edited/src/a.py", "A\n");
        write("unselected/other", "changed\n");
        write("unselected/more", "more\n");
        write("base/bin/sh", "shell\n");
        write("base/usr/lib", "lib\n");
        write("base/copy/lib", "lib\n");
        write("rebuilt/bin/sh", "shell\n");
        write("rebuilt/usr/lib", "LIB\n");
        write("rebuilt/copy/lib", "lib\n");
        let mode = |path: &str, mode: u32| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(world.dir.path().join(path), mode).unwrap();
        };
        mode("context/src/a.py", 0o644);
        mode("executable/src/a.py", 0o755);
        for dir in ["elsewhere", "edited", "unselected"] {
            mode(&format!("{dir}/src/a.py"), 0o644);
        }
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1000);
        let touched = fs::File::open(world.dir.path().join("elsewhere/src/b.py"));
        touched.unwrap().set_modified(later).unwrap();
        Self { world, seen: 0 }
    }

    fn dir(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.world.dir.path()).join(name)
    }

    fn base(&self, case: &Case) -> Snapshot {
        let trees = self.world.store.trees();
        let dir = self.dir(case.base_files);
        let cancel = CancelToken::new();
        let root = scan_dir(trees, &dir, rbuild_cache::ScanKind::Plain, &cancel).unwrap();
        let layer = |layer: TreeRef| LayerRef {
            layer,
            origin: None,
            created: None,
            single: false,
        };
        let mut layers = vec![layer(trees.empty()); case.base_layers - 1];
        layers.push(layer(root));
        Snapshot { layers, root }
    }

    fn records(&self, case: &Case) -> Records {
        let World {
            dir, store, memory, ..
        } = &self.world;
        let mut definition = Definition::new();
        let vertex = |op: Op, inputs: Vec<Edge>| Vertex {
            op,
            inputs,
            platform: case.platform.clone(),
            meta: VertexMeta {
                name: case.name.clone(),
                ignore_cache: case.ignore_cache,
                args: case.args.clone(),
                ..VertexMeta::default()
            },
        };
        let image = Op::Source(SourceOp::Image(ImageSource {
            reference: "docker.io/library/base:1".to_owned(),
            digest: Some(OciDigest::from_bytes([case.base; 32])),
        }));
        let context = Op::Source(SourceOp::Local(LocalSource {
            name: "context".to_owned(),
            include: Vec::new(),
            exclude: case.excluded.clone(),
            modes: case.modes,
        }));
        let inputs = [image, context].map(|op| Edge::of(definition.add(vertex(op, Vec::new()))));
        let inputs = match case.op {
            Op::Source(_) => Vec::new(),
            _ => inputs.to_vec(),
        };
        let step = vertex(case.op.clone(), inputs.clone());
        let registry = registry_of(dir.path());
        let (lease, cancel) = (store.lease().unwrap(), CancelToken::new());
        let path = self.dir(case.context);
        let root = LocalRoot {
            shown: path.display().to_string(),
            path,
        };
        let secret = SecretSource::Value(Secret(case.secret.into()));
        let options = EngineOptions {
            locals: [("context".to_owned(), root)].into(),
            secrets: [("token".to_owned(), secret)].into(),
            source_date_epoch: case.epoch,
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(
            store,
            &lease,
            &definition,
            &registry,
            &cancel,
            options,
            "test".into(),
        );
        engine.backend = memory;
        let keys = inputs.iter().map(|edge| {
            let input = definition.get(&edge.vertex).unwrap();
            let key = engine.definition_record(input, &[]).unwrap().key();
            InputKey { key, index: 0 }
        });
        let by_definition = engine.definition_record(&step, &keys.collect::<Vec<_>>());
        let context = definition.iter().find_map(|(_, vertex)| match &vertex.op {
            Op::Source(SourceOp::Local(local)) => Some(engine.context(local).unwrap()),
            _ => None,
        });
        let results = [self.base(case), context.unwrap()].map(|snapshot| StepResult {
            outputs: Arc::new(vec![snapshot]),
        });
        let results = results.iter().take(inputs.len());
        let results: Vec<_> = results.map(|output| Input { output, index: 0 }).collect();
        (
            by_definition.unwrap(),
            engine.content_record(&step, &results).unwrap(),
        )
    }

    /// Changes a step, looks which of its keys are others, and what is said of it.
    fn row(&mut self, case: &Case, keys: Keys, said: &str, change: impl FnOnce(&mut Case)) {
        self.seen += 1;
        let row = self.seen;
        let mut changed = case.clone();
        change(&mut changed);
        let (before, after) = (self.records(case), self.records(&changed));
        let key = |record: &Option<KeyRecord>| record.as_ref().map(KeyRecord::key);
        let got = match (
            before.0.key() != after.0.key(),
            key(&before.1) != key(&after.1),
        ) {
            (true, true) => Both,
            (true, false) => ByDefinition,
            (false, true) => Content,
            (false, false) => Neither,
        };
        assert_eq!(got, keys, "row {row}: {said}\n{before:#?}\n{after:#?}");
        let difference = match keys {
            Neither => return assert_eq!(said, ""),
            Content => (before.1.unwrap(), after.1.unwrap()),
            Both | ByDefinition => (before.0, after.0),
        };
        let words = Words {
            trees: self.world.store.trees(),
            conceal: &|text| text.replace("conceal me", "***"),
        };
        let (earlier, now) = difference;
        let miss = Miss::Changed(Box::new(Difference { earlier, now }));
        let vertex = Vertex {
            op: changed.op.clone(),
            inputs: Vec::new(),
            platform: changed.platform.clone(),
            meta: VertexMeta {
                args: changed.args.clone(),
                ..VertexMeta::default()
            },
        };
        let why = words.why(&vertex, &miss, |_| String::new());
        assert_eq!(why, said, "row {row}");
    }
}
