//! A builder of several nodes: who builds what, and what is done when one fails.
//!
//! Each platform of a target is a lot, which one node makes from beginning to end. Nodes are asked what they are first;
//! then lots go to the best of them ([`super::placing`]), all side by side. A node that is gone, refuses or has run out of
//! something has its lots made by the next; a step that fails is the build's failure, wherever it ran. When all lots of a
//! target are there, its outputs are made of them ([`super::pieces`]).
//!
//! Of the nodes one may be this machine. What is its to build comes last, when no thread of this part of the program is
//! left: a process enters a user namespace alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use rbuild_cache::threads;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::op::Op;

use super::Carried;
use super::Job;
use super::Supply;
use super::daemon::Daemon;
use super::failure;
use super::list;
use super::local_failure;
use super::pieces::Piece;
use super::placing;
use super::placing::Candidate;
use super::placing::Need;
use super::placing::Site;
use super::whole::Rest;
use super::whole::Whole;
use crate::buildkit::Connection;
use crate::buildkit::EngineError;
use crate::exporter::push;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::deliver::Target;
use crate::pipeline::deliver::reach;
use crate::pipeline::task::Task;
use crate::request::BuilderAddress;
use crate::request::Node;
use crate::request::Place;
use crate::ui::EventSink;
use crate::ui::Progress;

/// How long a node may take to answer, where another may be waiting: two of TCP's attempts are lost by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lots that are under way at once, for each node. A daemon runs the steps of one side by side.
const LOTS: usize = 4;

/// The nodes, with what is known of them.
struct Farm<'a> {
    job: &'a Job<'a>,
    events: &'a EventSink,
    supply: Supply,
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    node: &'a Node,
    /// What it builds for; none if it did not say.
    reported: Vec<Platform>,
    /// Why it is of no use any more.
    lost: Mutex<Option<String>>,
}

/// A platform of a target.
pub(super) struct Lot {
    pub(super) target: usize,
    pub(super) output: usize,
    pub(super) candidates: Vec<Candidate>,
}

/// What became of a lot.
pub(super) enum Fate {
    Made(Account, Vec<Piece>),
    /// It is for this machine to make.
    Here(Account),
    /// A step failed, or nobody is left; with where that was.
    Failed(BuildError),
    /// Another has failed.
    Stopped,
}

/// Where a lot was made.
pub(super) struct Account {
    pub(super) node: String,
    pub(super) place: String,
    pub(super) emulated: usize,
    pub(super) failed: Vec<(String, String)>,
}

/// Builds on several nodes.
pub(super) fn carry_out(
    job: &Job<'_>,
    cancel: &CancelToken,
    progress: &Progress,
) -> Result<Carried, BuildError> {
    let events = progress.events();
    progress.resume();
    let supply = job.supply(cancel)?;
    let mut farm = Farm {
        job,
        events: &events,
        supply,
        members: job.builder.nodes.iter().map(Member::new).collect(),
    };
    let lots = farm.lots(cancel)?;
    let (tests, outputs): (Vec<Lot>, Vec<Lot>) = { lots }
        .into_iter()
        .partition(|lot| job.targets[lot.target].is_test());
    let mut whole = Whole::default();
    whole.test(job, farm.run(tests, cancel))?;
    let outputs = outputs.into_iter();
    let outputs = outputs.filter(|lot| !whole.is_held(&job.targets[lot.target]));
    let fates = farm.run(outputs.collect(), cancel);
    // What spoke to daemons has ended.
    drop(farm);
    let mut here = Vec::new();
    for (lot, fate) in fates {
        match fate {
            Fate::Made(account, made) => whole.add(job, &lot, account, made),
            Fate::Here(account) => here.push((lot, account)),
            Fate::Failed(error) => return Err(error),
            Fate::Stopped => {}
        }
    }
    if cancel.is_cancelled() {
        return Err(BuildError::interrupted());
    }
    match here.is_empty() {
        true => whole.finish(job, cancel, progress).map(Carried::Out),
        false => {
            let rest = Rest::new(job, whole, here).map_err(local_failure::export)?;
            Ok(Carried::Far(Box::new(rest)))
        }
    }
}

impl<'a> Member<'a> {
    fn new(node: &'a Node) -> Self {
        // Who has come this far knows of this machine what it is; what it could emulate is seen when it is tried.
        let host = Platform::host();
        let here = node.place == Place::Here;
        Self {
            node,
            reported: if here { host.fallbacks() } else { Vec::new() },
            lost: Mutex::default(),
        }
    }

    fn lost(&self) -> Option<String> {
        self.locked().clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.lost.lock().expect("nothing panics while it is locked")
    }
}

impl<'a> Farm<'a> {
    /// What is to be built, with who may build it. All nodes are asked first: what one can do whose declared platforms do
    /// not fit counts when those that fit are gone.
    fn lots(&mut self, cancel: &CancelToken) -> Result<Vec<Lot>, BuildError> {
        let Job {
            definition,
            targets,
            ..
        } = self.job;
        let mut wanted = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            for &output in &target.outputs {
                wanted.push((at, output, need(definition, output)));
            }
        }
        self.ask(cancel)?;
        let mut lots = Vec::new();
        for (target, output, need) in &wanted {
            let candidates = self.candidates(*target, need);
            if candidates.is_empty() {
                return Err(self.nobody_runs(*target, need));
            }
            lots.push(Lot {
                target: *target,
                output: *output,
                candidates,
            });
        }
        Ok(lots)
    }

    /// Asks nodes what they build for, all at once.
    fn ask(&mut self, cancel: &CancelToken) -> Result<(), BuildError> {
        let events = self.events;
        let members: Vec<_> = self.members.iter_mut().map(Mutex::new).collect();
        threads::side_by_side(&members, members.len(), |member| {
            let mut member = member.lock().expect("each is asked by one thread");
            member.ask(cancel, events);
        });
        match cancel.is_cancelled() {
            true => Err(BuildError::interrupted()),
            false => Ok(()),
        }
    }

    fn candidates(&self, target: usize, need: &Need) -> Vec<Candidate> {
        let sites = self.members.iter().map(|member| Site {
            node: &member.node.name,
            declared: &member.node.platforms,
            reported: &member.reported,
        });
        let sites: Vec<Site<'_>> = sites.collect();
        let target = &self.job.targets[target];
        let mut order = placing::order(&key(self.job, target), &sites, need);
        // What is built here comes last, and files that others wait for cannot.
        let late = target.is_test() || !target.files().is_empty();
        order.retain(|candidate| !late || self.members[candidate.site].node.place != Place::Here);
        order
    }

    /// There is no node for a lot.
    fn nobody_runs(&self, target: usize, need: &Need) -> BuildError {
        let foreign: Vec<Platform> = match need.steps.is_empty() {
            true => vec![need.platform.clone()],
            false => need.steps.keys().cloned().collect(),
        };
        let lost: Vec<_> = self
            .members
            .iter()
            .filter_map(|member| Some((member.node.name.clone(), member.lost()?)))
            .collect();
        let kind = match lost.is_empty() {
            true => ErrorKind::Request,
            false => ErrorKind::Environment,
        };
        let error = anyhow::anyhow!(
            "no node of the builder `{}` runs steps for {}",
            self.job.builder.name,
            list(&foreign)
        );
        let mut error = BuildError::new(kind, caused_by(lost, error));
        for member in &self.members {
            let platforms = match member.node.platforms.as_slice() {
                [] => &member.reported,
                declared => declared,
            };
            if !platforms.is_empty() {
                let name = &member.node.name;
                error = error.hint(format!("the node `{name}` is for {}", list(platforms)));
            }
        }
        let target = &self.job.targets[target];
        if target.is_test() || !target.files().is_empty() {
            error = error.hint(
                "tests, and files that a plan exports, are not built on `local` among other nodes",
            );
        }
        error
    }

    /// Makes lots, as many at once as nodes are thought to bear.
    fn run(&self, lots: Vec<Lot>, cancel: &CancelToken) -> Vec<(Lot, Fate)> {
        let stop = CancelToken::new();
        let stopping = stop.clone();
        let _interrupt = cancel.on_cancel(move || stopping.cancel());
        let most = LOTS * self.members.len();
        let fates = threads::side_by_side(&lots, most, |lot| {
            let fate = self.make(lot, &stop);
            // A test that fails is no end to the others.
            if matches!(fate, Fate::Failed(_)) && !self.job.targets[lot.target].is_test() {
                stop.cancel();
            }
            fate
        });
        lots.into_iter().zip(fates).collect()
    }

    /// Makes a lot, on the first of its nodes that can.
    fn make(&self, lot: &Lot, stop: &CancelToken) -> Fate {
        let target = &self.job.targets[lot.target];
        let platform = &self.job.definition.outputs[lot.output].platform;
        let mut failed: Vec<(String, String)> = Vec::new();
        for candidate in &lot.candidates {
            if stop.is_cancelled() {
                return Fate::Stopped;
            }
            let member = &self.members[candidate.site];
            let Node { name, place, .. } = member.node;
            if let Some(why) = member.lost() {
                failed.push((name.clone(), why));
                continue;
            }
            if let Some((before, why)) = failed.last() {
                let text = format!(
                    "[internal] {platform} is built on {name}, since {before} failed: {why}"
                );
                say(&text, self.events);
            }
            if candidate.emulated > 0 {
                let text = format!(
                    "[internal] no node that can be reached is native to what runs for {platform}: {name} emulates {}",
                    steps(candidate.emulated)
                );
                say(&text, self.events);
            }
            let account = |failed: Vec<(String, String)>| Account {
                node: name.clone(),
                place: place.to_string(),
                emulated: candidate.emulated,
                failed,
            };
            let address = match place {
                Place::Daemon(address) => address,
                Place::Here => return Fate::Here(account(failed)),
            };
            match self.attempt(target, lot.output, name, address, stop) {
                Ok(made) => return Fate::Made(account(failed), made),
                Err(_) if stop.is_cancelled() => return Fate::Stopped,
                Err(error) => match blame(&error) {
                    None => return Fate::Failed(error),
                    Some(Blame { why, gone }) => {
                        if gone {
                            member.locked().get_or_insert_with(|| why.clone());
                        }
                        failed.push((name.clone(), why));
                    }
                },
            }
        }
        let error = anyhow::anyhow!(
            "no node of the builder `{}` is left that could build {platform}",
            self.job.builder.name
        );
        Fate::Failed(BuildError::new(
            ErrorKind::Environment,
            caused_by(failed, error),
        ))
    }

    fn attempt(
        &self,
        target: &Target,
        output: usize,
        node: &str,
        address: &BuilderAddress,
        stop: &CancelToken,
    ) -> Result<Vec<Piece>, BuildError> {
        let platform = &self.job.definition.outputs[output].platform;
        let connection = Connection::open_within(PATIENCE, address, stop);
        let daemon = Daemon {
            job: self.job,
            supply: &self.supply,
            address,
            connection: connection.map_err(failure::outside)?,
            apart: target.several.then_some(platform),
            events: self.events,
            node: Some(node),
            steps: RefCell::default(),
            open: RefCell::default(),
        };
        let made = daemon.lot(target, output);
        if made.is_err() {
            daemon.abandon();
        }
        made
    }
}

impl Member<'_> {
    fn ask(&mut self, cancel: &CancelToken, events: &EventSink) {
        let Node { name, place, .. } = self.node;
        let Place::Daemon(address) = place else {
            return;
        };
        let shown = format!("{name}: [internal] connecting to {address}");
        let task = Task::start(&shown, &shown, events);
        let reported = task.carry_out(cancel, |_| {
            let connection = Connection::open_within(PATIENCE, address, cancel);
            let connection = connection.map_err(failure::outside)?;
            Ok(connection.platforms().to_vec())
        });
        match reported {
            Ok(reported) => self.reported = reported,
            Err(error) => *self.locked() = Some(error.to_string()),
        }
    }
}

/// The identity of a build, whatever its files: what its image is called, else where it is; and which target it is, if
/// anybody said (a Dockerfile's last stage has another number when there is one more).
fn key(job: &Job<'_>, target: &Target) -> String {
    let names = push::repositories(target.names()).unwrap_or_default();
    let project = match names.first() {
        Some(name) => name,
        None => &job.plan.identity,
    };
    let named = job.targets.len() > 1 || target.own || !job.request.targets.is_empty();
    let target = if named { &*target.name } else { "" };
    format!("{project}\0{target}")
}

/// What runs for an output.
fn need(definition: &PrunedDefinition, output: usize) -> Need {
    let output = &definition.outputs[output];
    let mut reached = BTreeSet::new();
    reach(
        definition,
        output.root.map(|edge| edge.vertex),
        &mut reached,
    );
    let mut steps: BTreeMap<Platform, usize> = BTreeMap::new();
    for vertex in reached.iter().filter_map(|step| definition.get(step)) {
        if matches!(vertex.op, Op::Exec(_)) {
            *steps.entry(vertex.platform.clone()).or_default() += 1;
        }
    }
    Need {
        platform: output.platform.clone(),
        steps,
    }
}

/// Why a node, and not a build, failed.
struct Blame {
    why: String,
    /// Whether it is of no use for anything else either.
    gone: bool,
}

fn blame(error: &BuildError) -> Option<Blame> {
    let engine = error.source.as_ref()?.downcast_ref::<EngineError>()?;
    let gone = match engine {
        EngineError::Connect { .. }
        | EngineError::Foreign { .. }
        | EngineError::Pem { .. }
        | EngineError::Lost { .. }
        | EngineError::Refused { .. } => true,
        EngineError::Exhausted { .. } | EngineError::Missing { .. } => false,
        EngineError::Failed { .. } | EngineError::Here(_) | EngineError::Cancelled => return None,
    };
    Some(Blame {
        why: error.to_string(),
        gone,
    })
}

/// An error with what went wrong on each node for its causes.
fn caused_by(failed: Vec<(String, String)>, error: anyhow::Error) -> anyhow::Error {
    let causes = failed.into_iter().rev();
    let chain = causes.fold(None, |inner: Option<anyhow::Error>, (node, why)| {
        let text = format!("`{node}`: {why}");
        Some(match inner {
            None => anyhow::anyhow!(text),
            Some(inner) => inner.context(text),
        })
    });
    match chain {
        None => error,
        Some(chain) => chain.context(error.to_string()),
    }
}

/// Tells what was decided, when it is: warnings are shown at the end.
fn say(text: &str, events: &EventSink) {
    Task::start(text, text, events).end(None);
}

fn steps(count: usize) -> String {
    match count {
        1 => "1 step".to_owned(),
        several => format!("{several} steps"),
    }
}
