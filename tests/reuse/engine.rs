//! The fast level: the frontend, the solver, the engine and the store in this process, on steps that a fake sandbox
//! carries out upon the layers' directories. Thousands of builds a minute.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use rbuild::clock;
use rbuild::ops::Engine;
use rbuild::ops::EngineOptions;
use rbuild::ops::LocalRoot;
use rbuild::ops::exec::Executor;
use rbuild::registry;
use rbuild::request::ProxySettings;
use rbuild::request::Registries;
use rbuild::request::Settings;
use rbuild::sandbox::Exit;
use rbuild::sandbox::MountSource;
use rbuild::sandbox::Root;
use rbuild::sandbox::SandboxError;
use rbuild::sandbox::Stacking;
use rbuild::sandbox::Step as Process;
use rbuild::sandbox::Stream;
use rbuild::solver;
use rbuild::solver::PlannedState;
use rbuild::solver::SolveOptions;
use rbuild_cache::Node as TreeNode;
use rbuild_cache::Ownership;
use rbuild_cache::Store;
use rbuild_cache::TreeRef;
use rbuild_dockerfile::Dockerfile;
use rbuild_llb::CancelToken;
use rbuild_llb::Frontend as _;
use rbuild_llb::SourceFile;
use rbuild_llb::event::Event;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pins;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::XattrFlags;

use super::model::Files;
use super::model::Node;
use super::project::Line;
use super::project::Project;
use super::project::Step;
use super::project::Work;
use super::project::mark;

/// What a build came to, and how often it carried out which step.
pub(super) type Built = (Files, BTreeMap<u32, usize>, String);

/// Builds `project` on the store in `root`; its context is written to `context`.
pub(super) fn build(root: &Path, context: &Path, project: &Project) -> Result<Built, String> {
    project.write(context, "scratch");
    let store = Store::open(root).map_err(told)?;
    let lease = store.lease().map_err(told)?;
    let file = |name: &str, language| {
        Arc::new(SourceFile {
            name: name.into(),
            text: fs::read_to_string(context.join(name)).unwrap(),
            language,
        })
    };
    let request = FrontendRequest {
        ignore: Some(file(".dockerignore", "ignore")),
        build_args: project
            .args
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect(),
        ..FrontendRequest::new(file("Dockerfile", "Dockerfile"))
    };
    let converted = Dockerfile::default().convert(&request, &Pins::default());
    let Conversion::Done(converted) = converted.map_err(|errors| format!("{errors:?}"))? else {
        return Err("there are no sources to pin".into());
    };
    let definition = converted.definition.prune();
    let registry = registry::Client::new(&Settings {
        root: root.to_owned(),
        temp_dir: root.to_owned(),
        registries: Registries::default(),
        docker_config: None,
        docker_auth: None,
        ca: None,
        tag_max_age: 0,
        ranges_only: false,
        proxies: ProxySettings::default(),
        gc: Default::default(),
        stacker: None,
        isolation: Default::default(),
        nested_namespaces: true,
        emulators: Default::default(),
        keep_failed: rbuild::request::KeepFailed::Never,
    });
    let cancel = CancelToken::new();
    let local = LocalRoot {
        path: context.to_owned(),
        shown: "context".into(),
    };
    let options = EngineOptions {
        locals: BTreeMap::from([("context".to_owned(), local)]),
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(
        &store,
        &lease,
        &definition,
        &registry,
        &cancel,
        options,
        "fake".into(),
    );
    let looked_up = solver::plan(&definition, &engine).map_err(told)?;
    engine.set_executor(
        Box::new(Shell {
            project: project.clone(),
        }),
        4,
    );
    let misses = looked_up.steps().filter_map(|step| match step.state {
        PlannedState::Run(miss) | PlannedState::Undecided(miss) => {
            Some(format!("{}: {miss:?}", step.vertex.meta.name))
        }
        PlannedState::Unneeded | PlannedState::Cached { .. } => None,
    });
    let misses: Vec<String> = misses.collect();
    let ran = Mutex::new(BTreeMap::new());
    let events = |event| {
        if let Event::Vertex(step) = event
            && step.started.is_some()
            && step.completed.is_some()
            && !step.cached
            && step.error.is_empty()
            && !step.name.contains("] LINK ")
            && let Some(id) = marked(&step.name)
        {
            *ran.lock().unwrap().entry(id).or_default() += 1;
        }
    };
    let solve = SolveOptions {
        jobs: 3,
        cancel: &cancel,
        events: &events,
        clock: &clock::now,
        may_fail: &|_| false,
    };
    let solved = solver::solve(looked_up, &engine, solve).map_err(told)?;
    let snapshot = match &solved.roots[0] {
        solver::Root::Made(made) => made.outputs[0].clone(),
        solver::Root::Empty => return Ok((Files::new(), BTreeMap::new(), String::new())),
        solver::Root::Lost => return Err("nothing was made".into()),
    };
    for layer in &snapshot.layers {
        if !engine.is_kept(layer).map_err(told)? {
            engine.keep_bytes(layer, &cancel).map_err(told)?;
        }
    }
    let files = files(&store, &snapshot.root)?;
    Ok((files, ran.into_inner().unwrap(), misses.join("\n")))
}

/// An error with all its causes.
pub(super) fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// The number of the step that a name in the progress has the mark of.
pub(super) fn marked(name: &str) -> Option<u32> {
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .find_map(|word| word.strip_prefix('m')?.strip_suffix('m')?.parse().ok())
}

/// What a tree says, with the digest of a file in the place of its text.
fn files(store: &Store, root: &TreeRef) -> Result<Files, String> {
    let mut files = Files::new();
    let walked = store.trees().walk(&root.tree, &mut |path, entry| {
        let path = format!("/{}", String::from_utf8_lossy(path));
        let node = match &entry.node {
            TreeNode::Dir(_) => Node::Dir(entry.meta.mode),
            TreeNode::File(file) => Node::File(entry.meta.mode, file.digest.hex().into_bytes()),
            other => panic!("{path}: {other:?}"),
        };
        files.insert(path, node);
        ControlFlow::Continue(())
    });
    walked.map_err(told)?;
    files.remove("/");
    Ok(files)
}

/// What [`files`] says of the files that are expected.
pub(super) fn digested(files: &Files) -> Files {
    let digest = |text: &[u8]| blake3::hash(text).to_hex().as_bytes().to_vec();
    let files = files.iter().map(|(path, node)| {
        let node = match node {
            Node::Dir(mode) => Node::Dir(*mode),
            Node::File(mode, text) => Node::File(*mode, digest(text)),
        };
        (path.clone(), node)
    });
    files.collect()
}

/// Carries out the lines of a project's steps as busybox' shell would, on overlayfs' terms.
#[derive(Debug)]
struct Shell {
    project: Project,
}

impl Executor for Shell {
    fn domain(&self) -> &str {
        "fake"
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
        process: &Process,
        _: &mut dyn FnMut(Stream, &[u8]),
        _: &CancelToken,
    ) -> Result<Exit, SandboxError> {
        let text = process.args.last().unwrap().to_str().unwrap();
        let id = marked(text).unwrap();
        let steps = self.project.stages.iter().flat_map(|stage| &stage.steps);
        let mut lines = steps.filter_map(|step| match step {
            Step::Work(number, Work::Run { lines, .. }) if *number == id => Some(lines),
            _ => None,
        });
        let lines = lines.next_back().unwrap();
        assert!(
            text.starts_with(&format!("set -e; : {}", mark(id)))
                && text.matches("; ").count() >= lines.len(),
            "{text}"
        );
        let view = View { process };
        for line in lines {
            view.line(line).unwrap();
        }
        Ok(Exit::Code(0))
    }
}

/// The file system of a process, made of directories.
struct View<'a> {
    process: &'a Process,
}

impl View<'_> {
    fn line(&self, line: &Line) -> io::Result<()> {
        let all = |inputs: &[String]| {
            let found = inputs.iter().filter_map(|input| self.find(input));
            let files = found
                .filter(|path| path.is_file())
                .map(|path| fs::read(path).unwrap());
            files.collect::<Vec<_>>().concat()
        };
        let (out, text) = match line {
            Line::Hash { out, inputs } => {
                use sha2::Digest as _;
                let hash = sha2::Sha256::digest(all(inputs));
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                (out, hash + "  -")
            }
            Line::Count { out, inputs } => (out, all(inputs).len().to_string()),
            Line::Names { out, dir } => (out, self.names(dir).join("\n")),
            Line::Variable { out, name } => {
                let begin = format!("{name}=");
                let mut env = self.process.env.iter().map(|pair| pair.to_str().unwrap());
                (
                    out,
                    env.find_map(|pair| pair.strip_prefix(&begin))
                        .unwrap_or_default()
                        .to_owned(),
                )
            }
            Line::Remove { path } => return self.remove(path),
            Line::Mode { path, mode } => {
                let Some(found) = self.find(path).filter(|found| found.is_file()) else {
                    return Ok(());
                };
                let upper = self.upper(path);
                if !upper.exists() {
                    self.make_parents(path)?;
                    fs::copy(&found, &upper)?;
                    let time = found.metadata()?.modified()?;
                    fs::File::open(&upper)?.set_modified(time)?;
                }
                return fs::set_permissions(upper, fs::Permissions::from_mode(*mode));
            }
        };
        let mode = match self.find(out) {
            Some(found) => found.metadata()?.permissions(),
            None => fs::Permissions::from_mode(0o644),
        };
        self.make_parents(out)?;
        let upper = self.upper(out);
        if fs::symlink_metadata(&upper).is_ok() {
            fs::remove_file(&upper)?;
        }
        fs::write(&upper, text + "\n")?;
        fs::set_permissions(upper, mode)
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.stack().0.join(&path[1..])
    }

    /// The upper directory and the lower ones, bottom first.
    fn stack(&self) -> (&PathBuf, &[PathBuf]) {
        match &self.process.root {
            Root::Overlay {
                upper: Some(upper),
                lowers,
                ..
            } => (upper, lowers),
            other => panic!("{other:?}"),
        }
    }

    /// Where a path is.
    fn find(&self, path: &str) -> Option<PathBuf> {
        for mount in &self.process.mounts {
            let Some(rest) = path.strip_prefix(mount.dest.to_str().unwrap()) else {
                continue;
            };
            let MountSource::Overlay {
                lowers, subpath, ..
            } = &mount.source
            else {
                panic!("{mount:?}");
            };
            let inside = format!("{}{rest}", subpath.display());
            return find(lowers.iter().rev(), inside.trim_matches(['/', '.']));
        }
        find(self.layers(), &path[1..])
    }

    /// Topmost first.
    fn layers(&self) -> impl Iterator<Item = &PathBuf> {
        let (upper, lowers) = self.stack();
        std::iter::once(upper).chain(lowers.iter().rev())
    }

    fn names(&self, dir: &str) -> Vec<String> {
        match self.find(dir) {
            None => return Vec::new(),
            Some(found) if found.is_file() => return vec![dir.to_owned()],
            Some(_) => {}
        }
        let layers = self
            .layers()
            .filter_map(|layer| fs::read_dir(layer.join(&dir[1..])).ok());
        let names = layers
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: BTreeSet<String> = names.collect();
        let there = |name: &String| self.find(&format!("{dir}/{name}")).is_some();
        names.into_iter().filter(there).collect()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        if self.find(path).is_none() {
            return Ok(());
        }
        self.make_parents(path)?;
        let upper = self.upper(path);
        if upper.is_dir() {
            fs::remove_dir_all(&upper)?;
        } else if upper.exists() {
            fs::remove_file(&upper)?;
        }
        if find(self.stack().1.iter().rev(), &path[1..]).is_some() {
            rustix::fs::mknodat(CWD, &upper, FileType::CharacterDevice, Mode::empty(), 0)?;
        }
        Ok(())
    }

    fn make_parents(&self, path: &str) -> io::Result<()> {
        let (parent, _) = path.rsplit_once('/').unwrap();
        if parent.is_empty() || self.upper(parent).is_dir() {
            return Ok(());
        }
        self.make_parents(parent)?;
        let upper = self.upper(parent);
        let mode = match self.find(parent) {
            Some(below) => below.metadata()?.permissions(),
            None => fs::Permissions::from_mode(0o755),
        };
        let whiteout = is_whiteout(&upper);
        if whiteout {
            fs::remove_file(&upper)?;
        }
        fs::create_dir(&upper)?;
        if whiteout {
            rustix::fs::setxattr(&upper, "user.overlay.opaque", b"y", XattrFlags::empty())?;
        }
        fs::set_permissions(upper, mode)
    }
}

/// What a stack of directories, topmost first, has at a path.
fn find<'a>(layers: impl Iterator<Item = &'a PathBuf>, path: &str) -> Option<PathBuf> {
    for layer in layers {
        let mut at = layer.clone();
        let mut last = false;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at.push(part);
            let mut mark = [0; 1];
            last |= rustix::fs::lgetxattr(&at, "user.overlay.opaque", &mut mark).is_ok();
            if is_whiteout(&at) || at.parent().is_some_and(Path::is_file) {
                return None;
            }
        }
        if at.exists() {
            return Some(at);
        }
        if last {
            return None;
        }
    }
    None
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_char_device())
}
