//! Progress as lines of text, in the exact shape of BuildKit's plain display (util/progress/progressui), which
//! people's scripts and eyes know.
//!
//! One step at a time has the floor. Steps that have ended are told first; another running step gets the floor when
//! there is none, when it has been silent for ten seconds, or when its share of the talk is due.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::Write;

use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;

use super::human;
use super::trace::Step;
use super::trace::Trace;
use super::warning;

/// A step keeps the floor this long for its fair share, in seconds.
const ANTI_FLICKER: f64 = 5.0;
/// A running step is not kept from being seen longer than this, in seconds.
const MAX_DELAY: f64 = 10.0;
/// A transfer is told again after this time, in seconds…
const MIN_TIME_DELTA: f64 = 5.0;
/// …or when this part of it has been done since.
const MIN_PROGRESS_DELTA: f64 = 0.05;

/// What has been printed.
#[derive(Default)]
pub(crate) struct Plain {
    views: Vec<View>,
    /// The step that has the floor.
    current: Option<usize>,
    numbers: usize,
    updated: BTreeSet<usize>,
    /// By step and transfer.
    told: BTreeMap<(usize, String), Told>,
}

/// What of a transfer was told last.
struct Told {
    current: u64,
    at: Timestamp,
}

/// One step, as far as it is printed.
#[derive(Default)]
struct View {
    /// 0 before it is first printed.
    number: usize,
    /// Lines not printed yet, with the seconds in front. The last one stays while it is open.
    lines: Vec<Vec<u8>>,
    open_line: bool,
    /// How much of the open line is on the screen.
    printed: usize,
    changed_statuses: BTreeSet<String>,
    warnings: Vec<String>,
    /// Whether it was said why it runs.
    explained: bool,
    /// Whether it was said that it is emulated.
    marked: bool,
    /// Updates since it last had the floor, and when the first of them came.
    updates: u64,
    waiting_since: Option<Timestamp>,
}

impl View {
    fn count(&mut self, now: Timestamp) {
        if self.updates == 0 {
            self.waiting_since = Some(now);
        }
        self.updates += 1;
    }

    fn log(&mut self, step: &Step, log: &LogEvent) {
        let seconds = step
            .vertex
            .started
            .map_or(0.0, |started| human::seconds(started, log.timestamp));
        for piece in log.data.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            match self.lines.last_mut() {
                Some(line) if self.open_line => line.extend_from_slice(text),
                _ => {
                    let mut line = format!("{} ", human::log_seconds(seconds)).into_bytes();
                    line.extend_from_slice(text);
                    self.lines.push(line);
                }
            }
            self.open_line = !ended;
        }
    }
}

impl Plain {
    /// Notes what `event`, already in `trace`, changes for the step `index`.
    pub(crate) fn update(&mut self, trace: &Trace, index: usize, event: &Event, now: Timestamp) {
        self.views.resize_with(trace.steps.len(), View::default);
        let view = &mut self.views[index];
        match event {
            Event::Vertex(_) if !trace.steps[index].is_started() => return,
            Event::Vertex(_) => {}
            Event::Status(status) => {
                view.changed_statuses.insert(status.id.clone());
            }
            Event::Log(log) => view.log(&trace.steps[index], log),
            Event::Warning(event) => {
                view.warnings.push(warning::short(&event.diagnostic));
                view.count(now);
                return;
            }
        }
        view.count(now);
        self.updated.insert(index);
    }

    /// Prints what is due.
    pub(crate) fn print(
        &mut self,
        trace: &Trace,
        out: &mut dyn Write,
        now: Timestamp,
    ) -> io::Result<()> {
        let (mut ended, mut running): (Vec<usize>, Vec<usize>) = self
            .updated
            .iter()
            .partition(|i| trace.steps[**i].is_completed());
        let current = self.current;
        let current_ended = current.is_some_and(|c| ended.contains(&c));
        ended.sort_by_key(|i| (Some(*i) != current, trace.steps[*i].vertex.completed));
        for index in ended {
            self.print_step(trace, index, out)?;
        }

        if running.is_empty() {
            if current.is_some_and(|c| trace.steps[c].is_running()) {
                return Ok(());
            }
            return match trace.steps.iter().position(Step::is_running) {
                Some(index) => self.print_step(trace, index, out),
                None => Ok(()),
            };
        }

        if let Some(current) = current {
            if running.contains(&current) {
                self.print_step(trace, current, out)?;
            } else if !current_ended {
                running.push(current);
            }
        }
        match self.next_speaker(&running, current, current_ended, now) {
            Some(index) => self.print_step(trace, index, out),
            None => Ok(()),
        }
    }

    /// Who gets the floor besides the step that has it.
    fn next_speaker(
        &self,
        candidates: &[usize],
        current: Option<usize>,
        current_ended: bool,
        now: Timestamp,
    ) -> Option<usize> {
        struct Candidate {
            index: usize,
            waited: f64,
            speed: f64,
            over_limit: bool,
        }
        let candidates: Vec<Candidate> = candidates
            .iter()
            .filter_map(|&index| {
                let view = &self.views[index];
                let waited = human::seconds(view.waiting_since?, now);
                Some(Candidate {
                    index,
                    waited,
                    speed: view.updates as f64 / waited,
                    over_limit: waited > MAX_DELAY && Some(index) != current,
                })
            })
            .collect();
        let fastest = candidates.iter().reduce(|best, c| {
            if c.over_limit || best.speed < c.speed {
                c
            } else {
                best
            }
        })?;
        if current.is_none() || current_ended {
            return Some(fastest.index);
        }
        if let Some(hidden) = candidates.iter().find(|c| c.over_limit) {
            return Some(hidden.index);
        }
        let sum: f64 = candidates.iter().map(|c| c.speed).sum();
        let speaking = candidates.iter().find(|c| Some(c.index) == current)?;
        let share = speaking.speed / sum;
        (ANTI_FLICKER / (1.0 - share) < speaking.waited).then_some(fastest.index)
    }

    fn print_step(&mut self, trace: &Trace, index: usize, out: &mut dyn Write) -> io::Result<()> {
        self.give_floor(trace, index, out)?;
        let step = &trace.steps[index];
        let number = self.views[index].number;
        let why = &step.vertex.why;
        if !why.is_empty() && !std::mem::replace(&mut self.views[index].explained, true) {
            writeln!(out, "#{number} why: {}", human::printable(why))?;
        }
        let emulator = &step.vertex.emulator;
        if !emulator.is_empty() && !std::mem::replace(&mut self.views[index].marked, true) {
            writeln!(out, "#{number} emulated by {}", human::printable(emulator))?;
        }
        let transferring = self.print_statuses(step, index, out)?;
        let view = &mut self.views[index];
        for text in view.warnings.drain(..) {
            writeln!(out, "#{number} WARN: {}", human::harmless(&text))?;
        }
        print_lines(view, out)?;

        self.current = Some(index);
        if step.is_completed() && !transferring {
            self.current = None;
            view.updates = 0;
            if view.open_line {
                writeln!(out)?;
                view.open_line = false;
                view.lines.clear();
                view.printed = 0;
            }
            if step.is_cancelled() {
                writeln!(out, "#{number} CANCELED")?;
            } else if !step.vertex.error.is_empty() {
                let error = human::harmless(&step.vertex.error);
                writeln!(out, "#{number} ERROR: {error}")?;
            } else if step.vertex.cached {
                writeln!(out, "#{number} CACHED")?;
            } else {
                let seconds = step.seconds(Timestamp(0));
                writeln!(out, "#{number} DONE {seconds:.1}s")?;
            }
        }
        self.updated.remove(&index);
        Ok(())
    }

    fn give_floor(&mut self, trace: &Trace, index: usize, out: &mut dyn Write) -> io::Result<()> {
        let first = self.numbers == 0;
        if self.views[index].number == 0 {
            self.numbers += 1;
            self.views[index].number = self.numbers;
        }
        if self.current == Some(index) {
            return Ok(());
        }
        if let Some(old) = self.current {
            let old = &mut self.views[old];
            if old.open_line {
                writeln!(out)?;
            }
            // The open line is said again from its start when the step speaks next.
            old.printed = 0;
            old.updates = 0;
            writeln!(out, "#{} ...", old.number)?;
        }
        if !first {
            writeln!(out)?;
        }
        let (number, name) = (self.views[index].number, &trace.steps[index].vertex.name);
        writeln!(out, "#{number} {}", human::harmless(name))
    }

    /// Whether any transfer that was told goes on.
    fn print_statuses(
        &mut self,
        step: &Step,
        index: usize,
        out: &mut dyn Write,
    ) -> io::Result<bool> {
        let view = &mut self.views[index];
        let changed = std::mem::take(&mut view.changed_statuses);
        let mut going_on = false;
        for status in &step.statuses {
            if status.started.is_none() || !changed.contains(&status.id) {
                continue;
            }
            let id = (index, status.id.clone());
            if let Some(told) = self.told.get(&id)
                && status.completed.is_none()
                && !is_news(status, told)
            {
                continue;
            }
            let told = Told {
                current: status.current,
                at: status.timestamp,
            };
            self.told.insert(id, told);
            going_on |= status.completed.is_none();
            writeln!(out, "#{} {}", view.number, status_line(status))?;
        }
        Ok(going_on)
    }
}

fn print_lines(view: &mut View, out: &mut dyn Write) -> io::Result<()> {
    let count = view.lines.len();
    for (i, line) in view.lines.iter().enumerate() {
        if i == 0 && view.printed != 0 {
            out.write_all(&line[view.printed.min(line.len())..])?;
        } else {
            write!(out, "#{} ", view.number)?;
            out.write_all(line)?;
        }
        if i + 1 != count || !view.open_line {
            writeln!(out)?;
        }
    }
    let open = if view.open_line {
        view.lines.pop()
    } else {
        None
    };
    view.lines.clear();
    view.printed = open.as_ref().map_or(0, Vec::len);
    view.lines.extend(open);
    Ok(())
}

fn is_news(status: &StatusEvent, told: &Told) -> bool {
    let progress = match status.total {
        0 => 0.0,
        total => (status.current as f64 - told.current as f64) / total as f64,
    };
    progress >= MIN_PROGRESS_DELTA || human::seconds(told.at, status.timestamp) >= MIN_TIME_DELTA
}

fn status_line(status: &StatusEvent) -> String {
    let mut line = human::harmless(&status.id);
    if let Some(amount) = amount(status) {
        line.push_str(&format!(" {amount}"));
    }
    if let Some(started) = status.started {
        let end = status.completed.unwrap_or(status.timestamp);
        let seconds = human::seconds(started, end);
        if seconds > 0.01 {
            line.push_str(&format!(" {seconds:.1}s"));
        }
    }
    if status.completed.is_some() {
        line.push_str(" done");
    }
    line
}

/// How much of a transfer is done: `1.05MB / 3.63MB`.
pub(crate) fn amount(status: &StatusEvent) -> Option<String> {
    match (status.current, status.total) {
        (0, 0) => None,
        (current, 0) => Some(human::bytes(current)),
        (current, total) => Some(format!(
            "{} / {}",
            human::bytes(current),
            human::bytes(total)
        )),
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::ui::testing::cached;
    use crate::ui::testing::done;
    use crate::ui::testing::failed;
    use crate::ui::testing::log;
    use crate::ui::testing::ms;
    use crate::ui::testing::recorded;
    use crate::ui::testing::start;
    use crate::ui::testing::status;
    use crate::ui::testing::vertex;
    use rbuild_llb::event::VertexEvent;
    use snapbox::assert_data_eq;
    use snapbox::str;

    /// Feeds batches of events at the given milliseconds; the display prints after each batch, as BuildKit's does.
    fn shown(batches: &[(u64, &[Event])]) -> String {
        let (mut trace, mut plain, mut out) = (Trace::default(), Plain::default(), Vec::new());
        for (at, events) in batches {
            for event in *events {
                if let Some(index) = trace.update(event) {
                    plain.update(&trace, index, event, ms(*at));
                }
            }
            plain.print(&trace, &mut out, ms(*at)).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_step_after_the_other() {
        let run = "[build 2/3] RUN npm ci";
        assert_data_eq!(
            shown(&[
                (
                    0,
                    &[cached("a", "[build 1/3] FROM docker.io/library/node:22", 0)]
                ),
                (1, &[vertex("b", run, None, None)]),
                (2, &[start("b", run, 2)]),
                (315, &[log("b", 314, "added 120 packages\nfound 0")]),
                (400, &[log("b", 400, " vulnerabilities\n")]),
                (352, &[done("b", run, 2, 352)]),
                (360, &[done("c", "[build 3/3] COPY . .", 360, 371)]),
            ]),
            str![[r#"
#1 [build 1/3] FROM docker.io/library/node:22
#1 CACHED

#2 [build 2/3] RUN npm ci
#2 0.312 added 120 packages
#2 0.312 found 0 vulnerabilities
#2 DONE 0.3s

#3 [build 3/3] COPY . .
#3 DONE 0.0s

"#]]
        );
    }

    #[test]
    fn names_and_errors_cannot_drive_the_terminal() {
        let name = "RUN printf \x1b[2J\u{9b}1A";
        let shown = shown(&[
            (0, &[start("a", name, 0)]),
            (
                1,
                &[status("a", "extracting \x1b]0;x\x07", (0, 0), 0, 0, None)],
            ),
            (9, &[failed("a", name, 0, 9, "no \x08 \x7f")]),
        ]);
        let controls: String = shown.chars().filter(|c| c.is_control()).collect();
        assert_eq!(controls.trim_matches('\n'), "", "{shown:?}");
        assert!(
            shown.contains("#1 RUN printf \\u{1b}[2J\\u{9b}1A\n"),
            "{shown}"
        );
    }

    #[test]
    fn the_end_of_a_parallel_step_interrupts() {
        assert_data_eq!(
            shown(&[
                (
                    0,
                    &[
                        start("a", "[a 1/1] RUN a", 0),
                        start("b", "[b 1/1] RUN b", 0)
                    ]
                ),
                (100, &[log("a", 100, "a says"), log("b", 100, "b says\n")]),
                (200, &[done("b", "[b 1/1] RUN b", 0, 200)]),
                (12_300, &[log("a", 12_300, " more\n")]),
                (
                    12_500,
                    &[failed("a", "[a 1/1] RUN a", 0, 12_500, "exit code: 1")]
                ),
            ]),
            str![[r#"
#1 [a 1/1] RUN a
#1 0.100 a says
#1 ...

#2 [b 1/1] RUN b
#2 0.100 b says
#2 DONE 0.2s

#1 [a 1/1] RUN a
#1 0.100 a says more
#1 ERROR: exit code: 1

"#]]
        );
    }

    #[test]
    fn a_silenced_step_gets_the_floor_after_ten_seconds() {
        let second = |n: u64| log("a", n * 1000, "tick\n");
        assert_data_eq!(
            shown(&[
                (0, &[start("a", "RUN a", 0)]),
                (
                    1000,
                    &[start("b", "RUN b", 1000), log("b", 1000, "b\n"), second(1)]
                ),
                (10_000, &[second(10)]),
                (11_100, &[second(11), log("b", 11_100, "b\n")]),
            ]),
            str![[r#"
#1 RUN a
#1 1.000 tick
#1 10.00 tick
#1 11.00 tick
#1 ...

#2 RUN b
#2 0.000 b
#2 10.10 b

"#]]
        );
    }

    #[test]
    fn transfers_are_told_in_steps_of_five_per_cent() {
        let mb = 1_000_000;
        let layer = |done: u64, at, end| status("a", "sha256:aa", (done, 10 * mb), 0, at, end);
        assert_data_eq!(
            shown(&[
                (0, &[start("a", "FROM x", 0), layer(0, 0, None)]),
                (100, &[layer(mb / 10, 100, None)]),
                (200, &[layer(mb, 200, None)]),
                (
                    300,
                    &[
                        layer(10 * mb, 310, Some(310)),
                        status("a", "extracting", (0, 0), 300, 300, None)
                    ]
                ),
                (
                    400,
                    &[status("a", "extracting", (0, 0), 300, 400, Some(400))]
                ),
                (500, &[done("a", "FROM x", 0, 500)]),
            ]),
            str![[r#"
#1 FROM x
#1 sha256:aa 0B / 10.00MB
#1 sha256:aa 1.00MB / 10.00MB 0.2s
#1 sha256:aa 10.00MB / 10.00MB 0.3s done
#1 extracting
#1 extracting 0.1s done
#1 DONE 0.5s

"#]]
        );
    }

    #[test]
    fn why_a_step_runs_is_said_once() {
        let because = |event| match event {
            Event::Vertex(vertex) => Event::Vertex(VertexEvent {
                why: "ARG V 1 → 2".to_owned(),
                ..vertex
            }),
            other => other,
        };
        let (a, b) = ("[1/2] RUN a", "[2/2] RUN b");
        assert_data_eq!(
            shown(&[
                (0, &[because(start("a", a, 0)), start("b", b, 0)]),
                (9, &[log("a", 9, "x\n")]),
                (20, &[because(done("a", a, 0, 20)), done("b", b, 0, 20)]),
            ]),
            str![[r#"
#1 [1/2] RUN a
#1 why: ARG V 1 → 2
#1 0.009 x
#1 DONE 0.0s

#2 [2/2] RUN b
#2 DONE 0.0s

"#]]
        );
    }

    #[test]
    fn an_emulated_step_says_so_once() {
        let emulated = |event| match event {
            Event::Vertex(vertex) => Event::Vertex(VertexEvent {
                emulator: "qemu-arm".to_owned(),
                ..vertex
            }),
            other => other,
        };
        let name = "[linux/arm/v7 1/1] RUN a";
        assert_data_eq!(
            shown(&[
                (0, &[emulated(start("a", name, 0))]),
                (9, &[log("a", 9, "x\n")]),
                (20, &[emulated(done("a", name, 0, 20))]),
            ]),
            str![[r#"
#1 [linux/arm/v7 1/1] RUN a
#1 emulated by qemu-arm
#1 0.009 x
#1 DONE 0.0s

"#]]
        );
    }

    /// A build as BuildKit told it (`buildctl build --progress=rawjson`, moby/buildkit 73ed6825, a line a batch), and
    /// what BuildKit's own plain display made of these batches, given to it 110 ms apart.
    #[test]
    fn a_recorded_build_looks_as_buildkit_shows_it() {
        let recorded = include_str!("../../testdata/progress/parallel.jsonl");
        let batches: Vec<(u64, Vec<Event>)> = recorded
            .lines()
            .enumerate()
            .map(|(i, line)| (110 * i as u64, recorded::events(line)))
            .collect();
        let batches: Vec<(u64, &[Event])> = batches.iter().map(|(at, e)| (*at, &**e)).collect();
        let shown = shown(&batches);
        // BuildKit's display ends with the failed step's output; that is told with the error here.
        let wanted = include_str!("../../testdata/progress/parallel.txt");
        let (wanted, _) = wanted.split_once("------\n").unwrap();
        assert_data_eq!(shown, wanted.to_owned());
    }

    #[test]
    fn a_stopped_step_is_no_error() {
        assert_data_eq!(
            shown(&[(9, &[failed("a", "RUN x", 1, 9, "context canceled")])]),
            str![[r#"
#1 RUN x
#1 CANCELED

"#]]
        );
    }
}
