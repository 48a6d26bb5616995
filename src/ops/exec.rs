//! RUN: inputs become directories, the sandbox runs the process, what it wrote becomes a layer.

mod failed;
mod foreground;
mod key;
mod mounted;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rbuild_cache::Follow;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Ownership;
use rbuild_cache::ScanKind;
use rbuild_cache::Snapshot;
use rbuild_cache::TreeRef;
use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Limits;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::SecurityMode;

use super::Engine;
use super::ExitText;
use super::OpError;
use super::StepResult;
use super::cache::Caches;
use super::cache::place_of;
use super::copy;
use super::roots::PlainRoot;
use super::ssh;
use super::stack::layers_value;
use super::stack::snapshot_of;
use super::workspace::UPPER;
use super::workspace::WorkDirs;
use super::workspace::Workspace;
use crate::clock;
use crate::request::SecretSource;
use crate::request::Volume;
use crate::sandbox;
use crate::sandbox::Exit;
use crate::sandbox::MountSource;
use crate::sandbox::Network;
use crate::sandbox::Sandbox;
use crate::sandbox::SandboxError;
use crate::sandbox::Security;
use crate::sandbox::Stacking;
use crate::sandbox::Stdin;
use crate::sandbox::Step;
use crate::sandbox::Stream;
use crate::sandbox::Uplink;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::StepControl;

pub use failed::Entered;
pub use failed::Failing;
pub use failed::HeldFailure;
pub use foreground::Entry;
pub use foreground::Foreground;

use key::mount_value;
use key::own_record;

/// Runs the process of a step. The real one is the sandbox; a test's writes what it is told to.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// The id map in which this executor's directories are written.
    fn domain(&self) -> &str;

    /// How owners are kept in them.
    fn ownership(&self) -> Ownership;

    /// Whether it takes roots that are layers.
    fn stacking(&self) -> Stacking;

    /// What is worth saying about the network that steps have by default. It may have to be waited for.
    ///
    /// # Errors
    /// If that was cancelled, or cannot be known.
    fn network_remark(&self, cancel: &CancelToken) -> Result<Option<String>, SandboxError>;

    /// Runs one step to its end.
    ///
    /// # Errors
    /// If it could not be started.
    fn run(
        &self,
        step: &Step,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Exit, SandboxError>;
}

impl Executor for Sandbox {
    fn domain(&self) -> &str {
        Sandbox::domain(self)
    }

    fn ownership(&self) -> Ownership {
        match self.rung() {
            sandbox::Rung::Single => Ownership::Recorded,
            _ => Ownership::Keep,
        }
    }

    fn stacking(&self) -> Stacking {
        Sandbox::stacking(self)
    }

    fn network_remark(&self, cancel: &CancelToken) -> Result<Option<String>, SandboxError> {
        Ok(match self.uplink(cancel)? {
            Uplink::Own(_) => None,
            Uplink::Shared(why) => Some(format!("steps use this machine's own network: {why}")),
        })
    }

    fn run(
        &self,
        step: &Step,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Exit, SandboxError> {
        Sandbox::run(self, step, output, cancel)
    }
}

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Engine<'_> {
    pub(super) fn exec_record(
        &self,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[InputKey],
    ) -> Result<KeyRecord, OpError> {
        let mut record = own_record("exec", op);
        let mounts = op.mounts.iter().map(|mount| {
            let mut fields = mount_value(mount);
            fields.insert(
                "input".into(),
                mount.input.map_or(-1, |index| index as i64).into(),
            );
            match mount
                .input
                .and_then(|index| self.local_input(vertex, index))
            {
                Some(local) => {
                    let tree = self.scan(local)?.tree;
                    fields.insert("content".into(), self.at_selector(&tree, &mount.selector)?);
                }
                None => {
                    fields.insert("selector".into(), mount.selector.as_str().into());
                }
            }
            Ok(KeyValue::Map(fields))
        });
        record.field(
            "mounts",
            KeyValue::List(mounts.collect::<Result<_, OpError>>()?),
        );
        record.field("inputs", self.input_keys(vertex, inputs));
        Ok(record)
    }

    pub(super) fn exec_content_record(
        &self,
        op: &ExecOp,
        inputs: &[Input<'_, StepResult>],
    ) -> Result<KeyRecord, OpError> {
        let mut record = own_record("exec/content", op);
        let mounts = op.mounts.iter().map(|mount| {
            let mut fields = mount_value(mount);
            if let (MountKind::Bind | MountKind::Cache { .. }, Some(index)) =
                (&mount.kind, mount.input)
            {
                let snapshot = snapshot_of(inputs, index);
                let content = self.at_selector(&snapshot.root, &mount.selector)?;
                fields.insert("content".into(), content);
                if mount.output.is_some() {
                    fields.insert("layers".into(), layers_value(snapshot));
                }
            }
            Ok(KeyValue::Map(fields))
        });
        record.field(
            "mounts",
            KeyValue::List(mounts.collect::<Result<_, OpError>>()?),
        );
        Ok(record)
    }

    /// The content of what a mount shows.
    fn at_selector(&self, root: &TreeRef, selector: &str) -> Result<KeyValue, OpError> {
        let path = copy::clean(selector);
        if path.is_empty() {
            return Ok(KeyValue::Content {
                content: root.content,
                tree: Some(root.tree),
            });
        }
        let trees = self.store.trees();
        let Some(found) = trees.lookup(&root.tree, &path, Follow::All)? else {
            return Ok("nothing".into());
        };
        Ok(KeyValue::Content {
            content: found.entry.content(),
            tree: Some(trees.subtree(&found.entry).tree),
        })
    }

    pub(super) fn exec(
        &self,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[&Snapshot],
        step: &StepControl<'_>,
    ) -> Result<Vec<Snapshot>, OpError> {
        let empty = self.empty();
        let root_mount = root_mount(op);
        let root = root_mount
            .and_then(|mount| mount.input)
            .map_or(&empty, |index| inputs[index]);

        let workspace = self.workspaces.take(self.store)?;
        let mut log = |stream: Stream, data: &[u8]| {
            let stream = if stream == Stream::Stdout { 1 } else { 2 };
            let vertex = step.digest.to_owned();
            (step.events)(Event::Log(LogEvent {
                vertex,
                stream,
                data: data.to_vec(),
                timestamp: clock::now(),
            }));
        };
        if op.network == NetworkMode::Default {
            self.remark_on_network(self.executor()?, step)?;
        }
        let place = Place::new(&workspace);
        let (ended, Files { plain, written, .. }) =
            self.process(op, inputs, &place, step, &mut log)?;
        let wrote = match plain {
            Some(root) => Wrote::Changed(Box::new(root)),
            None => Wrote::Upper(workspace.dirs.upper.clone()),
        };
        let error = match ended {
            _ if step.cancel.is_cancelled() => return Err(OpError::Cancelled),
            Ok(Exit::Code(0)) => None,
            Ok(exit) => Some(OpError::Failed {
                command: command(vertex, op),
                exit: ExitText(exit),
            }),
            // A command that is not there, or cannot be executed.
            Err(error) if error.exit_code().is_some() => Some(error.into()),
            Err(error) => return Err(error.into()),
        };
        if let Some(error) = error {
            self.look_at_the_disk();
            let left = self.keep_what_is_left(vertex, root, wrote, step)?;
            self.keep_failure(vertex, op, inputs, workspace, left, &error);
            return Err(error);
        }
        let mut outputs: BTreeMap<u32, Snapshot> = BTreeMap::new();
        if let Some(output) = root_mount.and_then(|mount| mount.output) {
            outputs.insert(output, self.written(root, wrote, step)?);
        }
        for (index, wrote) in written {
            let mount = &op.mounts[index];
            if let Some(output) = mount.output {
                let base = mount.input.map_or(&empty, |index| inputs[index]);
                outputs.insert(output, self.written(base, wrote, step)?);
            }
        }
        self.workspaces.give_back(workspace);
        Ok(outputs.into_values().collect())
    }

    /// Runs a process to its end. Gives its files too, of which root and mounts are the sandbox' by then.
    fn process(
        &self,
        op: &ExecOp,
        inputs: &[&Snapshot],
        place: &Place<'_>,
        step: &StepControl<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<(Result<Exit, SandboxError>, Files), OpError> {
        let executor = self.executor()?;
        let empty = self.empty();
        let root = root_mount(op)
            .and_then(|mount| mount.input)
            .map_or(&empty, |index| inputs[index]);
        let identity = self.accounts(root)?.identity(&op.user)?;
        let mut env = environment(&op.proxy_env.env, &op.env, &identity.home);
        for secret in &op.secret_env {
            if let Some(value) = self.secret(&secret.id, secret.optional)? {
                let mut pair = OsString::from(format!("{}=", secret.name));
                pair.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&value));
                env.push(pair);
            }
        }
        let caches = self.caches(op, inputs, step)?;
        let agents = self.agents(op, place.workspace.path())?;
        let files = || self.files(op, root, inputs, (&caches, place, &agents), step);
        let mut had = files()?;
        let mut spec = Step {
            root: had.root.clone(),
            readonly: root_mount(op).is_some_and(|mount| mount.readonly),
            mounts: std::mem::take(&mut had.mounts),
            args: op
                .args
                .iter()
                .map(|arg| OsString::from(arg.as_ref()))
                .collect(),
            env,
            cwd: PathBuf::from(if op.cwd.is_empty() { "/" } else { &op.cwd }),
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
            network: network(op.network),
            security: match op.security {
                SecurityMode::Sandbox => Security::Sandbox,
                SecurityMode::Insecure => Security::Insecure,
            },
            hostname: op.hostname.clone(),
            hosts: op.extra_hosts.clone(),
            ulimits: op
                .ulimits
                .iter()
                .map(|limit| sandbox::Ulimit {
                    name: limit.name.clone(),
                    soft: limit.soft,
                    hard: limit.hard,
                })
                .collect(),
            limits: Limits::clone(&op.limits),
            stdin: place.attended.clone().unwrap_or(Stdin::Null),
            init: place.attended.is_some(),
        };
        let ended = match executor.run(&spec, output, step.cancel) {
            Err(SandboxError::Overlay { .. })
                if executor.stacking() == Stacking::May && place.entered.is_none() =>
            {
                self.stacks.store(false, Ordering::Relaxed);
                had = files()?;
                spec.root = had.root.clone();
                spec.mounts = std::mem::take(&mut had.mounts);
                executor.run(&spec, output, step.cancel)
            }
            ended => ended,
        };
        Ok((ended, had))
    }

    /// The file system of a process: its root, which it may write to, and what is mounted in it.
    fn files(
        &self,
        op: &ExecOp,
        root: &Snapshot,
        inputs: &[&Snapshot],
        (caches, place, agents): (&Caches, &Place<'_>, &BTreeMap<usize, ssh::Forward>),
        step: &StepControl<'_>,
    ) -> Result<Files, OpError> {
        let mut mounts = Vec::new();
        let mut written = Vec::new();
        for (index, mount) in op
            .mounts
            .iter()
            .enumerate()
            .filter(|(_, mount)| mount.dest != "/")
        {
            let name = match self.stacks() {
                true => format!("mount{index}"),
                false => format!("copy{index}"),
            };
            let dir = place.workspace.path().join(&name);
            let kept = place.entered.map(|entered| entered.dir.join(&name));
            let kept = kept.filter(|kept| kept.is_dir());
            let agent = agents.get(&index).map(|agent| MountSource::Bind {
                path: agent.socket.clone(),
                subpath: PathBuf::new(),
                readonly: false,
            });
            let source = match caches.source(index, mount).or(agent) {
                Some(source) => Some(source),
                None if mount.output.is_some() && place.entered.is_none() => {
                    let (source, wrote) = self.mount_output(mount, inputs, &dir, step)?;
                    written.push((index, wrote));
                    Some(source)
                }
                None => self.mount_source(mount, inputs, (&dir, kept), step)?,
            };
            if let Some(source) = source {
                mounts.push(sandbox::Mount {
                    dest: PathBuf::from(&mount.dest),
                    source,
                });
            }
        }
        mounts.extend(place.volumes.iter().map(|volume| sandbox::Mount {
            dest: PathBuf::from(&volume.dest),
            source: MountSource::Bind {
                path: volume.source.clone(),
                subpath: PathBuf::new(),
                readonly: volume.readonly,
            },
        }));
        let (root, plain) = self.root(root, place, step.cancel)?;
        Ok(Files {
            root,
            mounts,
            plain,
            written,
        })
    }

    /// A root for a process.
    fn root(
        &self,
        root: &Snapshot,
        place: &Place<'_>,
        cancel: &CancelToken,
    ) -> Result<(sandbox::Root, Option<PlainRoot>), OpError> {
        let workspace = place.workspace;
        let entered = place.entered;
        if let Some(path) = entered.and_then(Entered::root) {
            return Ok((sandbox::Root::Directory { path }, None));
        }
        if let Some(upper) = entered.and_then(Entered::upper) {
            let layers = sandbox::Root::Overlay {
                lowers: self.lowers(root, cancel)?,
                upper: Some(upper),
                work: workspace.dirs.work.clone(),
            };
            return Ok((layers, None));
        }
        if self.stacks() {
            workspace.dirs.show(
                &self.store.trees().root(&root.root.tree)?.meta,
                self.ownership,
            )?;
            let layers = sandbox::Root::Overlay {
                lowers: self.lowers(root, cancel)?,
                upper: Some(workspace.dirs.upper.clone()),
                work: workspace.dirs.work.clone(),
            };
            return Ok((layers, None));
        }
        let plain = self.plain_root(root, cancel)?;
        let path = plain.path().to_owned();
        Ok((sandbox::Root::Directory { path }, Some(plain)))
    }

    /// Says once what is worth saying about the network that steps have.
    fn remark_on_network(
        &self,
        executor: &dyn Executor,
        step: &StepControl<'_>,
    ) -> Result<(), OpError> {
        let remark = executor.network_remark(step.cancel)?;
        if let Some(text) = remark
            && !self.network_was_remarked.swap(true, Ordering::Relaxed)
        {
            let now = Some(clock::now());
            (step.events)(Event::Vertex(VertexEvent {
                digest: format!("sha256:{}", blake3::hash(text.as_bytes()).to_hex()),
                inputs: Vec::new(),
                name: format!("[internal] {text}"),
                started: now,
                completed: now,
                cached: false,
                error: String::new(),
                why: String::new(),
                emulator: String::new(),
            }));
        }
        Ok(())
    }

    /// Keeps what a failed process wrote, if that is wanted of its step.
    fn keep_what_is_left(
        &self,
        vertex: &Vertex,
        root: &Snapshot,
        wrote: Wrote,
        step: &StepControl<'_>,
    ) -> Result<Left, OpError> {
        let id = vertex.id();
        if self.options.kept.is_empty() || !self.options.kept.contains(&id) {
            return Ok(Left::Files(wrote));
        }
        let snapshot = self.written(root, wrote, step)?;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(id, snapshot.clone());
        Ok(Left::Layer(snapshot))
    }

    /// What a process wrote on top of `root`, as a layer on it.
    fn written(
        &self,
        root: &Snapshot,
        wrote: Wrote,
        step: &StepControl<'_>,
    ) -> Result<Snapshot, OpError> {
        let trees = self.store.trees();
        let (written, place) = match wrote {
            Wrote::Upper(upper) => {
                let kind = ScanKind::upper_of(self.ownership);
                let found = rbuild_cache::scan_dir(trees, &upper, kind, step.cancel)?;
                (found.tree, Wrote::Upper(upper))
            }
            Wrote::Changed(mut plain) => {
                let found = plain.changes(trees, root, step.cancel)?;
                (found, Wrote::Changed(plain))
            }
        };
        // What was copied up and is as it was is no change; device nodes below live in the tree only.
        let layer = trees.reduce(&root.root.tree, &written)?;
        // Another may have made an equal one, long ago.
        self.lease.protect(LeaseRoot::LayerDir(layer.tree))?;
        match place {
            Wrote::Upper(upper) => {
                self.store
                    .adopt_layer_dir(&layer.tree, &self.domain, &upper)?;
            }
            Wrote::Changed(plain) => self.keep_plain_root(*plain, &layer.tree)?,
        }
        let layer = LayerRef {
            layer,
            origin: None,
            created: Some(clock::now().0),
            single: false,
        };
        self.stack(root, layer)
    }

    fn executor(&self) -> Result<&dyn Executor, OpError> {
        self.executor
            .as_deref()
            .ok_or_else(|| OpError::Unsupported {
                what: "running a process before the sandbox is set up".into(),
            })
    }

    /// What is mounted, or nothing where an optional secret is missing.
    fn mount_source(
        &self,
        mount: &Mount,
        inputs: &[&Snapshot],
        (scratch, kept): (&Path, Option<PathBuf>),
        step: &StepControl<'_>,
    ) -> Result<Option<MountSource>, OpError> {
        Ok(Some(match &mount.kind {
            MountKind::Bind => {
                let empty = self.empty();
                let snapshot = mount.input.map_or(&empty, |index| inputs[index]);
                let path = copy::clean(&mount.selector);
                let trees = self.store.trees();
                let found = trees.lookup(&snapshot.root.tree, &path, Follow::All)?;
                let Some(found) = found else {
                    return Err(copy::CopyError::NotFound {
                        src: mount.selector.clone(),
                    }
                    .into());
                };
                if let (false, Some(path)) = (self.stacks(), &kept) {
                    return Ok(Some(MountSource::Bind {
                        path: path.clone(),
                        subpath: place_of(&found),
                        readonly: mount.readonly,
                    }));
                }
                if !self.stacks() {
                    return self.copied(mount, snapshot, scratch, step).map(Some);
                }
                std::fs::create_dir(scratch)
                    .map_err(|source| OpError::io("create", scratch, source))?;
                let dirs = WorkDirs::make(scratch)?;
                MountSource::Overlay {
                    lowers: self.lowers(snapshot, step.cancel)?,
                    upper: match (mount.readonly, kept) {
                        (true, _) => None,
                        (false, Some(kept)) => Some(kept.join(UPPER)),
                        (false, None) => Some(dirs.upper),
                    },
                    work: dirs.work,
                    subpath: PathBuf::from(&mount.selector),
                }
            }
            // Had before, all at once.
            MountKind::Cache { .. } => return Ok(None),
            MountKind::Tmpfs { size } => MountSource::Tmpfs {
                size: *size,
                readonly: mount.readonly,
            },
            MountKind::Secret {
                id,
                uid,
                gid,
                mode,
                optional,
            } => match self.secret(id, *optional)? {
                Some(data) => MountSource::File {
                    data,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                },
                None => return Ok(None),
            },
            // Had before if there is one.
            MountKind::Ssh { optional: true, .. } => return Ok(None),
            MountKind::Ssh { id, .. } => return Err(OpError::SshAgent { id: id.clone() }),
        }))
    }

    /// What a bind mount shows, where layers are not stacked: a copy, since a step may write to it.
    fn copied(
        &self,
        mount: &Mount,
        snapshot: &Snapshot,
        scratch: &Path,
        step: &StepControl<'_>,
    ) -> Result<MountSource, OpError> {
        let subpath = self.copy_out(snapshot, &mount.selector, scratch, step.cancel)?;
        Ok(MountSource::Bind {
            path: scratch.to_owned(),
            subpath,
            readonly: mount.readonly,
        })
    }

    fn secret(&self, id: &str, optional: bool) -> Result<Option<Vec<u8>>, OpError> {
        match self.options.secrets.get(id) {
            Some(SecretSource::Value(secret)) => Ok(Some(secret.0.clone())),
            Some(SecretSource::File(path)) => std::fs::read(path)
                .map(Some)
                .map_err(|source| OpError::io("read the secret file", path, source)),
            None if optional => Ok(None),
            None => Err(OpError::Secret { id: id.to_owned() }),
        }
    }
}

/// What a process sees.
struct Files {
    root: sandbox::Root,
    mounts: Vec<sandbox::Mount>,
    /// The root, if it is a directory of its own.
    plain: Option<PlainRoot>,
    /// Where what is written to mounts goes that are outputs of the step, by the place of the mount.
    written: Vec<(usize, Wrote)>,
}

/// Where a process wrote.
enum Wrote {
    /// The upper directory of its root.
    Upper(PathBuf),
    /// Its root.
    Changed(Box<PlainRoot>),
}

/// What there is of what a failed process wrote.
enum Left {
    /// Its files, where it wrote them.
    Files(Wrote),
    /// All that it saw, as layers.
    Layer(Snapshot),
}

/// Where a process runs.
struct Place<'a> {
    workspace: &'a Workspace,
    /// The kept files of a step that failed.
    entered: Option<Entered<'a>>,
    /// Directories of this machine.
    volumes: &'a [Volume],
    /// The standard input of a process that a person runs: signals are for it.
    attended: Option<Stdin>,
}

impl<'a> Place<'a> {
    fn new(workspace: &'a Workspace) -> Self {
        Self {
            workspace,
            entered: None,
            volumes: &[],
            attended: None,
        }
    }
}

/// Where a process writes to `/`, if that is said.
fn root_mount(op: &ExecOp) -> Option<&Mount> {
    op.mounts.iter().find(|mount| mount.dest == "/")
}

/// The whole environment: defaults first, so that what the step sets wins.
fn environment(proxies: &[String], env: &[String], home: &str) -> Vec<OsString> {
    let named = |name: &str| env.iter().any(|pair| pair.split('=').next() == Some(name));
    let mut whole: Vec<String> = Vec::new();
    if !named("PATH") {
        whole.push(DEFAULT_PATH.into());
    }
    whole.extend(proxies.iter().cloned());
    whole.extend(env.iter().cloned());
    if !named("HOME") {
        whole.push(format!("HOME={home}"));
    }
    // getenv(3) finds the first of equal names, and the last is meant.
    let mut seen = BTreeSet::new();
    let mut kept: Vec<OsString> = Vec::with_capacity(whole.len());
    for pair in whole.into_iter().rev() {
        let name = pair.split('=').next().unwrap_or_default().to_owned();
        if seen.insert(name) {
            kept.push(pair.into());
        }
    }
    kept.reverse();
    kept
}

fn network(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::Default => Network::Default,
        NetworkMode::Host => Network::Host,
        NetworkMode::None => Network::None,
    }
}

/// What the user wrote, for messages.
fn command(vertex: &Vertex, op: &ExecOp) -> String {
    match op.args.is_empty() {
        true => vertex.meta.name.clone(),
        false => op.args.join(" "),
    }
}
