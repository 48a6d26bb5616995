//! What runs on the workers' threads: one step at a time, from its content key to its published result.
//!
//! The loop is told of a result before it is published, so that what needs it starts meanwhile: publishing writes some
//! ten files, which on a slow disk takes as long as a short step.

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

use rbuild_llb::CacheKey;
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
    /// The step does nothing but wait for somebody who is not of this build: it leaves its place to others.
    Idle { position: usize },
    /// It has waited long enough, and goes on when it is given a place again.
    Resume { position: usize, place: Sender<()> },
    /// The step ended.
    Ended {
        position: usize,
        at: Timestamp,
        outcome: Outcome<O, E>,
    },
    /// The worker is done with the step, whose result is published but for `unpublished`.
    Free {
        worker: usize,
        position: usize,
        at: Timestamp,
        unpublished: Option<Outcome<O, E>>,
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

/// What comes of a job.
struct Worked<E: Evaluate> {
    outcome: Outcome<E::Output, E::Error>,
    unpublished: Option<Unpublished<E>>,
}

impl<E: Evaluate> From<Outcome<E::Output, E::Error>> for Worked<E> {
    fn from(outcome: Outcome<E::Output, E::Error>) -> Self {
        Self {
            outcome,
            unpublished: None,
        }
    }
}

/// A result that is still to be published.
struct Unpublished<E: Evaluate> {
    records: Vec<KeyRecord>,
    output: E::Output,
    made: Made,
    turn: Option<E::Turn>,
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
                    let worked = catch_unwind(AssertUnwindSafe(|| shared.work(job, &tell)))
                        .unwrap_or_else(|panic| Outcome::Panicked(panic_message(&*panic)).into());
                    let Worked {
                        outcome,
                        unpublished,
                    } = worked;
                    let at = (shared.clock)();
                    let ended = Message::Ended {
                        position,
                        at,
                        outcome,
                    };
                    if tell.send(ended).is_err() {
                        return;
                    }
                    let unpublished =
                        catch_unwind(AssertUnwindSafe(|| shared.publish(position, unpublished)))
                            .unwrap_or_else(|panic| {
                                Some(Outcome::Panicked(panic_message(&*panic)))
                            });
                    let at = (shared.clock)();
                    let free = Message::Free {
                        worker,
                        position,
                        at,
                        unpublished,
                    };
                    if tell.send(free).is_err() {
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
    fn work(&self, job: Job<E::Output>, tell: &Tell<E>) -> Worked<E> {
        if self.stop.is_cancelled() {
            return Outcome::Cancelled.into();
        }
        self.try_work(job, tell)
            .unwrap_or_else(|error| self.failed(error).into())
    }

    /// An error of a step that was told to stop says nothing about the step.
    fn failed(&self, error: E::Error) -> Outcome<E::Output, E::Error> {
        match self.stop.is_cancelled() {
            true => Outcome::Cancelled,
            false => Outcome::Failed(error),
        }
    }

    /// Publishes a result; or why it could not be.
    fn publish(
        &self,
        position: usize,
        result: Option<Unpublished<E>>,
    ) -> Option<Outcome<E::Output, E::Error>> {
        let Unpublished {
            records,
            output,
            made,
            turn,
        } = result?;
        let vertex = self.graph[position].vertex;
        let published = self.evaluate.store(vertex, &records, &output, made);
        // Those who wait for it look for the result.
        drop(turn);
        published.err().map(|error| self.failed(error))
    }

    fn try_work(&self, job: Job<E::Output>, tell: &Tell<E>) -> Result<Worked<E>, E::Error> {
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
        let mut key = records[0].key();
        match job.pending.content {
            Some(missed) => {
                key = missed.key();
                records.push(missed);
            }
            None => {
                if let Some(record) = self.evaluate.content_record(vertex, &inputs)? {
                    key = record.key();
                    if let Some(output) = self.find(vertex, &record, &key) {
                        return Ok(found(output, records, key));
                    }
                    records.push(record);
                }
            }
        }
        let at = (self.clock)();
        // Only a loop that is gone does not listen, and then nobody does.
        drop(tell.send(Message::Started { position, at }));
        let control = StepControl {
            cancel: self.stop,
            digest,
            events: &|event| drop(tell.send(Message::Event { position, event })),
            idle: &|wait| self.idle(position, wait, tell),
        };
        let record = records
            .last()
            .expect("the definition's record is the first of them");
        let turn = self.evaluate.turn(vertex, record, &key, &control)?;
        if turn.is_some()
            && let Some(output) = self.find(vertex, record, &key)
        {
            return Ok(found(output, records, key));
        }
        let started = (self.clock)();
        let output = match self.evaluate.execute(vertex, &inputs, &control) {
            Ok(output) => output,
            Err(error) => {
                if let Some(turn) = turn
                    && !self.stop.is_cancelled()
                {
                    self.evaluate.fail(turn);
                }
                return Err(error);
            }
        };
        let completed = (self.clock)();
        Ok(Worked {
            outcome: Outcome::Built(output.clone()),
            unpublished: Some(Unpublished {
                records,
                output,
                made: Made::Executed { started, completed },
                turn,
            }),
        })
    }

    /// The result that is known for a key, unless it does not count.
    fn find(&self, vertex: &Vertex, record: &KeyRecord, key: &CacheKey) -> Option<E::Output> {
        match vertex.meta.ignore_cache {
            true => None,
            false => match self.evaluate.load(vertex, record, key) {
                Load::Hit(output) => Some(output),
                Load::Miss | Load::Unusable(_) => None,
            },
        }
    }

    /// Leaves the step's place to others while `wait` runs.
    fn idle(&self, position: usize, wait: &mut dyn FnMut(), tell: &Tell<E>) {
        /// Comes back whatever happens: the loop counts.
        struct Back<'t, E: Evaluate>(usize, &'t Tell<E>);
        impl<E: Evaluate> Drop for Back<'_, E> {
            fn drop(&mut self) {
                let (place, placed) = mpsc::channel();
                let position = self.0;
                if self.1.send(Message::Resume { position, place }).is_ok() {
                    // Dropped unanswered: nobody is there to count.
                    let _ = placed.recv();
                }
            }
        }
        drop(tell.send(Message::Idle { position }));
        let _back = Back::<E>(position, tell);
        wait();
    }
}

/// A result that was found by `by`, and is published under the other keys of its step.
fn found<E: Evaluate>(output: E::Output, mut records: Vec<KeyRecord>, by: CacheKey) -> Worked<E> {
    records.retain(|record| record.key() != by);
    Worked {
        outcome: Outcome::Found(output.clone()),
        unpublished: (!records.is_empty()).then_some(Unpublished {
            records,
            output,
            made: Made::Found { by },
            turn: None,
        }),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
