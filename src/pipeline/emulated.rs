//! Which steps are for other machines than this one, what emulates it for them, and what that costs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rbuild_llb::Diagnostic;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::Severity;
use rbuild_llb::Span;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::event::WarningEvent;

use crate::ops::StepResult;
use crate::outcome::Emulation;
use crate::sandbox::Sandbox;
use crate::sandbox::SandboxError;
use crate::solver;
use crate::ui::EventSink;

/// An emulated step that takes so long, and this part of the whole, is worth a word.
const LONG: Duration = Duration::from_secs(10);
const PART: f64 = 0.5;

/// The platforms of the processes that are to run, each once.
pub(super) fn platforms(looked_up: &solver::Plan<'_, StepResult>) -> Vec<Platform> {
    let platforms: BTreeSet<&Platform> = looked_up
        .pending()
        .filter(|(_, vertex)| matches!(vertex.op, Op::Exec(_)))
        .map(|(_, vertex)| &vertex.platform)
        .collect();
    platforms.into_iter().cloned().collect()
}

/// Whether steps for a platform are what an error is about.
pub(super) fn concerns(error: &SandboxError, platform: &Platform) -> bool {
    match error {
        SandboxError::Foreign { platform: of, .. } => **of == *platform,
        _ => true,
    }
}

/// The emulated steps of a build.
#[derive(Default)]
pub(super) struct Emulated {
    /// Emulators, by the step's `digest` in events.
    by: BTreeMap<String, String>,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// When the first of all steps began, and the last one ended.
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// How long each emulated one took, by its `digest`.
    took: BTreeMap<String, Duration>,
}

impl Emulated {
    pub(super) fn of(looked_up: &solver::Plan<'_, StepResult>, sandbox: &Sandbox) -> Self {
        let by = looked_up.pending().filter_map(|(id, vertex)| {
            let emulator = match vertex.op {
                Op::Exec(_) => sandbox.emulator(&vertex.platform)?,
                _ => return None,
            };
            Some((solver::event_digest(&id), emulator.to_owned()))
        });
        Self {
            by: by.collect(),
            times: Mutex::default(),
        }
    }

    /// Marks an event of an emulated step, and takes its time.
    pub(super) fn note(&self, vertex: &mut VertexEvent) {
        if self.by.is_empty() || vertex.cached {
            return;
        }
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let Times { first, last, took } = &mut *times;
        *first = first.or(vertex.started);
        *last = vertex.completed.max(*last);
        if let Some(emulator) = self.by.get(&vertex.digest) {
            vertex.emulator.clone_from(emulator);
            if let (Some(started), Some(completed)) = (vertex.started, vertex.completed) {
                took.insert(vertex.digest.clone(), between(started, completed));
            }
        }
    }

    /// Says so if the build is as slow as it is for one emulated step.
    pub(super) fn advise(&self, definition: &PrunedDefinition, events: &EventSink) {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = times.first.zip(times.last);
        let whole = whole.map_or(Duration::ZERO, |(first, last)| between(first, last));
        let Some((digest, took)) = times.took.iter().max_by_key(|(_, took)| **took) else {
            return;
        };
        if *took < LONG || took.as_secs_f64() < whole.as_secs_f64() * PART {
            return;
        }
        let mut steps = definition.iter();
        let step = steps.find(|(id, _)| solver::event_digest(id) == *digest);
        let Some((_, vertex)) = step else { return };
        let diagnostic = advice(&self.by[digest], *took, whole, vertex.meta.spans.first());
        events.send(Event::Warning(WarningEvent {
            vertex: String::new(),
            diagnostic,
        }));
    }

    /// What the emulators did.
    pub(super) fn into_summary(self) -> Vec<Emulation> {
        let times = self
            .times
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut emulations: BTreeMap<&String, (usize, Duration)> = BTreeMap::new();
        for (digest, took) in &times.took {
            let (steps, time) = emulations.entry(&self.by[digest]).or_default();
            *steps += 1;
            *time += *took;
        }
        let emulations = emulations.into_iter();
        emulations
            .map(|(by, (steps, time))| Emulation {
                by: by.clone(),
                steps,
                time,
            })
            .collect()
    }
}

fn between(started: Timestamp, ended: Timestamp) -> Duration {
    let nanoseconds = ended.0.saturating_sub(started.0);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

fn advice(emulator: &str, took: Duration, whole: Duration, span: Option<&Span>) -> Diagnostic {
    let message = format!(
        "this step took {:.0}s of the {:.0}s of the build, since {emulator} emulates its programs",
        took.as_secs_f64(),
        whole.as_secs_f64()
    );
    let diagnostic = match span {
        Some(span) => Diagnostic::error(message, span.clone(), ""),
        None => Diagnostic::unplaced(message),
    };
    Diagnostic {
        severity: Severity::Warning,
        ..diagnostic
    }
    .hint(
        "a compiler on this machine's own platform is many times as fast: begin the stage with \
         `FROM --platform=$BUILDPLATFORM`, and have it make programs for `$TARGETARCH` (docs/platforms.md)",
    )
}

#[cfg(test)]
mod t {
    use super::*;

    fn event(digest: &str, started: u64, completed: Option<u64>) -> VertexEvent {
        let at = |seconds: u64| Timestamp(u128::from(seconds) * 1_000_000_000);
        VertexEvent {
            digest: digest.to_owned(),
            inputs: Vec::new(),
            name: String::new(),
            started: Some(at(started)),
            completed: completed.map(at),
            cached: false,
            error: String::new(),
            why: String::new(),
            emulator: String::new(),
        }
    }

    #[test]
    fn steps_are_marked_and_summed_up() {
        let emulated = Emulated {
            by: [("a", "qemu-arm"), ("b", "qemu-arm"), ("c", "qemu-s390x")]
                .map(|(step, by)| (step.to_owned(), by.to_owned()))
                .into(),
            times: Mutex::default(),
        };
        for (digest, started, completed, marked) in [
            ("a", 0, None, "qemu-arm"),
            ("other", 0, Some(9), ""),
            ("a", 0, Some(2), "qemu-arm"),
            ("b", 1, Some(4), "qemu-arm"),
            ("c", 5, None, "qemu-s390x"),
        ] {
            let mut vertex = event(digest, started, completed);
            emulated.note(&mut vertex);
            assert_eq!(vertex.emulator, marked);
        }
        let want = Emulation {
            by: "qemu-arm".to_owned(),
            steps: 2,
            time: Duration::from_secs(5),
        };
        assert_eq!(emulated.into_summary(), [want]);
    }
}
