//! What a build did about each of its steps, and why: noted while it runs, for the display and for those who ask later.

mod ask;

use std::cell::RefCell;
use std::collections::BTreeMap;

use rbuild_cache::BuildReport;
use rbuild_cache::BuiltStep;
use rbuild_cache::Fate;
use rbuild_cache::Store;
use rbuild_llb::Op;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::op::SourceOp;

use super::conceal::Conceal;
use crate::clock;
use crate::ops::Engine;
use crate::ops::StepResult;
use crate::ops::why::Words;
use crate::solver;
use crate::solver::Miss;
use crate::solver::Plan;
use crate::solver::PlannedState;
use crate::solver::PlannedStep;

pub use ask::Asked;
pub use ask::Cause;
pub use ask::End;
pub use ask::Explained;
pub use ask::ExplainedStep;
pub use ask::explain;

/// What a build does, as far as it has come.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    store: &'a Store,
    /// What tells whether another build says the same.
    same: blake3::Hash,
    /// Why steps run that run, by what events call them. Nothing is told of a plan that is built for the first time.
    told: BTreeMap<String, String>,
    positions: BTreeMap<String, usize>,
    report: RefCell<BuildReport>,
}

impl<'a> Ledger<'a> {
    /// Opens the ledger of a build; `None` if there is nothing to note: all is cached, of the same steps as the last time.
    pub(super) fn open(
        store: &'a Store,
        plan: &str,
        engine: &Engine<'_>,
        definition: &PrunedDefinition,
        looked_up: &Plan<'_, StepResult>,
        build_args: impl Iterator<Item = &'a BTreeMap<String, String>>,
        checked: &BTreeMap<String, Timestamp>,
    ) -> Option<Self> {
        let same = fingerprint(looked_up);
        if looked_up.is_complete() && store.builds().confirm(plan, &same) {
            return None;
        }
        let conceal = Conceal::new(definition, build_args);
        let words = Words {
            trees: store.trees(),
            conceal: &|text| conceal.text(text),
        };
        let (mut steps, mut told) = (Vec::new(), BTreeMap::new());
        let (mut positions, mut at) = (BTreeMap::new(), BTreeMap::new());
        let mut news = false;
        for step in looked_up.steps() {
            let name = |input: usize| {
                let edge = step.vertex.inputs.get(input);
                let vertex = edge.and_then(|edge| definition.get(&edge.vertex));
                vertex.map_or_else(String::new, |vertex| vertex.meta.name.clone())
            };
            let id = solver::event_digest(&step.id);
            let mut why = String::new();
            let mut waited_for = Vec::new();
            if let PlannedState::Run(miss) | PlannedState::Undecided(miss) = step.state {
                let line = words.why(step.vertex, miss, name);
                news |= !matches!(miss, Miss::FirstTime | Miss::Inputs(_) | Miss::NoCache);
                // Whoever said `--no-cache` knows.
                if *miss != Miss::NoCache {
                    told.insert(id.clone(), line.clone());
                }
                match miss {
                    Miss::Inputs(inputs) => waited_for = positions_of(&step, inputs, &at),
                    _ => why = line,
                }
            }
            positions.insert(id.clone(), steps.len());
            at.insert(step.id, steps.len());
            steps.push(BuiltStep {
                id,
                name: conceal.text(&step.vertex.meta.name),
                platform: step.vertex.platform.to_string(),
                at: step.vertex.meta.spans.first().map(|span| {
                    let (line, end_line) = span.lines();
                    (span.file.name.clone(), line, end_line)
                }),
                fate: fate(&step),
                why,
                waited_for,
                key: step.key,
                known: engine.known_before(&step.id),
                asked: match &step.vertex.op {
                    Op::Source(SourceOp::Image(image)) => {
                        checked.get(&image.reference).map(|asked| asked.0)
                    }
                    _ => None,
                },
            });
        }
        if !news && !engine.was_built_before() {
            told.clear();
        }
        let now = clock::now().0;
        Some(Self {
            store,
            same,
            told,
            positions,
            report: RefCell::new(BuildReport {
                plan: plan.to_owned(),
                started: now,
                completed: now,
                failed: false,
                steps,
            }),
        })
    }

    /// Notes what became of a step, and says why it runs.
    pub(super) fn note(&self, event: &mut VertexEvent) {
        if event.started.is_some()
            && !event.cached
            && let Some(why) = self.told.get(&event.digest)
        {
            event.why.clone_from(why);
        }
        let (Some(&at), Some(started), Some(completed)) = (
            self.positions.get(&event.digest),
            event.started,
            event.completed,
        ) else {
            return;
        };
        let mut report = self.report.borrow_mut();
        report.completed = report.completed.max(completed.0);
        let step = &mut report.steps[at];
        if step.fate != Fate::Stopped {
            return;
        }
        let millis = completed.0.saturating_sub(started.0) / 1_000_000;
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        step.fate = match (event.cached, event.error.as_str()) {
            (true, _) => Fate::Found,
            (false, "") => Fate::Ran { millis },
            (false, solver::CANCELED) => Fate::Stopped,
            (false, _) => Fate::Failed { millis },
        };
    }

    /// Keeps what was noted. That it cannot be kept fails no build: it is only asked when somebody wonders.
    pub(super) fn keep(self, failed: bool) {
        let mut report = self.report.into_inner();
        for step in &mut report.steps {
            match step.fate {
                Fate::Stopped | Fate::Failed { .. } => {}
                _ => step.known = Some(step.key),
            }
        }
        let failed = failed
            || report
                .steps
                .iter()
                .any(|s| matches!(s.fate, Fate::Failed { .. }));
        report.failed = failed;
        let same = (!failed).then_some(&self.same);
        drop(self.store.builds().keep(&report, same));
    }
}

/// The steps that inputs are.
fn positions_of(
    step: &PlannedStep<'_>,
    inputs: &[usize],
    positions: &BTreeMap<VertexId, usize>,
) -> Vec<usize> {
    let edges = inputs.iter().filter_map(|&at| step.vertex.inputs.get(at));
    let mut list: Vec<usize> = edges
        .filter_map(|edge| positions.get(&edge.vertex).copied())
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn fate(step: &PlannedStep<'_>) -> Fate {
    match (&step.vertex.op, &step.state) {
        (Op::Source(SourceOp::Local(_)), _) => Fate::Read,
        (_, PlannedState::Unneeded) => Fate::Unneeded,
        (_, PlannedState::Cached { by }) => Fate::Cached { by: *by },
        (_, PlannedState::Run(_) | PlannedState::Undecided(_)) => Fate::Stopped,
    }
}

/// BLAKE3 of all steps, by what they are called and what they are. What a context holds counts where it is used.
fn fingerprint(looked_up: &Plan<'_, StepResult>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for step in looked_up.steps() {
        hasher.update(step.vertex.meta.name.as_bytes());
        hasher.update(&[0]);
        if !matches!(step.vertex.op, Op::Source(SourceOp::Local(_))) {
            hasher.update(step.key.as_bytes());
        }
    }
    hasher.finalize()
}
