//! Why steps run, for assertions.

use super::*;

/// Why a step must run, as a line.
pub(super) fn why(step: &PlannedStep<'_>) -> Option<String> {
    let (PlannedState::Run(miss) | PlannedState::Undecided(miss)) = step.state else {
        return None;
    };
    let text = match miss {
        Miss::NoCache => "--no-cache".to_owned(),
        Miss::FirstTime => "first time".to_owned(),
        Miss::Unusable { reason } => reason.clone(),
        Miss::Removed => "removed from the cache".to_owned(),
        Miss::Changed(difference) => {
            let Difference { earlier, now } = &**difference;
            let mut changed = now.fields.iter();
            let changed = changed.find(|(name, value)| earlier.fields.get(*name) != Some(*value));
            format!("{} changed", changed.unwrap().0)
        }
        Miss::Inputs(inputs) => format!("inputs {inputs:?} rebuilt"),
    };
    Some(format!("{}: {text}\n", step.vertex.meta.name))
}
