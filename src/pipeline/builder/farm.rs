//! A builder of several nodes: who builds what, and what is done when one fails.
//!
//! Each platform of a target is a lot, which one node makes from beginning to end. Nodes are asked what they are first, until
//! it is clear who makes what: one that is gone is not waited for where others are as good. Then lots go to the best of
//! them ([`super::placing`]), all side by side. A node that is gone, refuses or has run out of
//! something has its lots made by the next; a step that fails is the build's failure, wherever it ran. When all lots of a
//! target are there, its outputs are made of them ([`super::pieces`]).
//!
//! Of the nodes one may be this machine. What is its to build comes last, when no thread of this part of the program is
//! left: a process enters a user namespace alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Instant;

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
use super::placing::Heard;
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
use crate::request::Builder;
use crate::request::BuilderAddress;
use crate::request::Node;
use crate::request::Place;
use crate::ui::EventSink;
use crate::ui::Progress;

/// What is told of a node that did not take the connection.
fn late(builder: &Builder) -> String {
    let seconds = builder.grace.as_secs_f64();
    format!("it has not answered within {seconds} seconds, and is not waited for")
}

/// Lots that are under way at once on one node. A daemon runs the steps of one side by side.
const LOTS: usize = 4;

/// The nodes, with what is known of them.
struct Farm<'a> {
    job: &'a Job<'a>,
    events: &'a EventSink,
    supply: Supply,
    members: Vec<Member<'a>>,
    /// Held by who asks those that have not answered.
    asking: Mutex<()>,
}

struct Member<'a> {
    node: &'a Node,
    known: Mutex<Known>,
    places: Arc<Places>,
}

/// Places for lots on a node: one that is slow holds up its own alone.
#[derive(Default)]
struct Places {
    taken: Mutex<usize>,
    changed: Condvar,
}

/// One of them, while it is held.
struct Taken<'a>(&'a Places);

impl Places {
    /// Waits for a place, until nobody wants it any more.
    fn take(self: &Arc<Self>, stop: &CancelToken) -> Option<Taken<'_>> {
        let waiting = Arc::clone(self);
        let _woken = stop.on_cancel(move || {
            // Who waits has seen that it was not so, or does now.
            drop(waiting.locked());
            waiting.changed.notify_all();
        });
        let full = |taken: &mut usize| *taken >= LOTS && !stop.is_cancelled();
        let taken = self.changed.wait_while(self.locked(), full);
        let mut taken = taken.expect("nothing panics while it is locked");
        if stop.is_cancelled() {
            return None;
        }
        *taken += 1;
        Some(Taken(self))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, usize> {
        self.taken
            .lock()
            .expect("nothing panics while it is locked")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.locked() -= 1;
        self.0.changed.notify_one();
    }
}

/// What is known of a node.
#[derive(Debug, Clone)]
struct Known {
    heard: Heard,
    /// What it builds for; none if it did not say.
    reported: Vec<Platform>,
    /// Why it is of no use any more.
    lost: Option<String>,
}

/// A platform of a target.
pub(super) struct Lot {
    pub(super) target: usize,
    pub(super) output: usize,
    need: Need,
    /// Nodes that were not waited for.
    passed_over: Vec<usize>,
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
    let farm = Farm {
        job,
        events: &events,
        supply,
        members: job.builder.nodes.iter().map(Member::new).collect(),
        asking: Mutex::default(),
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
        let (heard, reported) = match node.place {
            Place::Here => (Heard::Answer, Platform::host().fallbacks()),
            Place::Daemon(_) => (Heard::Nothing, Vec::new()),
        };
        Self {
            node,
            known: Mutex::new(Known {
                heard,
                reported,
                lost: None,
            }),
            places: Arc::default(),
        }
    }

    fn known(&self) -> Known {
        self.locked().clone()
    }

    fn lost(&self) -> Option<String> {
        self.locked().lost.clone()
    }

    fn lose(&self, why: String) {
        let mut known = self.locked();
        known.heard = Heard::Failure;
        known.lost.get_or_insert(why);
    }

    fn has_answered(&self) -> bool {
        matches!(self.locked().heard, Heard::Answer | Heard::Failure)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it is locked")
    }

    /// What is built here comes last, and files that others wait for cannot.
    fn may_make(&self, target: &Target) -> bool {
        let early = target.is_test() || !target.files().is_empty();
        !early || self.node.place != Place::Here
    }

    /// Asks what it builds for; `then` is told of all that is heard.
    fn ask(
        &self,
        builder: &Builder,
        asking: &CancelToken,
        events: &EventSink,
        then: &(dyn Fn() + Sync),
    ) {
        let Node { name, place, .. } = self.node;
        let Place::Daemon(address) = place else {
            return;
        };
        let shown = format!("{name}: [internal] connecting to {address}");
        let task = Task::start(&shown, &shown, events);
        let began = Instant::now();
        let connected = || {
            self.locked().heard = Heard::Connected;
            then();
        };
        let opened = Connection::open_telling(builder.patience, address, asking, &connected);
        let error = match opened {
            Ok(connection) => {
                let mut known = self.locked();
                known.heard = Heard::Answer;
                known.reported = connection.platforms().to_vec();
                None
            }
            Err(EngineError::Cancelled) => {
                (began.elapsed() >= builder.grace).then(|| late(builder))
            }
            Err(error) => {
                let why = failure::outside(error).to_string();
                self.lose(why.clone());
                Some(why)
            }
        };
        task.end(error);
        then();
    }
}

impl<'a> Farm<'a> {
    /// What is to be built, with who may build it. All nodes are asked first: what one can do whose declared platforms do
    /// not fit counts when those that fit are gone.
    fn lots(&self, cancel: &CancelToken) -> Result<Vec<Lot>, BuildError> {
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
        let patient = self.ask(&wanted, cancel)?;
        let mut lots = Vec::new();
        for (target, output, need) in wanted {
            if self.candidates(target, &need).is_empty() {
                return Err(self.nobody_runs(target, &need));
            }
            let passed_over = self.settle(target, &need, patient, &BTreeSet::new());
            lots.push(Lot {
                target,
                output,
                need,
                passed_over: passed_over.unwrap_or_default(),
            });
        }
        Ok(lots)
    }

    /// Asks nodes what they build for, all at once, until it is clear who builds what; says whether it had patience left.
    fn ask(
        &self,
        wanted: &[(usize, usize, Need)],
        cancel: &CancelToken,
    ) -> Result<bool, BuildError> {
        let asking = CancelToken::new();
        let stopping = asking.clone();
        let _interrupt = cancel.on_cancel(move || stopping.cancel());
        let (tell, told) = mpsc::channel();
        let began = Instant::now();
        let mut patient = true;
        thread::scope(|scope| {
            for member in &self.members {
                let (tell, asking) = (tell.clone(), &asking);
                let heard = move || {
                    let _nobody_waits = tell.send(());
                };
                let builder = self.job.builder;
                scope.spawn(move || member.ask(builder, asking, self.events, &heard));
            }
            drop(tell);
            loop {
                let left = self.job.builder.grace.checked_sub(began.elapsed());
                patient = left.is_some();
                let is_clear = |(target, _, need): &(usize, usize, Need)| {
                    self.settle(*target, need, patient, &BTreeSet::new())
                        .is_some()
                };
                if wanted.iter().all(is_clear) {
                    break;
                }
                let next = told.recv_timeout(left.unwrap_or(self.job.builder.patience));
                // All have ended.
                if next == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
            asking.cancel();
        });
        match cancel.is_cancelled() {
            true => Err(BuildError::interrupted()),
            false => Ok(patient),
        }
    }

    /// Asks those that have not answered, and waits for them.
    fn ask_all(&self, stop: &CancelToken) {
        // Whoever comes second finds that all have.
        let _alone = self
            .asking
            .lock()
            .expect("nothing panics while it is locked");
        thread::scope(|scope| {
            for member in self.members.iter().filter(|member| !member.has_answered()) {
                scope.spawn(|| member.ask(self.job.builder, stop, self.events, &|| {}));
            }
        });
    }

    fn settle(
        &self,
        target: usize,
        need: &Need,
        patient: bool,
        tried: &BTreeSet<usize>,
    ) -> Option<Vec<usize>> {
        let known: Vec<Known> = self.members.iter().map(Member::known).collect();
        let target = &self.job.targets[target];
        let asked = self.members.iter().zip(&known).enumerate();
        let heard = asked.map(|(at, (member, known))| {
            match member.may_make(target) && !tried.contains(&at) {
                true => known.heard,
                false => Heard::Failure,
            }
        });
        let heard: Vec<Heard> = heard.collect();
        let sites = sites(&self.members, &known);
        placing::settle(&key(self.job, target), &sites, &heard, need, patient)
    }

    /// Who may make an output, of those that have answered or failed.
    fn candidates(&self, target: usize, need: &Need) -> Vec<Candidate> {
        let known: Vec<Known> = self.members.iter().map(Member::known).collect();
        let target = &self.job.targets[target];
        let sites = sites(&self.members, &known);
        let mut order = placing::order(&key(self.job, target), &sites, need);
        order.retain(|candidate| {
            let member = &self.members[candidate.site];
            member.has_answered() && member.may_make(target)
        });
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
                [] => member.known().reported,
                declared => declared.to_vec(),
            };
            if !platforms.is_empty() {
                let name = &member.node.name;
                error = error.hint(format!("the node `{name}` is for {}", list(&platforms)));
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

    /// Makes lots, side by side as far as nodes have places.
    fn run(&self, lots: Vec<Lot>, cancel: &CancelToken) -> Vec<(Lot, Fate)> {
        let stop = CancelToken::new();
        let stopping = stop.clone();
        let _interrupt = cancel.on_cancel(move || stopping.cancel());
        let fates = threads::side_by_side(&lots, lots.len(), |lot| {
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
        let passed_over = lot.passed_over.iter().map(|at| {
            let name = &self.members[*at].node.name;
            (name.clone(), late(self.job.builder))
        });
        let mut failed: Vec<(String, String)> = passed_over.collect();
        let mut tried = BTreeSet::new();
        loop {
            if stop.is_cancelled() {
                return Fate::Stopped;
            }
            let mut candidates = self.candidates(lot.target, &lot.need).into_iter();
            let next = candidates.find(|candidate| !tried.contains(&candidate.site));
            // Before somebody emulates what was another's, those are asked again that were not waited for.
            let all_heard = self.members.iter().all(Member::has_answered);
            if !all_heard && self.settle(lot.target, &lot.need, false, &tried).is_none() {
                self.ask_all(stop);
                continue;
            }
            let Some(candidate) = next else { break };
            tried.insert(candidate.site);
            let member = &self.members[candidate.site];
            let Node { name, place, .. } = member.node;
            failed.retain(|(failed, _)| failed != name);
            let place_there = match place {
                Place::Daemon(_) => match member.places.take(stop) {
                    None => return Fate::Stopped,
                    taken => taken,
                },
                Place::Here => None,
            };
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
            if candidate.unlisted > 0 {
                let text = format!(
                    "[internal] no node that can be reached lists what runs for {platform}: {name} is tried, with an \
                     emulator that it may have"
                );
                say(&text, self.events);
            } else if candidate.emulated > 0 {
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
            let made = self.attempt(target, lot.output, name, address, stop);
            drop(place_there);
            match made {
                Ok(made) => return Fate::Made(account(failed), made),
                Err(_) if stop.is_cancelled() => return Fate::Stopped,
                Err(error) => match blame(&error) {
                    None => return Fate::Failed(error),
                    Some(Blame { why, gone }) => {
                        if gone {
                            member.lose(why.clone());
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
        let connection = Connection::open_within(self.job.builder.patience, address, stop);
        let daemon = Daemon {
            job: self.job,
            supply: &self.supply,
            address,
            connection: { connection.map_err(failure::outside)? }.bearing(self.job.builder.silence),
            apart: target.several.then_some(platform),
            events: self.events,
            node: Some(node),
            steps: RefCell::default(),
            open: RefCell::default(),
            warned: RefCell::default(),
        };
        let made = daemon.lot(target, output);
        if made.is_err() {
            daemon.abandon();
        }
        made
    }
}

/// Nodes, as far as placing goes.
fn sites<'a>(members: &'a [Member<'_>], known: &'a [Known]) -> Vec<Site<'a>> {
    let sites = members.iter().zip(known).map(|(member, known)| Site {
        node: &member.node.name,
        declared: &member.node.platforms,
        reported: &known.reported,
        may_emulate: match &member.node.place {
            Place::Daemon(address) => address.may_emulate() && known.heard == Heard::Answer,
            Place::Here => false,
        },
    });
    sites.collect()
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
        | EngineError::Silent { .. }
        | EngineError::Refused { .. } => true,
        EngineError::Exhausted { .. } | EngineError::Half { .. } | EngineError::Missing { .. } => {
            false
        }
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
