//! What a step that misses is compared with: the record of the step that stood in its place in the last build of its plan.
//! Where that build had nothing of its stage (another target was built), the newest of what ever stood in this place.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_cache::Record;
use rbuild_llb::CacheKey;
use rbuild_llb::Definition;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;

use super::Engine;
use crate::solver::Place;
use crate::solver::StepName;
use crate::solver::pair;

/// What steps of this build were in the last one.
#[derive(Debug, Default)]
pub(super) struct Counterparts {
    known: BTreeMap<VertexId, Counterpart>,
}

#[derive(Debug)]
enum Counterpart {
    /// Its stage was built, and it was not in it.
    New,
    /// What stood in its place.
    Step {
        /// A key that a record of that was kept under.
        known: Option<CacheKey>,
        /// Its place.
        slot: String,
    },
}

/// What steps are found among.
fn group(platform: &str, name: &StepName<'_>) -> String {
    let stage = name.stage();
    format!("{platform}\u{0}{}", stage.as_deref().unwrap_or("\u{0}"))
}

impl Engine<'_> {
    /// The last build's step in the place of each.
    fn counterparts(&self) -> &Counterparts {
        self.counterparts.get_or_init(|| {
            let Some(last) = self.store.builds().last(&self.options.plan) else {
                return Counterparts::default();
            };
            self.pair_with(&last.report, self.definition)
        })
    }

    fn pair_with(&self, last: &rbuild_cache::BuildReport, now: &Definition) -> Counterparts {
        let of = |platform: &str, name: &str| group(platform, &StepName::of(name));
        let old_groups: Vec<String> = last
            .steps
            .iter()
            .map(|step| of(&step.platform, &step.name))
            .collect();
        let new: Vec<(VertexId, &Vertex, String)> = now
            .iter()
            .map(|(id, vertex)| {
                let group = of(&vertex.platform.to_string(), &vertex.meta.name);
                (id, vertex, group)
            })
            .collect();
        fn place<'a>(group: &'a str, name: &'a str) -> Place<'a> {
            let name = StepName::of(name);
            Place {
                group,
                instruction: name.instruction(),
                text: name.text,
            }
        }
        let old_places: Vec<Place<'_>> = last
            .steps
            .iter()
            .zip(&old_groups)
            .map(|(step, group)| place(group, &step.name))
            .collect();
        let new_places: Vec<Place<'_>> = new
            .iter()
            .map(|(_, vertex, group)| place(group, &vertex.meta.name))
            .collect();
        let groups: BTreeSet<&str> = old_groups.iter().map(String::as_str).collect();
        let mut known = BTreeMap::new();
        for ((id, _, group), pair) in new.iter().zip(pair(&old_places, &new_places)) {
            let counterpart = match pair.map(|at| &last.steps[at]) {
                Some(step) => Counterpart::Step {
                    known: step.known,
                    slot: self.slot_of(&step.platform, &step.name),
                },
                None if groups.contains(group.as_str()) => Counterpart::New,
                None => continue,
            };
            known.insert(*id, counterpart);
        }
        Counterparts { known }
    }

    /// Whether anything is known of an earlier build of the plan.
    pub(crate) fn was_built_before(&self) -> bool {
        !self.counterparts().known.is_empty()
    }

    /// A key that what stood in a step's place in the last build was kept under.
    pub(crate) fn known_before(&self, step: &VertexId) -> Option<CacheKey> {
        match self.counterparts().known.get(step)? {
            Counterpart::New => None,
            Counterpart::Step { known, .. } => *known,
        }
    }

    /// The record to compare a step with.
    pub(super) fn nearest(&self, vertex: &Vertex, kind: &str) -> Option<Record> {
        let latest = |slot: &str| self.backend.latest(slot, kind).ok().flatten();
        match self.counterparts().known.get(&vertex.id()) {
            Some(Counterpart::New) => None,
            Some(Counterpart::Step { known, slot }) => {
                let record = known.and_then(|key| self.backend.lookup(&key).ok().flatten());
                record
                    .filter(|record| record.record.kind == kind)
                    .or_else(|| latest(slot))
            }
            None => latest(&self.slot(vertex)),
        }
    }

    /// Which step of which plan this is, whatever it says now: the place in the file, not the text. How many steps follow
    /// says nothing about it.
    pub(super) fn slot(&self, vertex: &Vertex) -> String {
        self.slot_of(&vertex.platform.to_string(), &vertex.meta.name)
    }

    fn slot_of(&self, platform: &str, name: &str) -> String {
        let place = match StepName::of(name).place {
            Some((stage, number)) => format!("[{stage} {number}]"),
            None => name.to_owned(),
        };
        format!("{}\u{0}{platform}\u{0}{place}", self.options.plan)
    }
}
