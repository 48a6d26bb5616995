//! What is cached, what must run, and why; nothing runs here.
//!
//! Three passes over the graph, none of them recursive:
//!
//! 1. inputs first: every definition key;
//! 2. users first: what somebody needs is looked up by its definition key; if it is not there, its inputs are
//!    needed;
//! 3. inputs first: what was not there, but has all its inputs, is looked up by its content key.
//!
//! A step that must run whatever the cache says may come out differently under the same definition key, so what
//! is made of it is only ever looked up by content.

use std::collections::BTreeMap;

use rbuild_llb::CacheKey;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;

use super::Earlier;
use super::Evaluate;
use super::Input;
use super::InputKey;
use super::Load;
use super::miss;
use super::miss::Difference;
use super::miss::Miss;

/// What a build of a definition comes to.
#[derive(Debug)]
pub struct Plan<'a, O> {
    /// Inputs before users, as in the definition.
    pub(super) steps: Vec<Step<'a, O>>,
    /// The position of the step each output of the definition names.
    pub(super) roots: Vec<Option<usize>>,
}

/// One step of the plan.
#[derive(Debug)]
pub(super) struct Step<'a, O> {
    pub id: VertexId,
    pub vertex: &'a Vertex,
    /// Its definition key.
    pub key: CacheKey,
    /// Position and output of each input.
    pub inputs: Vec<(usize, u32)>,
    pub state: State<O>,
}

impl<O> Step<'_, O> {
    fn found(&self) -> Option<&O> {
        match &self.state {
            State::Cached { output, .. } => Some(output),
            State::Unneeded | State::Run(_) => None,
        }
    }
}

/// One step of a plan, for those who want to see it.
#[derive(Debug)]
pub struct PlannedStep<'p> {
    /// The step.
    pub id: VertexId,
    /// What it is.
    pub vertex: &'p Vertex,
    /// Its definition key.
    pub key: CacheKey,
    /// What is to be done about it.
    pub state: PlannedState<'p>,
}

/// What a plan says about a step.
#[derive(Debug, PartialEq, Eq)]
pub enum PlannedState<'p> {
    /// Nothing needs it: all that is made of it is there.
    Unneeded,
    /// It is there.
    Cached {
        /// The key it was found by: its definition key or its content key.
        by: CacheKey,
    },
    /// It must run.
    Run(&'p Miss),
    /// It must run, unless what its inputs come out as is known already.
    Undecided(&'p Miss),
}

/// What is to be done about a step.
#[derive(Debug)]
pub(super) enum State<O> {
    /// Nothing: all that is made of it is there.
    Unneeded,
    /// Nothing: it is there.
    Cached {
        output: O,
        /// If it was found by its content: the definition record it must be published under as well, so that the
        /// next build finds it sooner, and the key it was found by.
        publish: Option<(KeyRecord, CacheKey)>,
    },
    /// It must run, unless its content key hits once its inputs are known.
    Run(Pending),
}

/// A step that must run.
#[derive(Debug)]
pub(super) struct Pending {
    pub definition: KeyRecord,
    /// The content record, where all inputs were known; it was looked up in vain.
    pub content: Option<KeyRecord>,
    pub miss: Miss,
    /// How long it took the last time, in milliseconds.
    pub expected: Option<u64>,
}

/// A step whose keys could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up `{name}` in the cache")]
pub struct PlanError<E: std::error::Error + 'static> {
    /// The step.
    pub vertex: VertexId,
    /// Its name.
    pub name: String,
    /// Why.
    #[source]
    pub source: E,
}

/// Looks up every step that somebody needs. Reads the store, and writes nothing but what caches elsewhere know.
///
/// # Errors
/// If [`Evaluate`] cannot make the record of a step.
pub fn plan<'a, E: Evaluate>(
    definition: &'a PrunedDefinition,
    evaluate: &E,
) -> Result<Plan<'a, E::Output>, PlanError<E::Error>> {
    let mut lookup = Lookup::new(definition, evaluate)?;
    lookup.by_definition();
    lookup.by_content()?;
    Ok(lookup.finish())
}

/// A step on its way through the passes.
struct Found<'a, O> {
    id: VertexId,
    vertex: &'a Vertex,
    inputs: Vec<(usize, u32)>,
    definition: KeyRecord,
    key: CacheKey,
    /// Whether it, or something it is made of, must run whatever the cache says.
    forced: bool,
    answer: Answer<O>,
}

enum Answer<O> {
    /// Nobody needs it so far.
    Unneeded,
    Hit {
        output: O,
        by: Option<CacheKey>,
    },
    Miss {
        unusable: Option<String>,
        content: Option<KeyRecord>,
    },
}

struct Lookup<'a, 'e, E: Evaluate> {
    evaluate: &'e E,
    steps: Vec<Found<'a, E::Output>>,
    roots: Vec<Option<usize>>,
}

impl<'a, 'e, E: Evaluate> Lookup<'a, 'e, E> {
    /// The first pass.
    fn new(definition: &'a PrunedDefinition, evaluate: &'e E) -> Result<Self, PlanError<E::Error>> {
        let mut positions: BTreeMap<VertexId, usize> = BTreeMap::new();
        let mut steps: Vec<Found<'a, E::Output>> = Vec::with_capacity(definition.len());
        for (id, vertex) in definition.iter() {
            let inputs: Vec<(usize, u32)> = vertex
                .inputs
                .iter()
                .map(|edge| (positions[&edge.vertex], edge.output))
                .collect();
            let keys: Vec<InputKey> = inputs
                .iter()
                .map(|&(at, index)| InputKey {
                    key: steps[at].key,
                    index,
                })
                .collect();
            let record = evaluate
                .definition_record(vertex, &keys)
                .map_err(|source| plan_error(id, vertex, source))?;
            positions.insert(id, steps.len());
            steps.push(Found {
                id,
                vertex,
                key: record.key(),
                definition: record,
                forced: vertex.meta.ignore_cache || inputs.iter().any(|&(at, _)| steps[at].forced),
                inputs,
                answer: Answer::Unneeded,
            });
        }
        let roots = definition.outputs.iter();
        Ok(Self {
            evaluate,
            steps,
            roots: roots
                .map(|output| output.root.map(|edge| positions[&edge.vertex]))
                .collect(),
        })
    }

    /// The second pass.
    fn by_definition(&mut self) {
        let mut needed = vec![false; self.steps.len()];
        for &root in self.roots.iter().flatten() {
            needed[root] = true;
        }
        for (position, step) in self.steps.iter_mut().enumerate().rev() {
            if !needed[position] {
                continue;
            }
            let answer = if step.forced {
                Load::Miss
            } else {
                self.evaluate.load(step.vertex, &step.definition, &step.key)
            };
            step.answer = match answer {
                Load::Hit(output) => Answer::Hit { output, by: None },
                Load::Miss => Answer::missing(None),
                Load::Unusable(why) => Answer::missing(Some(why)),
            };
            if matches!(step.answer, Answer::Miss { .. }) {
                step.inputs.iter().for_each(|&(at, _)| needed[at] = true);
            }
        }
    }

    /// The third pass.
    fn by_content(&mut self) -> Result<(), PlanError<E::Error>> {
        for position in 0..self.steps.len() {
            let (before, rest) = self.steps.split_at_mut(position);
            let step = &mut rest[0];
            let Answer::Miss { unusable, content } = &mut step.answer else {
                continue;
            };
            if step.vertex.meta.ignore_cache {
                continue;
            }
            let inputs: Option<Vec<Input<'_, E::Output>>> = step
                .inputs
                .iter()
                .map(|&(at, index)| match &before[at].answer {
                    Answer::Hit { output, .. } => Some(Input { output, index }),
                    Answer::Miss { .. } | Answer::Unneeded => None,
                })
                .collect();
            let Some(inputs) = inputs else { continue };
            let record = self
                .evaluate
                .content_record(step.vertex, &inputs)
                .map_err(|source| plan_error(step.id, step.vertex, source))?;
            let Some(record) = record else { continue };
            let key = record.key();
            match self.evaluate.load(step.vertex, &record, &key) {
                Load::Hit(output) => {
                    step.answer = Answer::Hit {
                        output,
                        by: Some(key),
                    };
                }
                Load::Miss => *content = Some(record),
                Load::Unusable(why) => {
                    *content = Some(record);
                    unusable.get_or_insert(why);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Plan<'a, E::Output> {
        let runs: Vec<bool> = self
            .steps
            .iter()
            .map(|step| matches!(step.answer, Answer::Miss { .. }))
            .collect();
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in self.steps {
            let state = match step.answer {
                Answer::Unneeded => State::Unneeded,
                Answer::Hit { output, by } => State::Cached {
                    output,
                    publish: by.map(|key| (step.definition, key)),
                },
                Answer::Miss { unusable, content } => {
                    let rebuilt = (0..step.inputs.len())
                        .filter(|&input| runs[step.inputs[input].0])
                        .collect();
                    let missed = Missed {
                        vertex: step.vertex,
                        definition: &step.definition,
                        content: content.as_ref(),
                        unusable,
                        rebuilt,
                    };
                    let (miss, expected) = missed.why(self.evaluate);
                    State::Run(Pending {
                        miss,
                        expected,
                        definition: step.definition,
                        content,
                    })
                }
            };
            steps.push(Step {
                id: step.id,
                vertex: step.vertex,
                key: step.key,
                inputs: step.inputs,
                state,
            });
        }
        Plan {
            steps,
            roots: self.roots,
        }
    }
}

impl<O> Answer<O> {
    fn missing(unusable: Option<String>) -> Self {
        Self::Miss {
            unusable,
            content: None,
        }
    }
}

/// A step that must run.
struct Missed<'a> {
    vertex: &'a Vertex,
    definition: &'a KeyRecord,
    /// If all inputs are known.
    content: Option<&'a KeyRecord>,
    unusable: Option<String>,
    /// Which of its inputs must run.
    rebuilt: Vec<usize>,
}

impl Missed<'_> {
    /// Why it must run, what only this step knows first, what its inputs brought on last; and how long it took before, in
    /// milliseconds.
    fn why<E: Evaluate>(self, evaluate: &E) -> (Miss, Option<u64>) {
        let earlier = |record: &KeyRecord| {
            let earlier = evaluate.earlier(self.vertex, record);
            earlier.filter(|earlier| earlier.record.kind == record.kind)
        };
        let by_definition = earlier(self.definition);
        let expected = by_definition.as_ref().map(|earlier| earlier.duration_ms);
        let miss = match self.unusable {
            _ if self.vertex.meta.ignore_cache => Miss::NoCache,
            Some(reason) => Miss::Unusable { reason },
            None => Self::compared(self.definition, by_definition, self.rebuilt, || {
                let content = self.content?;
                Some((content, earlier(content)?))
            }),
        };
        (miss, expected)
    }

    fn compared<'c>(
        definition: &KeyRecord,
        earlier: Option<Earlier>,
        rebuilt: Vec<usize>,
        content: impl FnOnce() -> Option<(&'c KeyRecord, Earlier)>,
    ) -> Miss {
        let changed = |now: &KeyRecord, earlier: Earlier| {
            Miss::Changed(Box::new(Difference {
                earlier: earlier.record,
                now: now.clone(),
            }))
        };
        let Some(earlier) = earlier else {
            return Miss::FirstTime;
        };
        if miss::differ(&earlier.record, definition, false) {
            return changed(definition, earlier);
        }
        if !rebuilt.is_empty() {
            return Miss::Inputs(rebuilt);
        }
        // Its inputs are others, which are known: what they hold says more than their keys.
        match content() {
            Some((now, earlier)) if miss::differ(&earlier.record, now, true) => {
                changed(now, earlier)
            }
            _ if miss::differ(&earlier.record, definition, true) => changed(definition, earlier),
            _ => Miss::Removed,
        }
    }
}

fn plan_error<E: std::error::Error>(id: VertexId, vertex: &Vertex, source: E) -> PlanError<E> {
    PlanError {
        vertex: id,
        name: vertex.meta.name.clone(),
        source,
    }
}

impl<O: Clone> Plan<'_, O> {
    /// Whether nothing must run: [`solve`](super::solve) then starts no thread.
    pub fn is_complete(&self) -> bool {
        let mut states = self.steps.iter().map(|step| &step.state);
        !states.any(|state| matches!(state, State::Run(_)))
    }

    /// Whether what was found is known by the keys of this build already: then solving changes nothing.
    pub fn is_settled(&self) -> bool {
        let mut states = self.steps.iter().map(|step| &step.state);
        states.all(|state| match state {
            State::Unneeded => true,
            State::Cached { publish, .. } => publish.is_none(),
            State::Run(_) => false,
        })
    }

    /// What was found, inputs first.
    pub fn found(&self) -> impl Iterator<Item = &O> {
        self.steps.iter().filter_map(Step::found)
    }

    /// What was found that steps take which must run, or may have to, and which of its outputs.
    pub fn taken(&self) -> impl Iterator<Item = (&O, u32)> {
        let run = |step: &&Step<'_, O>| matches!(step.state, State::Run(_));
        let inputs = self.steps.iter().filter(run).flat_map(|step| &step.inputs);
        inputs.filter_map(|&(at, index)| Some((self.steps[at].found()?, index)))
    }

    /// The result of the step that an output of the definition names, if it was found.
    pub fn found_root(&self, output: usize) -> Option<&O> {
        self.steps[self.roots[output]?].found()
    }

    /// The steps that must run, inputs first.
    pub fn pending(&self) -> impl Iterator<Item = (VertexId, &Vertex)> + Clone {
        self.steps
            .iter()
            .filter(|step| matches!(step.state, State::Run(_)))
            .map(|step| (step.id, step.vertex))
    }

    /// All steps, inputs first.
    pub fn steps(&self) -> impl Iterator<Item = PlannedStep<'_>> {
        self.steps.iter().map(|step| PlannedStep {
            id: step.id,
            vertex: step.vertex,
            key: step.key,
            state: self.state(step),
        })
    }

    fn state<'p>(&'p self, step: &'p Step<'_, O>) -> PlannedState<'p> {
        let runs = |&(at, _): &(usize, u32)| matches!(self.steps[at].state, State::Run(_));
        match &step.state {
            State::Unneeded => PlannedState::Unneeded,
            State::Cached { publish, .. } => PlannedState::Cached {
                by: publish.as_ref().map_or(step.key, |(_, key)| *key),
            },
            State::Run(pending)
                if !step.vertex.meta.ignore_cache && step.inputs.iter().any(runs) =>
            {
                PlannedState::Undecided(&pending.miss)
            }
            State::Run(pending) => PlannedState::Run(&pending.miss),
        }
    }

    /// The result of the step each output of the definition names, in their order; `None` for an empty file
    /// system. Nothing unless the plan [is complete](Self::is_complete).
    pub fn outputs(&self) -> Option<Vec<Option<O>>> {
        self.roots
            .iter()
            .map(|root| match root {
                None => Some(None),
                Some(position) => match &self.steps[*position].state {
                    State::Cached { output, .. } => Some(Some(output.clone())),
                    State::Unneeded | State::Run(_) => None,
                },
            })
            .collect()
    }
}
