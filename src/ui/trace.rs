//! What is known of the build so far, put together from events. Every display draws from it.

use std::collections::HashMap;
use std::collections::VecDeque;

use rbuild_llb::Diagnostic;
use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

use super::human;

/// How many lines of a step's output are kept to be shown if it fails.
pub(crate) const TAIL_LINES: usize = 20;

/// All steps in order of appearance, and all warnings.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) steps: Vec<Step>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// When the first step began.
    pub(crate) started: Option<Timestamp>,
    by_digest: HashMap<String, usize>,
}

/// One step.
pub(crate) struct Step {
    pub(crate) vertex: VertexEvent,
    /// Those that have begun, in order of appearance.
    pub(crate) statuses: Vec<StatusEvent>,
    tail: VecDeque<Line>,
    open_line: bool,
}

/// A line of output, with the seconds since its step began.
struct Line {
    seconds: f64,
    text: Vec<u8>,
}

impl Step {
    pub(crate) fn is_started(&self) -> bool {
        self.vertex.started.is_some()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_started() && !self.is_completed()
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.vertex.completed.is_some()
    }

    /// Stopped because something else failed or the user wanted an end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.vertex.error.ends_with("canceled") || self.vertex.error.ends_with("cancelled")
    }

    /// Seconds it took, or has been running for.
    pub(crate) fn seconds(&self, now: Timestamp) -> f64 {
        self.vertex.started.map_or(0.0, |started| {
            human::seconds(started, self.vertex.completed.unwrap_or(now))
        })
    }

    /// The last line of its output that is not empty, for a terminal.
    pub(crate) fn last_line(&self) -> Option<String> {
        let lines = self.tail.iter().rev();
        lines
            .map(|line| human::printable(&String::from_utf8_lossy(&line.text)))
            .find(|text| !text.trim().is_empty())
    }

    fn log(&mut self, log: &LogEvent) {
        let seconds = self
            .vertex
            .started
            .map_or(0.0, |started| human::seconds(started, log.timestamp));
        for piece in log.data.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            match self.tail.back_mut() {
                Some(line) if self.open_line => line.text.extend_from_slice(text),
                _ => self.tail.push_back(Line {
                    seconds,
                    text: text.to_vec(),
                }),
            }
            self.open_line = !ended;
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
    }
}

impl Trace {
    /// Takes in an event. The step it belongs to, if there is one.
    pub(crate) fn update(&mut self, event: &Event) -> Option<usize> {
        match event {
            Event::Vertex(vertex) => Some(self.vertex(vertex)),
            Event::Status(status) => {
                let index = self.find(&status.vertex)?;
                let statuses = &mut self.steps[index].statuses;
                match statuses.iter_mut().find(|s| s.id == status.id) {
                    Some(known) => *known = status.clone(),
                    None => statuses.push(status.clone()),
                }
                Some(index)
            }
            Event::Log(log) => {
                let index = self.find(&log.vertex)?;
                self.steps[index].log(log);
                Some(index)
            }
            Event::Warning(warning) => {
                self.warnings.push(warning.diagnostic.clone());
                self.find(&warning.vertex)
            }
        }
    }

    pub(crate) fn find(&self, digest: &str) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

    /// The last lines of a step's output, as plain progress shows them: `0.312 text`.
    pub(crate) fn tail(&self, digest: &str) -> Vec<String> {
        let Some(index) = self.find(digest) else {
            return Vec::new();
        };
        let lines = self.steps[index].tail.iter();
        lines
            .map(|line| {
                let text = human::printable(&String::from_utf8_lossy(&line.text));
                format!("{} {text}", human::log_seconds(line.seconds))
            })
            .collect()
    }

    pub(crate) fn completed(&self) -> usize {
        self.steps.iter().filter(|s| s.is_completed()).count()
    }

    pub(crate) fn cached(&self) -> usize {
        self.steps.iter().filter(|s| s.vertex.cached).count()
    }

    fn vertex(&mut self, vertex: &VertexEvent) -> usize {
        let mut vertex = vertex.clone();
        // An end without a beginning, as for what took no time.
        vertex.started = vertex.started.or(vertex.completed);
        if self.started.is_none() {
            self.started = vertex.started;
        }
        match self.find(&vertex.digest) {
            Some(index) => {
                let step = &mut self.steps[index];
                // A step is announced before it begins; a late announcement must not undo its beginning.
                if vertex.started.is_some() || !step.is_started() {
                    step.vertex = vertex;
                }
                index
            }
            None => {
                let index = self.steps.len();
                self.by_digest.insert(vertex.digest.clone(), index);
                self.steps.push(Step {
                    vertex,
                    statuses: Vec::new(),
                    tail: VecDeque::new(),
                    open_line: false,
                });
                index
            }
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::ui::testing::done;
    use crate::ui::testing::log;
    use crate::ui::testing::start;
    use crate::ui::testing::vertex;

    #[test]
    fn the_tail_is_the_last_lines_whole() {
        let mut trace = Trace::default();
        trace.update(&start("a", "RUN x", 0));
        for n in 0..30 {
            trace.update(&log("a", 100 + n, &format!("line {n}\npart")));
            trace.update(&log("a", 100 + n, &format!(" of {n}\n")));
        }
        let tail = trace.tail("a");
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail[0], "0.120 line 20");
        assert_eq!(tail[19], "0.129 part of 29");
        assert_eq!(trace.steps[0].last_line().as_deref(), Some("part of 29"));
        assert_eq!(trace.tail("b"), Vec::<String>::new());
    }

    #[test]
    fn a_late_announcement_changes_nothing() {
        let mut trace = Trace::default();
        trace.update(&start("a", "RUN x", 5));
        trace.update(&vertex("a", "RUN x", None, None));
        assert!(trace.steps[0].is_running());
        trace.update(&done("a", "RUN x", 5, 9));
        assert_eq!((trace.completed(), trace.cached()), (1, 0));
    }
}
