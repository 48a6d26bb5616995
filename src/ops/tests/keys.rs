//! The table of what is in the keys (the documentation of [`crate::solver`]), row by row: what is changed, which of the two keys it
//! changes, and what is said of it when the step misses for that.

use std::path::Path;

use rbuild_cache::CacheMountName;
use rbuild_cache::LayerRef;
use rbuild_cache::TreeRef;
use rbuild_cache::scan_dir;
use rbuild_cache::wait::silently;
use rbuild_llb::OciDigest;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::ModeChange;
use rbuild_llb::op::Owner;
use rbuild_llb::op::SecretEnv;
use rbuild_llb::op::Ulimit;
use rbuild_llb::op::UserRef;

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
        };
        let mut layers = vec![layer(trees.empty()); case.base_layers - 1];
        layers.push(layer(root));
        Snapshot { layers, root }
    }

    fn records(&self, case: &Case) -> Records {
        let World { dir, store, memory } = &self.world;
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

fn mount(input: Option<usize>, selector: &str, dest: &str, kind: MountKind) -> Mount {
    Mount {
        input,
        selector: selector.to_owned(),
        dest: dest.to_owned(),
        output: (dest == "/").then_some(0),
        readonly: false,
        kind,
    }
}

fn cache(id: &str, sharing: CacheSharing, mode: u32, uid: u32) -> MountKind {
    MountKind::Cache {
        id: id.to_owned(),
        sharing,
        mode,
        uid,
        gid: 0,
    }
}

fn secret(id: &str, mode: u32, optional: bool) -> MountKind {
    MountKind::Secret {
        id: id.to_owned(),
        uid: 0,
        gid: 0,
        mode,
        optional,
    }
}

/// A process with a mount of each kind.
fn process() -> Case {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Case::of(Op::Exec(ExecOp {
        args: words(&["/bin/sh", "-c", "apt-get install curl"]),
        env: Arc::new(words(&["PATH=/bin", "VERSION=1.1", "API_TOKEN=hidden"])),
        cwd: "/".into(),
        user: String::new(),
        mounts: vec![
            mount(Some(0), "", "/", MountKind::Bind),
            mount(Some(1), "src", "/src", MountKind::Bind),
            mount(
                None,
                "",
                "/cache",
                cache("npm", CacheSharing::Shared, 0o755, 0),
            ),
            mount(None, "", "/tmp", MountKind::Tmpfs { size: 0 }),
            mount(
                None,
                "",
                "/run/secrets/token",
                secret("token", 0o400, false),
            ),
            mount(Some(0), "usr", "/usr2", MountKind::Bind),
        ],
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        hostname: String::new(),
        extra_hosts: vec![("db".to_owned(), "10.0.0.1".to_owned())],
        ulimits: Vec::new(),
        proxy_env: ProxyEnv::default(),
    }))
}

#[test]
fn exec_its_own() {
    let mut rows = Rows::new();
    let case = process();
    let mut both = |said: &str, change: &dyn Fn(&mut ExecOp)| {
        rows.row(&case, Both, said, |case| change(case.exec()));
    };
    both(
        "command \"apt-get install curl\" → \"apt-get install curl jq\"",
        &|exec| exec.args[2].push_str(" jq"),
    );
    both(
        "command \"/bin/sh -c apt-get install curl\" → \"/bin/bash -c apt-get install curl\"",
        &|exec| exec.args[0] = "/bin/bash".to_owned(),
    );
    both("ARG VERSION 1.1 → 1.2", &|exec| {
        Arc::make_mut(&mut exec.env)[1] = "VERSION=1.2".to_owned();
    });
    both("ENV PATH /bin → \"/usr bin\"", &|exec| {
        Arc::make_mut(&mut exec.env)[0] = "PATH=/usr bin".to_owned();
    });
    both("ENV NEW=1 added; variable VERSION removed", &|exec| {
        Arc::make_mut(&mut exec.env)[1] = "NEW=1".to_owned();
    });
    both("ENV API_TOKEN changed (its value is not shown)", &|exec| {
        Arc::make_mut(&mut exec.env)[2] = "API_TOKEN=other".to_owned();
    });
    both("WORKDIR / → /src", &|exec| exec.cwd = "/src".to_owned());
    both("USER root → app", &|exec| exec.user = "app".to_owned());
    both("--network default → none", &|exec| {
        exec.network = NetworkMode::None
    });
    both("--network default → host", &|exec| {
        exec.network = NetworkMode::Host
    });
    both("--security sandbox → insecure", &|exec| {
        exec.security = SecurityMode::Insecure;
    });
    both("variable from a secret TOKEN=id added", &|exec| {
        exec.secret_env.push(SecretEnv {
            id: "id".to_owned(),
            name: "TOKEN".to_owned(),
            optional: false,
        });
    });
    both("host name builder added", &|exec| {
        exec.hostname = "builder".to_owned()
    });
    both("--add-host db removed; --add-host web added", &|exec| {
        exec.extra_hosts[0].0 = "web".to_owned();
    });
    both("--ulimit nofile=1:2 added", &|exec| {
        exec.ulimits.push(Ulimit {
            name: "nofile".to_owned(),
            soft: 1,
            hard: 2,
        });
    });
    rows.row(&case, Both, "platform linux/amd64 → linux/arm64", |case| {
        case.platform = Platform::new("linux", "arm64", "");
    });
}

#[test]
fn exec_its_mounts() {
    let mut rows = Rows::new();
    let case = process();
    let mut both = |said: &str, at: usize, change: &dyn Fn(&mut Mount)| {
        rows.row(&case, Both, said, |case| change(case.mount(at)));
    };
    let at = "--mount target=/cache";
    both(&format!("{at} id npm → \"npm 2\""), 2, &|mount| {
        mount.kind = cache("npm 2", CacheSharing::Shared, 0o755, 0);
    });
    both(&format!("{at} sharing shared → locked"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Locked, 0o755, 0);
    });
    both(&format!("{at} mode 755 → 700"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Shared, 0o700, 0);
    });
    both(&format!("{at} uid:gid 0:0 → 7:0"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Shared, 0o755, 7);
    });
    both(&format!("{at} writable → read-only"), 2, &|mount| {
        mount.readonly = true
    });
    both(
        "--mount type=cache,target=/else,id=npm added; --mount type=cache,target=/cache,id=npm removed",
        2,
        &|mount| mount.dest = "/else".to_owned(),
    );
    both("--mount target=/tmp size 0 → 64", 3, &|mount| {
        mount.kind = MountKind::Tmpfs { size: 64 };
    });
    let at = "--mount target=/run/secrets/token";
    both(&format!("{at} id token → key"), 4, &|mount| {
        mount.kind = secret("key", 0o400, false);
    });
    both(&format!("{at} mode 400 → 444"), 4, &|mount| {
        mount.kind = secret("token", 0o444, false);
    });
    both(&format!("{at} optional false → true"), 4, &|mount| {
        mount.kind = secret("token", 0o400, true);
    });
    both(
        &format!("{at} type secret → ssh; {at} id token → agent"),
        4,
        &|mount| {
            mount.kind = MountKind::Ssh {
                id: "agent".to_owned(),
                uid: 0,
                gid: 0,
                mode: 0o400,
                optional: false,
            };
        },
    );
    both("other inputs", 1, &|mount| mount.output = Some(1));
    // What a mount shows counts, and not where in its input that is, once that is known.
    let source = "--mount target=/usr2 source usr → copy";
    rows.row(&case, ByDefinition, source, |case| {
        case.mount(5).selector = "copy".to_owned();
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let files = "in what it runs on: 1 of 3 files changed: usr/lib (content); \
                 --mount target=/usr2: 1 of 1 file changed: lib (content)";
    rows.row(&case, Content, files, |case| case.base_files = "rebuilt");
    let layers = "the layers it runs on changed";
    rows.row(&case, Content, layers, |case| case.base_layers = 2);
    let files = "--mount target=/src: 1 of 2 files changed: a.py (content)";
    rows.row(&case, Both, files, |case| case.context = "edited");
    let files = "--mount target=/src: 1 of 2 files changed: b.py (removed)";
    rows.row(&case, Both, files, |case| {
        case.excluded = vec!["**/b.py".to_owned()]
    });
}

#[test]
fn exec_what_is_in_no_key() {
    let mut rows = Rows::new();
    let case = process();
    let mut none = |change: &dyn Fn(&mut Case)| rows.row(&case, Neither, "", change);
    none(&|case| case.secret = "another");
    none(&|case| case.exec().extra_hosts[0].1 = "10.0.0.2".to_owned());
    none(&|case| case.exec().proxy_env.env = vec!["HTTP_PROXY=http://proxy".to_owned()]);
    none(&|case| case.name = "[build 7/9] something else".to_owned());
    none(&|case| case.args.clear());
    none(&|case| case.ignore_cache = true);
    none(&|case| case.context = "elsewhere");
    none(&|case| case.context = "unselected");
    none(&|case| case.epoch = Some(1));
    let cancel = CancelToken::new();
    let store = &rows.world.store;
    let name = CacheMountName {
        id: "npm".to_owned(),
        domain: "test".to_owned(),
        begins: String::new(),
    };
    let begin = |dir: &Path| fs::create_dir(dir).map_err(|error| OpError::io("create", dir, error));
    let shared = CacheSharing::Shared;
    let cached = store.cache_mount(&name, shared, &begin, &cancel, &mut silently);
    let before = rows.records(&case);
    let path = cached.unwrap().unwrap().path().to_owned();
    fs::write(path.join("package"), "x").unwrap();
    assert_eq!(rows.records(&case), before);
}

fn file(kind: FileActionKind) -> Case {
    Case::of(Op::File(FileOp {
        actions: vec![FileAction {
            input: FileInput::Input(0),
            secondary: FileInput::Input(1),
            output: Some(0),
            kind,
        }],
    }))
}

/// `COPY src /app/`
fn copy() -> Case {
    file(FileActionKind::Copy(CopyAction {
        src: "/src".to_owned(),
        dest: "/app/".to_owned(),
        follow_symlinks: true,
        dir_copy_contents: true,
        create_dest_path: true,
        ..CopyAction::default()
    }))
}

fn owner(uid: u32) -> Option<Owner> {
    Some(Owner {
        user: UserRef::Id(uid),
        group: None,
    })
}

#[test]
fn file_copies() {
    let mut rows = Rows::new();
    let case = copy();
    let mut both = |said: &str, change: &dyn Fn(&mut CopyAction)| {
        rows.row(&case, Both, said, |case| change(case.copy()));
    };
    both("destination /app/ → /opt/", &|copy| {
        copy.dest = "/opt/".to_owned()
    });
    let way = "the way it copies changed";
    both(way, &|copy| copy.follow_symlinks = false);
    both(way, &|copy| copy.dir_copy_contents = false);
    both(way, &|copy| copy.attempt_unpack = true);
    both(way, &|copy| copy.create_dest_path = false);
    both(way, &|copy| copy.always_replace_existing_dest_paths = true);
    both(way, &|copy| copy.parents = true);
    both("the time files get changed", &|copy| {
        copy.timestamp = Some(1)
    });
    both(
        "1 of 2 files changed: src/b.py (removed); --exclude b.py added",
        &|copy| copy.exclude = vec!["b.py".to_owned()],
    );
    both(
        "1 of 2 files changed: src/b.py (removed); --parents a.py added",
        &|copy| copy.include = vec!["a.py".to_owned()],
    );
    both("--chown 7 added", &|copy| copy.owner = owner(7));
    both("--chmod 0700 added", &|copy| {
        copy.mode = Some(ModeChange::Octal(0o700))
    });
    both("--chmod u=rwX added", &|copy| {
        copy.mode = Some(ModeChange::Symbolic("u=rwX".to_owned()));
    });
    let others = "3 of 3 files changed: same/a.py (added), src/a.py (removed), src/b.py (removed)";
    both(others, &|copy| copy.src = "/same".to_owned());
    let one = "1 of 2 files changed: src/a.py (content)";
    rows.row(&case, Both, one, |case| case.context = "edited");
    let one = "1 of 2 files changed: src/a.py (mode 0644 → 0755)";
    rows.row(&case, Both, one, |case| case.context = "executable");
    let date = "SOURCE_DATE_EPOCH 7 added";
    rows.row(&case, Both, date, |case| case.epoch = Some(7));
    for context in ["elsewhere", "unselected"] {
        rows.row(&case, Neither, "", |case| case.context = context);
    }
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let base = "in what it is put on: 1 of 3 files changed: usr/lib (content)";
    rows.row(&case, Content, base, |case| case.base_files = "rebuilt");
    let layers = "the layers it is put on changed";
    rows.row(&case, Content, layers, |case| case.base_layers = 2);
    // With `--chmod`, the mode that a file had is no matter.
    let mut set = copy();
    set.copy().mode = Some(ModeChange::Octal(0o640));
    rows.row(&set, Neither, "", |case| case.context = "executable");
    let mut from_git = copy();
    from_git.modes = FileModes::Git;
    let mode = fs::Permissions::from(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    fs::set_permissions(rows.dir("elsewhere/src/b.py"), mode).unwrap();
    rows.row(&from_git, Neither, "", |case| case.context = "elsewhere");
}

/// Where the files come from is in the definition key of a copy from a step only.
#[test]
fn file_copies_from_steps() {
    let mut rows = Rows::new();
    let mut case = copy();
    if let Op::File(file) = &mut case.op {
        file.actions[0].input = FileInput::Scratch;
        file.actions[0].secondary = FileInput::Input(0);
    }
    case.copy().src = "/usr/lib".to_owned();
    rows.row(
        &case,
        ByDefinition,
        "source /usr/lib → /copy/lib",
        |case| {
            case.copy().src = "/copy/lib".to_owned();
        },
    );
    rows.row(&case, ByDefinition, "the way it copies changed", |case| {
        case.copy().allow_wildcard = true;
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let one = "1 of 1 file changed: usr/lib (content)";
    rows.row(&case, Content, one, |case| case.base_files = "rebuilt");
    let mut local = copy();
    local.copy().src = "/src/a.py".to_owned();
    rows.row(&local, Neither, "", |case| {
        case.copy().src = "/same/a.py".to_owned()
    });
}

#[test]
fn other_file_actions() {
    let mut rows = Rows::new();
    let mkdir = |path: &str, mode, make_parents, owner, timestamp| FileActionKind::Mkdir {
        path: path.to_owned(),
        mode,
        make_parents,
        owner,
        timestamp,
    };
    let dir = file(mkdir("/a", 0o755, true, None, None));
    let mkfile = |path: &str, mode, data: &str, owner, timestamp| FileActionKind::Mkfile {
        path: path.to_owned(),
        mode,
        data: data.into(),
        owner,
        timestamp,
    };
    let text = file(mkfile("/a", 0o644, "x", None, None));
    let symlink = |path: &str, target: &str, owner, timestamp| FileActionKind::Symlink {
        path: path.to_owned(),
        target: target.to_owned(),
        owner,
        timestamp,
    };
    let link = file(symlink("/a", "b", None, None));
    let rm = |path: &str, allow_not_found, allow_wildcard| FileActionKind::Rm {
        path: path.to_owned(),
        allow_not_found,
        allow_wildcard,
    };
    let gone = file(rm("/a", false, false));
    let time = "the time files get changed";
    for (case, said, kind) in [
        (&dir, "path /a → /b", mkdir("/b", 0o755, true, None, None)),
        (
            &dir,
            "--chmod 0755 → 0700",
            mkdir("/a", 0o700, true, None, None),
        ),
        (&dir, "other inputs", mkdir("/a", 0o755, false, None, None)),
        (
            &dir,
            "--chown 7 added",
            mkdir("/a", 0o755, true, owner(7), None),
        ),
        (&dir, time, mkdir("/a", 0o755, true, None, Some(1))),
        (&text, "path /a → /b", mkfile("/b", 0o644, "x", None, None)),
        (
            &text,
            "--chmod 0644 → 0600",
            mkfile("/a", 0o600, "x", None, None),
        ),
        (
            &text,
            "the text changed",
            mkfile("/a", 0o644, "y", None, None),
        ),
        (
            &text,
            "--chown 7 added",
            mkfile("/a", 0o644, "x", owner(7), None),
        ),
        (&text, time, mkfile("/a", 0o644, "x", None, Some(1))),
        (&link, "path /a → /c", symlink("/c", "b", None, None)),
        (
            &link,
            "where the link leads: b → c",
            symlink("/a", "c", None, None),
        ),
        (&link, "--chown 7 added", symlink("/a", "b", owner(7), None)),
        (&link, time, symlink("/a", "b", None, Some(1))),
        (&gone, "path /a → /b", rm("/b", false, false)),
        (&gone, "the way it copies changed", rm("/a", true, false)),
        (&gone, "the way it copies changed", rm("/a", false, true)),
        (
            &gone,
            "what is done: rm → symlink; where the link leads: b added; the time files get changed; the way it copies changed",
            symlink("/a", "b", None, None),
        ),
    ] {
        rows.row(case, Both, said, |case| *case.action() = kind);
    }
}

#[test]
fn sources() {
    let mut rows = Rows::new();
    let digest = |byte| Some(OciDigest::from_bytes([byte; 32]));
    let image = |reference: &str, byte| {
        Op::Source(SourceOp::Image(ImageSource {
            reference: reference.to_owned(),
            digest: digest(byte),
        }))
    };
    let base = Case::of(image("docker.io/library/node:20", 0xab));
    let changed = "digest sha256:abababababab → sha256:cdcdcdcdcdcd";
    rows.row(&base, ByDefinition, changed, |case| {
        case.op = image("docker.io/library/node:20", 0xcd)
    });
    rows.row(&base, Neither, "", |case| {
        case.op = image("docker.io/library/node:21", 0xab)
    });
    let platform = "platform linux/amd64 → linux/arm64";
    rows.row(&base, ByDefinition, platform, |case| {
        case.platform = Platform::new("linux", "arm64", "");
    });
    let git = |change: &dyn Fn(&mut GitSource)| {
        let mut git = GitSource {
            remote: "https://example.org/a.git".to_owned(),
            reference: "main".to_owned(),
            subdir: String::new(),
            keep_git_dir: false,
            skip_submodules: false,
            checksum: None,
            commit: Some("1111".to_owned()),
        };
        change(&mut git);
        Op::Source(SourceOp::Git(git))
    };
    let case = Case::of(git(&|_| {}));
    for (keys, said, op) in [
        (
            ByDefinition,
            "commit 1111 → 2222",
            git(&|git| git.commit = Some("2222".to_owned())),
        ),
        (
            ByDefinition,
            "subdirectory docs added",
            git(&|git| git.subdir = "docs".to_owned()),
        ),
        (
            ByDefinition,
            "whether `.git` is kept changed",
            git(&|git| git.keep_git_dir = true),
        ),
        (
            ByDefinition,
            "whether submodules are fetched changed",
            git(&|git| git.skip_submodules = true),
        ),
        (Neither, "", git(&|git| git.reference = "v1".to_owned())),
        (
            Neither,
            "",
            git(&|git| git.remote = "https://me:pw@example.org/a.git".to_owned()),
        ),
    ] {
        rows.row(&case, keys, said, |case| case.op = op);
    }
    let http = |change: &dyn Fn(&mut HttpSource)| {
        let mut http = HttpSource {
            url: "https://example.org/a".to_owned(),
            checksum: digest(0xab),
            filename: "a".to_owned(),
            mode: None,
        };
        change(&mut http);
        Op::Source(SourceOp::Http(http))
    };
    let case = Case::of(http(&|_| {}));
    for (keys, said, op) in [
        (
            ByDefinition,
            changed,
            http(&|http| http.checksum = digest(0xcd)),
        ),
        (
            ByDefinition,
            "file name a → b",
            http(&|http| http.filename = "b".to_owned()),
        ),
        (
            ByDefinition,
            "mode changed",
            http(&|http| http.mode = Some(0o755)),
        ),
        (Neither, "", http(&|http| http.mode = Some(0o600))),
        (
            Neither,
            "",
            http(&|http| http.url = "https://me:pw@example.org/a".to_owned()),
        ),
    ] {
        rows.row(&case, keys, said, |case| case.op = op);
    }
}

/// What only stacks or compares has no key but that of its definition.
#[test]
fn merge_and_diff() {
    let mut rows = Rows::new();
    let case = Case::of(Op::Merge);
    assert_eq!(rows.records(&case).1, None);
    rows.row(&case, ByDefinition, "other inputs", |case| {
        case.op = Op::Diff
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    rows.row(&case, Neither, "", |case| case.base_files = "rebuilt");
}
