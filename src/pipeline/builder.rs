//! A build on a BuildKit daemon (`--builder`), in the place of lines 6 to 9 of the pipeline: the pruned graph becomes LLB,
//! the daemon solves it and makes the results, and what it needs from here it gets in a session.
//!
//! Reading the plan, pinning and converting are as in every build, and so is what the user is told. Not as there: what is
//! cached is the daemon's to know, and nothing is written to the store but an image that is asked for there.

mod contexts;
mod failure;
mod landing;
mod lower;
mod outputs;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Store;
use rbuild_llb::CancelToken;
use rbuild_llb::VertexId;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Event;
use rbuild_llb::frontend::FilesExport;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;

use super::deliver::Target;
use super::deliver::write_reports;
use super::failure as local_failure;
use super::plan::Plan;
use super::stored::load;
use super::task::Task;
use crate::buildkit::Answer;
use crate::buildkit::Build;
use crate::buildkit::Capabilities;
use crate::buildkit::Connection;
use crate::buildkit::EngineError;
use crate::buildkit::Offer;
use crate::buildkit::Part;
use crate::buildkit::Sink;
use crate::exporter::ExportError;
use crate::ops::LocalRoot;
use crate::ops::OpError;
use crate::ops::ssh::KeyAgent;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::BuildRequest;
use crate::request::Builder;
use crate::request::SecretSource;
use crate::request::SshSource;
use crate::sandbox;
use crate::ui::EventSink;
use crate::ui::Progress;
use failure::Failures;
use landing::Landing;
use lower::Lowered;
use outputs::Export;
use outputs::Then;

/// What is built where.
pub(super) struct Job<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) builder: &'a Builder,
    pub(super) store: &'a Store,
    pub(super) plan: &'a Plan,
    pub(super) locals: &'a BTreeMap<String, LocalRoot>,
    pub(super) definition: &'a PrunedDefinition,
    pub(super) targets: &'a [Target],
}

/// Which step of ours an op is, by its digest.
type Steps = BTreeMap<String, VertexId>;

impl Job<'_> {
    /// Builds all targets whose tests pass.
    pub(super) fn carry_out(self, progress: &Progress) -> Result<BuildOutcome, BuildError> {
        let events = progress.events();
        outputs::refuse(self.targets, self.definition, self.builder)?;
        let cancel = CancelToken::new();
        sandbox::on_termination_signals(&cancel).map_err(local_failure::signals)?;
        let connection = self.connect(&cancel, &events)?;
        let contexts = contexts::find(&self, &cancel)?;
        let agents = self.agents()?;
        let offer = Arc::new(self.offer(&contexts, &agents));
        let steps = RefCell::new(Steps::new());
        let remote = Remote {
            job: &self,
            contexts: &contexts,
            offer,
            connection,
            events: &events,
            steps: &steps,
        };
        let (mut outcome, imports) = remote.build_all()?;
        // What spoke to the daemon has ended: another part of the program may want to be alone in its process.
        drop(remote);
        for import in imports {
            let loaded = load::load(
                &self.request.settings,
                &import.options,
                import.archive,
                progress,
            )?;
            let names = loaded.into_iter().flat_map(|image| image.names).collect();
            let built = &mut outcome.built[import.built];
            built.deliveries.push(Delivery::Store { names });
        }
        write_reports(self.request, &outcome)?;
        Ok(outcome)
    }

    fn connect(&self, cancel: &CancelToken, events: &EventSink) -> Result<Connection, BuildError> {
        let name = format!("[internal] connecting to {}", self.builder.address);
        let task = Task::start(&name, &name, events);
        let connection = task.carry_out(cancel, |_| {
            Connection::open(&self.builder.address, cancel).map_err(failure::outside)
        })?;
        let platforms = connection.platforms();
        let foreign = self.definition.iter().find(|(_, vertex)| {
            matches!(vertex.op, Op::Exec(_)) && !platforms.contains(&vertex.platform)
        });
        let Some((_, vertex)) = foreign.filter(|_| !platforms.is_empty()) else {
            return Ok(connection);
        };
        let list: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        let error = anyhow::anyhow!(
            "the builder `{}` runs no steps for {}: {} is what it can run",
            self.builder.address,
            vertex.platform,
            list.join(", ")
        );
        let error = BuildError::new(ErrorKind::Request, error);
        Err(local_failure::at(error, vertex.meta.spans.first()))
    }

    /// The agents that steps ask for, of those that there are; ones with keys of files are started.
    fn agents(&self) -> Result<BTreeMap<&str, Agent>, BuildError> {
        let mut agents = BTreeMap::new();
        let processes = self
            .definition
            .iter()
            .filter_map(|(_, vertex)| match &vertex.op {
                Op::Exec(exec) => Some(&exec.mounts),
                _ => None,
            });
        for mount in processes.flatten() {
            let MountKind::Ssh { id, .. } = &mount.kind else {
                continue;
            };
            let Some((id, source)) = self.request.ssh.get_key_value(id) else {
                continue;
            };
            if agents.contains_key(id.as_str()) {
                continue;
            }
            let agent = match source {
                SshSource::Agent(socket) => Agent::There(socket.clone()),
                SshSource::Keys(files) => {
                    let started = KeyAgent::start(files).map_err(|why| {
                        let id = id.clone();
                        let error = anyhow::Error::new(OpError::SshKeys { id, why });
                        BuildError::new(ErrorKind::Request, error)
                    });
                    Agent::Ours(started?)
                }
            };
            agents.insert(id.as_str(), agent);
        }
        Ok(agents)
    }

    /// What the daemon may have.
    fn offer(&self, contexts: &contexts::Contexts, agents: &BTreeMap<&str, Agent>) -> Offer {
        let secrets = self.request.secrets.clone();
        let config = self.request.settings.docker_config.clone();
        // What a daemon keeps of this directory of this machine is what the next build goes on from.
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy().into_owned();
        let whose = format!("{machine}\0{}", self.plan.identity);
        Offer {
            shared_key: blake3::hash(whose.as_bytes()).to_hex().to_string(),
            directories: contexts.directories.clone(),
            secrets: Box::new(move |id| match secrets.get(id) {
                None => Ok(None),
                Some(SecretSource::Value(value)) => Ok(Some(value.0.clone())),
                Some(SecretSource::File(path)) => std::fs::read(path).map(Some),
            }),
            ssh: agents
                .iter()
                .map(|(id, agent)| ((*id).to_owned(), agent.socket().to_owned()))
                .collect(),
            credentials: Box::new(move |host| registry::credentials(config.clone(), host)),
        }
    }
}

/// An ssh agent that steps may ask.
enum Agent {
    There(PathBuf),
    /// It ends with the build.
    Ours(KeyAgent),
}

impl Agent {
    fn socket(&self) -> &Path {
        match self {
            Self::There(socket) => socket,
            Self::Ours(agent) => agent.socket(),
        }
    }
}

/// An image that comes as an archive, and is to be in the store.
struct Import {
    /// Which of the outcome.
    built: usize,
    archive: std::fs::File,
    options: load::LoadOptions,
}

/// A build with its daemon.
struct Remote<'a> {
    job: &'a Job<'a>,
    contexts: &'a contexts::Contexts,
    offer: Arc<Offer>,
    connection: Connection,
    events: &'a EventSink,
    steps: &'a RefCell<Steps>,
}

impl Remote<'_> {
    /// Tests first, then what does not require one that failed.
    fn build_all(&self) -> Result<(BuildOutcome, Vec<Import>), BuildError> {
        let mut outcome = BuildOutcome::default();
        let mut failures = Failures::default();
        let tests = |target: &&Target| target.is_test();
        for target in self.job.targets.iter().filter(tests) {
            match self.solve(target, None, Sink::Nothing) {
                Ok(_) => {
                    for export in target.files() {
                        self.export_files(target, export)?;
                    }
                    outcome.passed.push(target.name.clone());
                }
                Err(EngineError::Failed { message, op }) => {
                    let error = self.told(EngineError::Failed { message, op });
                    failures.tests.push(target.name.clone());
                    failures.first.get_or_insert(error);
                }
                Err(error) => return Err(self.told(error)),
            }
        }
        let outputs: Vec<&Target> = self.job.targets.iter().filter(|t| !t.is_test()).collect();
        let mut imports = Vec::new();
        for target in &outputs {
            let required = |test: &String| failures.tests.contains(test);
            if target.require.iter().any(required) {
                failures.held.push(target.name.clone());
                continue;
            }
            let named = outputs.len() > 1 || target.own;
            let mut built = Built {
                name: named.then(|| target.name.clone()),
                image: None,
                deliveries: Vec::new(),
            };
            for export in target.files() {
                self.export_files(target, export)?;
            }
            for spec in target.specs() {
                let export = Export::of(spec, target, self.job.request, self.job.builder)
                    .map_err(local_failure::export)?;
                let Export {
                    exporter,
                    options,
                    sink,
                    then,
                } = export;
                let answer = self
                    .solve(target, Some((exporter, options)), sink)
                    .map_err(|error| self.told(error))?;
                built.image = outputs::image(&answer, target.names()).or(built.image);
                match then
                    .finish(built.image.as_ref())
                    .map_err(local_failure::export)?
                {
                    Then::Done(deliveries) => built.deliveries.extend(deliveries),
                    Then::Import { archive, options } => imports.push(Import {
                        built: outcome.built.len(),
                        archive,
                        options,
                    }),
                    Then::Pending(_) | Then::Push(_) | Then::Load(_) => {}
                }
            }
            let path = |export: &FilesExport| PathBuf::from(&export.to);
            let files = target.files().iter().map(path);
            match target.specs().is_empty() {
                true => {
                    let named = files.map(|path| (built.name.clone(), path));
                    outcome.written.extend(named);
                }
                false => {
                    let directories = files.map(|path| Delivery::Directory { path });
                    built.deliveries.extend(directories);
                    outcome.built.push(built);
                }
            }
        }
        match failures.into_error() {
            None => Ok((outcome, imports)),
            Some(error) => Err(error),
        }
    }

    /// Has the daemon make what a target is.
    fn solve(
        &self,
        target: &Target,
        exporter: Option<(&'static str, BTreeMap<String, String>)>,
        sink: Sink,
    ) -> Result<Answer, EngineError> {
        let definition = self.job.definition;
        let parts = |capabilities: &Capabilities| {
            let lowered = self.lower(capabilities)?;
            let parts = target.outputs.iter().map(|&at| {
                let output = &definition.outputs[at];
                self.part(output, lowered.encode(output.root)?)
            });
            parts.collect::<Result<Vec<_>, EngineError>>()
        };
        self.build(&parts, target.several, exporter, sink)
    }

    fn lower(&self, capabilities: &Capabilities) -> Result<Lowered, EngineError> {
        let names = &self.contexts.names;
        let address = &self.job.builder.address;
        lower::lower(self.job.definition, names, capabilities, address)
    }

    fn part(&self, output: &Output, encoded: (Vec<u8>, Steps)) -> Result<Part, EngineError> {
        let (definition, steps) = encoded;
        self.steps.borrow_mut().extend(steps);
        Ok(Part {
            platform: output.platform.clone(),
            definition,
            config: output.config.to_json(),
        })
    }

    fn build(
        &self,
        parts: &dyn Fn(&Capabilities) -> Result<Vec<Part>, EngineError>,
        several: bool,
        exporter: Option<(&'static str, BTreeMap<String, String>)>,
        sink: Sink,
    ) -> Result<Answer, EngineError> {
        let Job {
            request, builder, ..
        } = self.job;
        let entitlements = [
            (request.allow.network_host, "network.host"),
            (request.allow.security_insecure, "security.insecure"),
        ];
        let entitlements = entitlements.into_iter().filter(|(allowed, _)| *allowed);
        let build = Build {
            offer: Arc::clone(&self.offer),
            parts,
            several,
            exporter,
            sink,
            cache_from: builder.cache_from.clone(),
            cache_to: builder.cache_to.clone(),
            entitlements: entitlements.map(|(_, name)| name.to_owned()).collect(),
        };
        self.connection.build(build, &|event| self.hand_on(event))
    }

    /// Writes files of a target, for each platform what it has.
    fn export_files(&self, target: &Target, export: &FilesExport) -> Result<(), BuildError> {
        for &at in &target.outputs {
            let output = &self.job.definition.outputs[at];
            let mut to = PathBuf::from(&export.to);
            if target.outputs.len() > 1 {
                let platform = output.platform.to_string();
                to = to.join(platform.replace('/', "_")).join("");
            }
            let missing = || {
                let path = PathBuf::from(&export.path);
                local_failure::export_files(ExportError::NotInStep { path }, &export.span)
            };
            let root = output.root.ok_or_else(missing)?;
            let parts = |capabilities: &Capabilities| {
                let lowered = self.lower(capabilities)?;
                let encoded = lowered.encode_file(root, &output.platform, &export.path)?;
                Ok(vec![self.part(output, encoded)?])
            };
            let landing = Landing::beside(&to).map_err(local_failure::export)?;
            let sink = Sink::Directory(landing.path().to_owned());
            let exporter = Some(("local", BTreeMap::new()));
            match self.build(&parts, false, exporter, sink) {
                Ok(_) => {}
                Err(EngineError::Failed { message, .. })
                    if failure::not_there(&message) == Some(export.path.as_str()) =>
                {
                    return Err(missing());
                }
                Err(error) => return Err(self.told(error)),
            }
            landing
                .place(&export.path, &to)
                .map_err(local_failure::export)?;
        }
        Ok(())
    }

    /// An event of the daemon as one of ours: a context is looked at in every build, and never what people mean by cached.
    fn hand_on(&self, mut event: Event) {
        if let Event::Vertex(vertex) = &mut event {
            let steps = self.steps.borrow();
            let step = steps.get(&vertex.digest);
            let step = step.and_then(|step| self.job.definition.get(step));
            let context =
                step.is_some_and(|step| matches!(step.op, Op::Source(SourceOp::Local(_))));
            vertex.cached &= !context;
        }
        self.events.send(event);
    }

    fn told(&self, error: EngineError) -> BuildError {
        failure::inside(error, &self.steps.borrow(), self.job.definition)
    }
}

/// The steps that some target needs a step for.
fn users(definition: &PrunedDefinition) -> BTreeMap<VertexId, BTreeSet<VertexId>> {
    let mut users: BTreeMap<VertexId, BTreeSet<VertexId>> = BTreeMap::new();
    for (id, vertex) in definition.iter() {
        for input in &vertex.inputs {
            users.entry(input.vertex).or_default().insert(id);
        }
    }
    users
}
