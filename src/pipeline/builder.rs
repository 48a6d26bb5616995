//! A build on BuildKit daemons (`--builder`), in the place of lines 6 to 9 of the pipeline: the pruned graph becomes LLB,
//! a daemon solves it and makes the results, and what it needs from here it gets in a session.
//!
//! | file | what it knows |
//! |---|---|
//! | `daemon` | a build with one daemon |
//! | `farm` | several of them: who builds what, and what is done when one fails |
//! | `whole` | what nodes have made, and what is left to this machine |
//! | `placing` | which node is the best for an output (pure) |
//! | `pieces` | what nodes make of an output, and the output made of that |
//! | `contexts`, `lower`, `outputs`, `caches` | files, graph, outputs and caches as a daemon takes them |
//! | `failure`, `landing` | what went wrong, as it is told here; where files come down |
//!
//! Reading the plan, pinning and converting are as in every build, and so is what the user is told. Not as there: what is
//! cached is the daemon's to know, and nothing is written to the store but an image that is asked for there.

mod caches;
mod contexts;
mod daemon;
mod failure;
mod farm;
mod landing;
mod lower;
mod outputs;
mod pieces;
mod placing;
#[cfg(test)]
mod tests;
mod whole;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Store;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;
use rbuild_llb::proto;

use super::deliver::Target;
use super::deliver::write_reports;
use super::failure as local_failure;
use super::plan::Plan;
use super::stored::load;
use super::task::Task;
use crate::buildkit;
use crate::buildkit::Connection;
use crate::buildkit::Offer;
use crate::ops::LocalRoot;
use crate::ops::OpError;
use crate::ops::ssh::KeyAgent;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::BuildRequest;
use crate::request::Builder;
use crate::request::BuilderAddress;
use crate::request::BuilderCache;
use crate::request::Node;
use crate::request::Place;
use crate::request::SecretSource;
use crate::request::SshSource;
use crate::sandbox;
use crate::ui::EventSink;
use crate::ui::Progress;
use daemon::Daemon;
pub(super) use lower::ABILITIES;
use placing::Site;

/// What is built where.
pub(super) struct Job<'a> {
    pub(super) request: &'a BuildRequest,
    /// Requests that targets have of their own: of each the caches count.
    pub(super) own: &'a BTreeMap<&'a str, &'a BuildRequest>,
    pub(super) builder: &'a Builder,
    pub(super) store: &'a Store,
    pub(super) plan: &'a Plan,
    pub(super) locals: &'a BTreeMap<String, LocalRoot>,
    pub(super) definition: &'a PrunedDefinition,
    pub(super) targets: &'a [Target],
}

/// How far daemons could carry a build.
pub(super) enum Carried {
    /// To its end.
    Out(BuildOutcome),
    /// What this machine builds is left.
    Far(Box<whole::Rest>),
}

/// Which step of ours an op is, by its digest.
type Steps = BTreeMap<String, VertexId>;

/// What daemons get from here.
struct Supply {
    /// Tells this build from others on the same daemon.
    build: String,
    contexts: contexts::Contexts,
    offer: Arc<Offer>,
    /// They are there for as long as this is.
    _agents: BTreeMap<String, Agent>,
}

/// An image that comes as an archive, and is to be in the store.
struct Import {
    /// Which of the outcome.
    built: usize,
    archive: std::fs::File,
    options: load::LoadOptions,
}

impl Job<'_> {
    /// Builds all targets whose tests pass, but for what is left to this machine.
    pub(super) fn carry_out(&self, progress: &Progress) -> Result<Carried, BuildError> {
        outputs::refuse(self.targets, self.definition, self.builder)?;
        let events = progress.events();
        for remark in remarks(self.builder) {
            super::remark_on(&events, &remark);
        }
        let cancel = CancelToken::new();
        let signals = sandbox::termination_signals(&cancel).map_err(local_failure::signals)?;
        let [Node { place, .. }] = self.builder.nodes.as_slice() else {
            let carried = farm::carry_out(self, &cancel, progress);
            drop(signals);
            return carried;
        };
        let Place::Daemon(address) = place else {
            unreachable!("a builder that is this machine alone is none");
        };
        let connection = self.connect(address, &cancel, &events)?;
        let supply = self.supply(&cancel)?;
        let daemon = Daemon {
            job: self,
            supply: &supply,
            address,
            connection,
            apart: None,
            events: &events,
            node: None,
            steps: RefCell::default(),
            open: RefCell::default(),
            warned: RefCell::default(),
        };
        let (mut outcome, imports, failures) = daemon.build_all()?;
        // What spoke to the daemon has ended: another part of the program may want to be alone in its process.
        drop(daemon);
        drop(supply);
        self.import(&mut outcome, imports, progress)?;
        if let Some(error) = failures.into_error() {
            return Err(error);
        }
        write_reports(self.request, &outcome)?;
        Ok(Carried::Out(outcome))
    }

    /// The caches to read and to write with a target: what others read helps it as well, what it writes is its own. `apart` is
    /// the platform that a node builds, if others build the rest.
    fn caches(
        &self,
        target: &Target,
        apart: Option<&Platform>,
    ) -> (Vec<BuilderCache>, Vec<BuilderCache>) {
        let own = self.own.values().filter_map(|own| own.builder.as_ref());
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let others = own.flat_map(|own| &own.cache_from);
        for cache in self.builder.cache_from.iter().chain(others) {
            if !from.contains(cache) {
                from.push(cache.clone());
            }
        }
        let own = self.own.get(target.name.as_str());
        let own = own.and_then(|own| own.builder.as_ref());
        let own = own.into_iter().flat_map(|own| &own.cache_to);
        for cache in self.builder.cache_to.iter().chain(own) {
            if !to.contains(cache) {
                to.push(cache.clone());
            }
        }
        match apart {
            None => (from, to),
            Some(platform) => (
                caches::to_read(&from, platform),
                caches::to_write(&to, platform),
            ),
        }
    }

    /// Takes images into the store.
    fn import(
        &self,
        outcome: &mut BuildOutcome,
        imports: Vec<Import>,
        progress: &Progress,
    ) -> Result<(), BuildError> {
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
        Ok(())
    }

    fn connect(
        &self,
        address: &BuilderAddress,
        cancel: &CancelToken,
        events: &EventSink,
    ) -> Result<Connection, BuildError> {
        let name = format!("[internal] connecting to {address}");
        let task = Task::start(&name, &name, events);
        let connection = task.carry_out(cancel, |_| {
            let opened = Connection::open(address, cancel).map_err(failure::outside)?;
            Ok(opened.bearing(self.builder.silence))
        })?;
        let platforms = connection.platforms();
        let declared = self.builder.nodes.iter();
        let declared: Vec<Platform> = declared.flat_map(|node| node.platforms.clone()).collect();
        let site = Site {
            node: &self.builder.name,
            declared: &declared,
            reported: platforms,
            may_emulate: address.may_emulate(),
        };
        let mut unlisted = BTreeSet::new();
        for (_, vertex) in self.definition.iter() {
            let platform = &vertex.platform;
            let runs = matches!(vertex.op, Op::Exec(_)) && !platforms.is_empty();
            if !runs || site.lists(platform) {
                continue;
            }
            if !site.may_run(platform) {
                let error = anyhow::anyhow!(
                    "the builder `{address}` runs no steps for {platform}: {} is what it can run",
                    list(platforms)
                );
                let error = BuildError::new(ErrorKind::Request, error);
                return Err(local_failure::at(error, vertex.meta.spans.first()));
            }
            unlisted.insert(platform);
        }
        for platform in unlisted {
            let text = format!(
                "[internal] `{address}` does not list {platform}: it is tried, with an emulator that the builder may have"
            );
            Task::start(&text, &text, events).end(None);
        }
        Ok(connection)
    }

    fn supply(&self, cancel: &CancelToken) -> Result<Supply, BuildError> {
        let contexts = contexts::find(self, cancel)?;
        let agents = self.agents()?;
        let offer = Arc::new(self.offer(&contexts, &agents));
        Ok(Supply {
            build: buildkit::random_id(),
            contexts,
            offer,
            _agents: agents,
        })
    }

    /// The agents that steps ask for, of those that there are; ones with keys of files are started.
    fn agents(&self) -> Result<BTreeMap<String, Agent>, BuildError> {
        let mut agents = BTreeMap::new();
        for id in agents_asked_for(self.definition) {
            let Some((id, source)) = self.request.ssh.get_key_value(id) else {
                continue;
            };
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
            agents.insert(id.clone(), agent);
        }
        Ok(agents)
    }

    /// What the daemon may have.
    fn offer(&self, contexts: &contexts::Contexts, agents: &BTreeMap<String, Agent>) -> Offer {
        let secrets = self.request.secrets.clone();
        let settings = self.request.settings.clone();
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
                .map(|(id, agent)| (id.clone(), agent.socket().to_owned()))
                .collect(),
            credentials: Box::new(move |host| registry::credentials(&settings, host)),
        }
    }
}

/// What the user should know of a builder, whatever is built.
fn remarks(builder: &Builder) -> Vec<String> {
    let mut remarks = Vec::new();
    let open = builder.nodes.iter().filter_map(|node| match &node.place {
        Place::Daemon(address) if address.is_open() => Some(format!("`{address}`")),
        _ => None,
    });
    let open: Vec<String> = open.collect();
    if !open.is_empty() {
        remarks.push(format!(
            "files, secrets and credentials go to {} without TLS, and whoever reaches that port can build there: give \
             `cacert=`, `cert=` and `key=` (docs/builders.md)",
            open.join(", ")
        ));
    }
    if !builder.idle_flags.is_empty() {
        let flags: Vec<String> = { builder.idle_flags.iter() }
            .map(|flag| format!("`{flag}`"))
            .collect();
        remarks.push(format!(
            "{} {} nothing here: no step runs on this machine",
            flags.join(", "),
            match flags.len() {
                1 => "does",
                _ => "do",
            }
        ));
    }
    remarks
}

/// The agents that steps ask for, and the one with which git reaches a remote by ssh.
fn agents_asked_for(definition: &PrunedDefinition) -> BTreeSet<&str> {
    let mut ids = BTreeSet::new();
    for (_, vertex) in definition.iter() {
        match &vertex.op {
            Op::Exec(exec) => {
                ids.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Ssh { id, .. } => Some(id.as_str()),
                    _ => None,
                }))
            }
            Op::Source(SourceOp::Git(git)) if proto::is_reached_by_ssh(&git.remote) => {
                ids.insert(proto::GIT_AGENT);
            }
            _ => {}
        }
    }
    ids
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

/// Platforms, for messages.
fn list(platforms: &[Platform]) -> String {
    let list: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    list.join(", ")
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
