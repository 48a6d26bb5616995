//! The loop: one thread owns the state of the graph, workers run steps and tell it what happened.
//!
//! The channel to the loop is bounded, so that a step that writes faster than its output can be shown waits
//! instead of filling the memory. The loop never waits for a worker but by reading that channel.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::Scope;

use rbuild_llb::CancelToken;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

use super::Evaluate;
use super::Made;
use super::event_digest;
use super::lookup::Pending;
use super::lookup::Plan;
use super::lookup::State;
use super::queue::Lane;
use super::queue::Node;
use super::queue::Queue;
use super::tail::Tail;
use super::worker::Job;
use super::worker::Message;
use super::worker::Outcome;
use super::worker::Shared;
use super::worker::Step;
use super::worker::Tell;
use super::worker::Told;
use super::worker::Workers;

/// Events that may wait for the loop before the steps that send them do.
const BACKLOG: usize = 1024;
/// Assumed of a step that never ran here, in milliseconds.
const UNKNOWN_MS: u64 = 1000;
/// The `error` of a step that was stopped. It is the text of Go's `context.Canceled`, by which consumers of
/// BuildKit's progress tell a step that was stopped from one that failed.
pub const CANCELED: &str = "context canceled";

/// How to solve.
#[derive(Clone, Copy)]
pub struct SolveOptions<'a> {
    /// Steps that run at once, at least 1. Sources are counted apart, up to the same number.
    pub jobs: usize,
    /// Stops everything.
    pub cancel: &'a CancelToken,
    /// Gets every event, on the calling thread.
    pub events: &'a dyn Fn(Event),
    /// The time.
    pub clock: &'a (dyn Fn() -> Timestamp + Sync),
    /// Whether a step may fail without an end to those that do not need it.
    pub may_fail: &'a dyn Fn(&VertexId) -> bool,
}

/// What was solved.
#[derive(Debug)]
pub struct Solved<O, E: std::error::Error + 'static> {
    /// The result of the step that each output of the definition names, in their order.
    pub roots: Vec<Root<O>>,
    /// Why there are none of some, in the order in which it happened.
    pub failed: Vec<SolveError<E>>,
}

/// What an output of the definition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root<O> {
    /// It names no step: an empty file system.
    Empty,
    /// All outputs of its step.
    Made(O),
    /// A step that it needs failed, and might.
    Lost,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// A step failed; it is the first that did.
    #[error("`{name}` failed")]
    Failed {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: String,
        /// Its last lines of output, oldest first.
        log_tail: Vec<String>,
        /// Why.
        #[source]
        source: E,
    },
    /// The code that evaluates a step is wrong.
    #[error("`{name}` panicked: {message}")]
    Panicked {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// No thread could be had to run a step on.
    #[error("cannot start a thread for `{name}`")]
    Thread {
        /// The step.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was asked to stop.
    #[error("the build was cancelled")]
    Cancelled,
}

/// What [`solve`] gives.
pub type SolveResult<O, E> = Result<Solved<O, E>, SolveError<E>>;

/// Runs what the plan says must run.
///
/// # Errors
/// The first step that failed and might not, after those that ran at the time were stopped; or that it was cancelled.
pub fn solve<E: Evaluate>(
    plan: Plan<'_, E::Output>,
    evaluate: &E,
    options: SolveOptions<'_>,
) -> SolveResult<E::Output, E::Error> {
    let digests: Vec<String> = plan.steps.iter().map(|s| event_digest(&s.id)).collect();
    let mut graph = Vec::with_capacity(plan.steps.len());
    let mut states = Vec::with_capacity(plan.steps.len());
    for (step, digest) in plan.steps.into_iter().zip(&digests) {
        graph.push(Step {
            id: step.id,
            vertex: step.vertex,
            inputs: step.inputs,
            digest,
        });
        states.push(step.state);
    }
    let stop = CancelToken::new();
    // Its room is touched when it is made, which takes longer than all else that an unchanged build has to do here.
    let runs = states.iter().any(|state| matches!(state, State::Run(_)));
    let (tell, told) = mpsc::sync_channel(if runs { BACKLOG } else { 1 });
    let _on_cancel = options.cancel.on_cancel({
        let (stop, tell) = (stop.clone(), tell.clone());
        move || {
            stop.cancel();
            // A full channel wakes the loop as well.
            drop(tell.try_send(Message::Wake));
        }
    });
    let shared = Shared {
        evaluate,
        graph: &graph,
        stop: &stop,
        clock: options.clock,
    };
    let mut progress = Loop::begin(&shared, options, states)?;
    thread::scope(|scope| progress.run(scope, &tell, told));
    progress.end(&plan.roots)
}

/// What the loop knows of a step.
enum Progress<O> {
    /// Nothing needs it.
    Unneeded,
    /// It must run.
    Waiting(Box<Pending>),
    /// A worker has it.
    Running {
        started: Option<Timestamp>,
        tail: Tail,
    },
    /// Its result.
    Done(O),
    /// There will be no result.
    Lost,
}

/// The state of a solve.
struct Loop<'a, E: Evaluate> {
    shared: &'a Shared<'a, E>,
    options: SolveOptions<'a>,
    progress: Vec<Progress<E::Output>>,
    queue: Queue,
    /// Positions in the graph, by position in the queue; and the other way round.
    queued: Vec<usize>,
    place: Vec<Option<usize>>,
    /// Steps that run, by [`Lane`].
    running: [usize; 2],
    /// Steps that left their places and want one again, by [`Lane`], in the order in which they asked.
    resuming: [VecDeque<Sender<()>>; 2],
    /// Workers that have not said that they are free: those of steps that run, and those that publish a result.
    busy: usize,
    /// Why nothing more is started.
    failure: Option<SolveError<E::Error>>,
    /// Steps that failed, and might.
    failed: Vec<SolveError<E::Error>>,
    /// What is to be said once the steps are started that a step has made ready.
    unsaid: Vec<VertexEvent>,
}

impl<'a, E: Evaluate> Loop<'a, E> {
    /// Reports all steps, publishes what was found by content, and queues what must run.
    fn begin(
        shared: &'a Shared<'a, E>,
        options: SolveOptions<'a>,
        states: Vec<State<E::Output>>,
    ) -> Result<Self, SolveError<E::Error>> {
        let mut queued = Vec::new();
        let mut place = vec![None; states.len()];
        let mut nodes = Vec::new();
        for (position, state) in states.iter().enumerate() {
            if let State::Run(pending) = state {
                let step = &shared.graph[position];
                let mut needs: Vec<usize> = step
                    .inputs
                    .iter()
                    .filter_map(|&(at, _)| place[at])
                    .collect();
                needs.sort_unstable();
                needs.dedup();
                place[position] = Some(queued.len());
                queued.push(position);
                nodes.push(Node {
                    cost: pending.expected.unwrap_or(UNKNOWN_MS).max(1),
                    lane: lane(step.vertex),
                    needs,
                });
            }
        }
        let mut this = Self {
            shared,
            options,
            progress: Vec::with_capacity(states.len()),
            queue: Queue::new(&nodes),
            queued,
            place,
            running: [0; 2],
            resuming: Default::default(),
            busy: 0,
            failure: None,
            failed: Vec::new(),
            unsaid: Vec::new(),
        };
        for (position, state) in states.into_iter().enumerate() {
            let progress = match state {
                State::Unneeded => {
                    this.report_cached(position);
                    Progress::Unneeded
                }
                State::Cached { output, publish } => {
                    if let Some((record, by)) = publish {
                        let vertex = shared.graph[position].vertex;
                        shared
                            .evaluate
                            .store(vertex, &[record], &output, Made::Found { by })
                            .map_err(|source| {
                                failed(&shared.graph[position], source, Tail::default())
                            })?;
                    }
                    this.report_cached(position);
                    Progress::Done(output)
                }
                State::Run(pending) => {
                    this.report(position, None, None, false, String::new());
                    Progress::Waiting(Box::new(pending))
                }
            };
            this.progress.push(progress);
        }
        Ok(this)
    }

    fn run<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        tell: &Tell<E>,
        told: Told<E>,
    ) where
        'a: 'scope,
    {
        let mut workers = Workers {
            jobs: Vec::new(),
            idle: Vec::new(),
        };
        loop {
            if self.failure.is_none() && self.options.cancel.is_cancelled() {
                self.fail(SolveError::Cancelled);
            }
            self.start_ready(scope, &mut workers, tell);
            for event in std::mem::take(&mut self.unsaid) {
                (self.options.events)(Event::Vertex(event));
            }
            if self.busy == 0 {
                return;
            }
            let message = told.recv().expect("`tell` lives as long as this loop");
            self.handle(message, &mut workers);
        }
    }

    /// The result, or why there is none.
    fn end(mut self, roots: &[Option<usize>]) -> SolveResult<E::Output, E::Error> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let roots = roots.iter().map(|root| match root {
            None => Root::Empty,
            Some(position) => match &self.progress[*position] {
                Progress::Done(output) => Root::Made(output.clone()),
                _ if !self.failed.is_empty() => Root::Lost,
                _ => unreachable!("the loop ends without failure when every step it needs is done"),
            },
        });
        Ok(Solved {
            roots: roots.collect(),
            failed: self.failed,
        })
    }

    /// Gives every step that is ready to a worker, as far as the limits allow.
    fn start_ready<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        workers: &mut Workers<E::Output>,
        tell: &Tell<E>,
    ) where
        'a: 'scope,
    {
        for lane in [Lane::Fetch, Lane::Work] {
            self.resume(lane);
            while self.failure.is_none() && self.running[lane as usize] < self.options.jobs.max(1) {
                let Some(place) = self.queue.pop(lane) else {
                    break;
                };
                let position = self.queued[place];
                let worker = match workers.idle.pop() {
                    Some(worker) => worker,
                    None => match workers.start(scope, *self.shared, tell) {
                        Ok(worker) => worker,
                        Err(source) => {
                            let name = self.shared.graph[position].vertex.meta.name.clone();
                            return self.fail(SolveError::Thread { name, source });
                        }
                    },
                };
                let job = self.take_job(position);
                self.running[lane as usize] += 1;
                self.busy += 1;
                workers.jobs[worker]
                    .send(job)
                    .expect("a worker ends only when its sender is dropped");
            }
        }
    }

    /// Gives places to steps that had one before. When the solve has failed, to all of them: they are told to stop.
    fn resume(&mut self, lane: Lane) {
        let lane = lane as usize;
        while self.failure.is_some() || self.running[lane] < self.options.jobs.max(1) {
            let Some(place) = self.resuming[lane].pop_front() else {
                return;
            };
            self.running[lane] += 1;
            place
                .send(())
                .expect("a step that asked for a place waits for it");
        }
    }

    fn take_job(&mut self, position: usize) -> Job<E::Output> {
        let inputs = self.shared.graph[position].inputs.iter();
        let inputs = inputs
            .map(|&(at, index)| match &self.progress[at] {
                Progress::Done(output) => (output.clone(), index),
                _ => unreachable!("a step is ready when all of its inputs are done"),
            })
            .collect();
        let running = Progress::Running {
            started: None,
            tail: Tail::default(),
        };
        match std::mem::replace(&mut self.progress[position], running) {
            Progress::Waiting(pending) => Job {
                position,
                pending,
                inputs,
            },
            _ => unreachable!("the queue gives every step once"),
        }
    }

    fn handle(&mut self, message: Message<E::Output, E::Error>, workers: &mut Workers<E::Output>) {
        match message {
            Message::Wake => {}
            Message::Started { position, at } => {
                if let Progress::Running { started, .. } = &mut self.progress[position] {
                    *started = Some(at);
                }
                self.report(position, Some(at), None, false, String::new());
            }
            Message::Event { position, event } => {
                if let Event::Log(log) = &event
                    && let Progress::Running { tail, .. } = &mut self.progress[position]
                {
                    tail.push(log);
                }
                (self.options.events)(event);
            }
            Message::Idle { position } => {
                self.running[lane(self.shared.graph[position].vertex) as usize] -= 1;
            }
            Message::Resume { position, place } => {
                let lane = lane(self.shared.graph[position].vertex);
                self.resuming[lane as usize].push_back(place);
            }
            Message::Ended {
                position,
                at,
                outcome,
            } => {
                self.running[lane(self.shared.graph[position].vertex) as usize] -= 1;
                self.ended(position, at, outcome);
            }
            Message::Free {
                worker,
                position,
                at,
                unpublished,
            } => {
                workers.idle.push(worker);
                self.busy -= 1;
                if let Some(outcome) = unpublished {
                    self.unpublished(position, at, outcome);
                }
            }
        }
    }

    fn ended(&mut self, position: usize, at: Timestamp, outcome: Outcome<E::Output, E::Error>) {
        let Progress::Running { started, tail } =
            std::mem::replace(&mut self.progress[position], Progress::Lost)
        else {
            unreachable!("a worker ends the step it was given")
        };
        let (cached, error, failure) = match outcome {
            Outcome::Found(output) => {
                self.done(position, output);
                (true, String::new(), None)
            }
            Outcome::Built(output) => {
                self.done(position, output);
                (false, String::new(), None)
            }
            Outcome::Cancelled if started.is_none() => return,
            outcome => {
                let (error, failure) = self.loss(position, outcome, tail);
                (false, error, failure)
            }
        };
        let started = started.or(Some(at));
        let ended = self.vertex_event(position, started, Some(at), cached, error);
        // Saying it takes as long as starting the next step.
        self.unsaid.push(ended);
        match failure {
            Some(failure @ SolveError::Failed { .. })
                if (self.options.may_fail)(&self.shared.graph[position].id) =>
            {
                self.failed.push(failure);
            }
            Some(failure) => self.fail(failure),
            None => {}
        }
    }

    /// A step ended well, but its result could not be kept: it failed after all.
    fn unpublished(
        &mut self,
        position: usize,
        at: Timestamp,
        outcome: Outcome<E::Output, E::Error>,
    ) {
        if let (error, Some(failure)) = self.loss(position, outcome, Tail::default()) {
            self.report(position, Some(at), Some(at), false, error);
            self.fail(failure);
        }
    }

    /// What events say of a step without result, and why the solve ends with it.
    fn loss(
        &self,
        position: usize,
        outcome: Outcome<E::Output, E::Error>,
        tail: Tail,
    ) -> (String, Option<SolveError<E::Error>>) {
        let step = &self.shared.graph[position];
        match outcome {
            Outcome::Failed(source) => (chain(&source), Some(failed(step, source, tail))),
            Outcome::Panicked(message) => {
                let failure = SolveError::Panicked {
                    vertex: step.id,
                    name: step.vertex.meta.name.clone(),
                    message,
                };
                (failure.to_string(), Some(failure))
            }
            Outcome::Found(_) | Outcome::Built(_) | Outcome::Cancelled => {
                (CANCELED.to_owned(), None)
            }
        }
    }

    fn done(&mut self, position: usize, output: E::Output) {
        self.progress[position] = Progress::Done(output);
        let place = self.place[position].expect("what ran was queued");
        self.queue.finish(place);
    }

    /// Starts nothing more, and stops what runs. Only the first reason counts.
    fn fail(&mut self, failure: SolveError<E::Error>) {
        self.failure.get_or_insert(failure);
        self.shared.stop.cancel();
    }

    fn report_cached(&self, position: usize) {
        let now = (self.options.clock)();
        self.report(position, Some(now), Some(now), true, String::new());
    }

    fn report(
        &self,
        position: usize,
        started: Option<Timestamp>,
        completed: Option<Timestamp>,
        cached: bool,
        error: String,
    ) {
        let event = self.vertex_event(position, started, completed, cached, error);
        (self.options.events)(Event::Vertex(event));
    }

    fn vertex_event(
        &self,
        position: usize,
        started: Option<Timestamp>,
        completed: Option<Timestamp>,
        cached: bool,
        error: String,
    ) -> VertexEvent {
        let graph = self.shared.graph;
        let step = &graph[position];
        let inputs = step.inputs.iter();
        VertexEvent {
            digest: step.digest.to_owned(),
            inputs: inputs.map(|&(at, _)| graph[at].digest.to_owned()).collect(),
            name: step.vertex.meta.name.clone(),
            started,
            completed,
            cached,
            error,
            why: String::new(),
            emulator: String::new(),
        }
    }
}

fn lane(vertex: &Vertex) -> Lane {
    match vertex.op {
        Op::Source(_) => Lane::Fetch,
        Op::Exec(_) | Op::File(_) | Op::Merge | Op::Diff => Lane::Work,
    }
}

fn failed<E: std::error::Error>(step: &Step<'_>, source: E, tail: Tail) -> SolveError<E> {
    SolveError::Failed {
        vertex: step.id,
        name: step.vertex.meta.name.clone(),
        log_tail: tail.into_lines(),
        source,
    }
}

/// An error with all its causes in one line, as Go prints them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
