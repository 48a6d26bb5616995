//! What runs on the workers' threads: one step at a time, from its content key to its published result.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::thread::Scope;

use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;

use super::Evaluate;
use super::Input;
use super::Load;
use super::Made;
use super::StepControl;
use super::lookup::Pending;

/// One step of the graph.
pub(super) struct Step<'a> {
    pub id: VertexId,
    pub vertex: &'a Vertex,
    pub inputs: Vec<(usize, u32)>,
    pub digest: &'a str,
}

/// What the workers see.
pub(super) struct Shared<'a, E: Evaluate> {
    pub evaluate: &'a E,
    pub graph: &'a [Step<'a>],
    pub stop: &'a CancelToken,
    pub clock: &'a (dyn Fn() -> Timestamp + Sync),
}

impl<E: Evaluate> Clone for Shared<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Evaluate> Copy for Shared<'_, E> {}

/// What a worker is asked to do.
pub(super) struct Job<O> {
    pub position: usize,
    pub pending: Box<Pending>,
    pub inputs: Vec<(O, u32)>,
}

/// What the loop is told.
pub(super) enum Message<O, E> {
    /// The build was cancelled.
    Wake,
    /// The step does more than look itself up.
    Started { position: usize, at: Timestamp },
    /// The step has something to say.
    Event { position: usize, event: Event },
    /// The worker is done with the step.
    Ended {
        worker: usize,
        position: usize,
        at: Timestamp,
        outcome: Outcome<O, E>,
    },
}

/// How a step ended.
pub(super) enum Outcome<O, E> {
    /// Its inputs came out as they were once before.
    Found(O),
    /// It ran.
    Built(O),
    Failed(E),
    Panicked(String),
    Cancelled,
}

pub(super) type Tell<E> = SyncSender<Message<<E as Evaluate>::Output, <E as Evaluate>::Error>>;
pub(super) type Told<E> = Receiver<Message<<E as Evaluate>::Output, <E as Evaluate>::Error>>;

/// The threads steps run on, made when first needed.
pub(super) struct Workers<O> {
    pub jobs: Vec<Sender<Job<O>>>,
    pub idle: Vec<usize>,
}

impl<O: Clone + Send + Sync + 'static> Workers<O> {
    /// Starts a thread.
    pub(super) fn start<'scope, 'env, 'a: 'scope, E: Evaluate<Output = O>>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        shared: Shared<'a, E>,
        tell: &Tell<E>,
    ) -> io::Result<usize> {
        let worker = self.jobs.len();
        let (give, jobs) = mpsc::channel::<Job<O>>();
        let tell = tell.clone();
        thread::Builder::new()
            .name(format!("step-{worker}"))
            .spawn_scoped(scope, move || {
                for job in jobs {
                    let position = job.position;
                    let outcome = catch_unwind(AssertUnwindSafe(|| shared.work(job, &tell)))
                        .unwrap_or_else(|panic| Outcome::Panicked(panic_message(&*panic)));
                    let at = (shared.clock)();
                    let ended = Message::Ended {
                        worker,
                        position,
                        at,
                        outcome,
                    };
                    if tell.send(ended).is_err() {
                        return;
                    }
                }
            })?;
        self.jobs.push(give);
        Ok(worker)
    }
}

impl<E: Evaluate> Shared<'_, E> {
    /// Carries out one job, on a worker's thread.
    fn work(&self, job: Job<E::Output>, tell: &Tell<E>) -> Outcome<E::Output, E::Error> {
        if self.stop.is_cancelled() {
            return Outcome::Cancelled;
        }
        // An error of a step that was told to stop says nothing about the step.
        self.try_work(job, tell).unwrap_or_else(|error| {
            if self.stop.is_cancelled() {
                Outcome::Cancelled
            } else {
                Outcome::Failed(error)
            }
        })
    }

    fn try_work(
        &self,
        job: Job<E::Output>,
        tell: &Tell<E>,
    ) -> Result<Outcome<E::Output, E::Error>, E::Error> {
        let position = job.position;
        let Step { vertex, digest, .. } = &self.graph[position];
        let inputs: Vec<Input<'_, E::Output>> = job
            .inputs
            .iter()
            .map(|(output, index)| Input {
                output,
                index: *index,
            })
            .collect();
        let mut records: Vec<KeyRecord> = vec![job.pending.definition];
        match job.pending.content {
            Some(missed) => records.push(missed),
            None => {
                if let Some(record) = self.evaluate.content_record(vertex, &inputs)? {
                    let key = record.key();
                    if !vertex.meta.ignore_cache
                        && let Load::Hit(output) = self.evaluate.load(vertex, &key)
                    {
                        let made = Made::Found { by: &key };
                        self.evaluate.store(vertex, &records, &output, made)?;
                        return Ok(Outcome::Found(output));
                    }
                    records.push(record);
                }
            }
        }
        let started = (self.clock)();
        let at = started;
        // Only a loop that is gone does not listen, and then nobody does.
        drop(tell.send(Message::Started { position, at }));
        let control = StepControl {
            cancel: self.stop,
            digest,
            events: &|event| drop(tell.send(Message::Event { position, event })),
        };
        let output = self.evaluate.execute(vertex, &inputs, &control)?;
        let completed = (self.clock)();
        let made = Made::Executed { started, completed };
        self.evaluate.store(vertex, &records, &output, made)?;
        Ok(Outcome::Built(output))
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
