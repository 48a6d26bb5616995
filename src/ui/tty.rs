//! Progress on a terminal: what has ended scrolls away, what runs stands at the bottom and changes in place.
//!
//! ```text
//!  => CACHED [build 1/3] FROM docker.io/library/node:22             0.0s
//! [+] Building 3.2s (1/3), 1 cached
//!  => [build 2/3] RUN npm ci                                        3.1s
//!  => => # added 120 packages in 2s
//! ```

use std::io;
use std::io::Write;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use rbuild_llb::event::Timestamp;

use super::human;
use super::plain;
use super::trace::Step;
use super::trace::Trace;

/// Time between two pictures, in seconds.
const FRAME: f64 = 0.1;
/// At most so many transfers of one step are shown at once.
const MAX_TRANSFERS: usize = 6;

/// The terminal.
pub(crate) struct Tty {
    color: bool,
    /// The changing part, all its lines in one message. Made for the first picture: a build that ends before that
    /// needs none.
    screen: Option<ProgressBar>,
    /// Which steps have been scrolled away, by index.
    scrolled: Vec<bool>,
    last_frame: Option<Timestamp>,
    size: (usize, usize),
}

impl Tty {
    pub(crate) fn new(color: bool) -> Self {
        Self {
            color,
            screen: None,
            scrolled: Vec::new(),
            last_frame: None,
            size: (80, 24),
        }
    }

    /// Draws a picture if it is time.
    pub(crate) fn draw(&mut self, trace: &Trace, now: Timestamp) {
        let since = self.last_frame.or(trace.started).unwrap_or(now);
        if human::seconds(since, now) < FRAME {
            return;
        }
        self.last_frame = Some(now);
        self.measure();
        let ended = self.newly_ended(trace, now);
        let lines = self.running(trace, now);
        let screen = self.screen.get_or_insert_with(new_screen);
        // Each of these draws. The message comes first, or what ended would be seen running once more below itself.
        screen.set_message(lines.join("\n"));
        if !ended.is_empty() {
            screen.println(ended.join("\n"));
        }
    }

    /// Takes the changing part away while something else is written.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.screen {
            Some(screen) => screen.suspend(write),
            None => write(),
        }
    }

    /// Takes the changing part away, and tells the rest and the total.
    pub(crate) fn finish(
        &mut self,
        trace: &Trace,
        out: &mut dyn Write,
        now: Timestamp,
    ) -> io::Result<()> {
        self.measure();
        if let Some(screen) = self.screen.take() {
            screen.finish_and_clear();
        }
        let mut lines = self.newly_ended(trace, now);
        if !trace.steps.is_empty() {
            let finished = trace.completed() == trace.steps.len();
            let word = if finished { " FINISHED" } else { "" };
            lines.push(format!("{}{word}", header(trace, now)));
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn measure(&mut self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(io::stderr())
            && size.ws_col > 0
            && size.ws_row > 0
        {
            // The last column stays free: terminals differ in what a full line does.
            self.size = (usize::from(size.ws_col) - 1, size.ws_row.into());
        }
    }

    fn newly_ended(&mut self, trace: &Trace, now: Timestamp) -> Vec<String> {
        self.scrolled.resize(trace.steps.len(), false);
        let mut lines = Vec::new();
        for (step, scrolled) in trace.steps.iter().zip(&mut self.scrolled) {
            if step.is_completed() && !*scrolled {
                *scrolled = true;
                let line = step_line(step, self.size.0, now);
                lines.push(paint(step, line, self.color));
                lines.extend(why_line(step, self.size.0));
            }
        }
        lines
    }

    /// The changing part: as many lines as the terminal has room for.
    fn running(&self, trace: &Trace, now: Timestamp) -> Vec<String> {
        let (width, height) = self.size;
        let mut lines = vec![header(trace, now)];
        let running: Vec<&Step> = trace.steps.iter().filter(|s| s.is_running()).collect();
        let mut room = height.saturating_sub(2 + running.len());
        for step in running.iter().take(height.saturating_sub(2)) {
            lines.push(step_line(step, width, now));
            if room > 0
                && let Some(line) = why_line(step, width)
            {
                lines.push(line);
                room -= 1;
            }
            let open = step.statuses.iter().filter(|s| s.completed.is_none());
            for status in open.take(MAX_TRANSFERS.min(room)) {
                let amount = plain::amount(status).unwrap_or_default();
                let seconds = status.started.map_or(0.0, |t| human::seconds(t, now));
                let name = format!(" => => {} {amount}", human::printable(&status.id));
                lines.push(aligned(&name, &format!("{seconds:.1}s"), width));
                room -= 1;
            }
            if let Some(text) = step.last_line()
                && room > 0
            {
                lines.push(cut(&format!(" => => # {text}"), width));
                room -= 1;
            }
        }
        lines
    }
}

fn new_screen() -> ProgressBar {
    // Pictures are timed here already; a second limit might leave the last one out.
    let target = ProgressDrawTarget::stderr_with_hz(u8::MAX);
    let style = ProgressStyle::with_template("{msg}").expect("a template without options");
    ProgressBar::with_draw_target(None, target).with_style(style)
}

fn header(trace: &Trace, now: Timestamp) -> String {
    let seconds = trace.started.map_or(0.0, |t| human::seconds(t, now));
    let (done, total) = (trace.completed(), trace.steps.len());
    let mut text = format!("[+] Building {seconds:.1}s ({done}/{total})");
    match trace.cached() {
        0 => {}
        n => text.push_str(&format!(", {n} cached")),
    }
    text
}

fn step_line(step: &Step, width: usize, now: Timestamp) -> String {
    let state = if step.is_cancelled() {
        "CANCELED "
    } else if !step.vertex.error.is_empty() {
        "ERROR "
    } else if step.vertex.cached {
        "CACHED "
    } else {
        ""
    };
    let mut name = human::printable(&step.vertex.name);
    if !step.vertex.emulator.is_empty() {
        name = format!("({}) {name}", human::printable(&step.vertex.emulator));
    }
    let seconds = format!("{:.1}s", step.seconds(now));
    aligned(&format!(" => {state}{name}"), &seconds, width)
}

/// Why a step runs that does, where there is something to say.
fn why_line(step: &Step, width: usize) -> Option<String> {
    let why = human::printable(&step.vertex.why);
    (!why.is_empty()).then(|| cut(&format!(" => => why: {why}"), width))
}

/// `left`, cut if need be, and `right` at the right border.
fn aligned(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(right.chars().count() + 1);
    let left = cut(left, room);
    format!("{left:<room$} {right}")
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// BuildKit's colours.
fn paint(step: &Step, line: String, color: bool) -> String {
    let code = if !color {
        return line;
    } else if step.is_cancelled() {
        33
    } else if !step.vertex.error.is_empty() {
        31
    } else {
        34
    };
    format!("\x1b[{code}m{line}\x1b[0m")
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::ui::testing::cached;
    use crate::ui::testing::done;
    use crate::ui::testing::failed;
    use crate::ui::testing::log;
    use crate::ui::testing::ms;
    use crate::ui::testing::start;
    use crate::ui::testing::status;
    use rbuild_llb::event::Event;
    use rbuild_llb::event::VertexEvent;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn trace(events: &[Event]) -> Trace {
        let mut trace = Trace::default();
        for event in events {
            trace.update(event);
        }
        trace
    }

    fn sized(width: usize, height: usize) -> Tty {
        Tty {
            size: (width, height),
            ..Tty::new(false)
        }
    }

    fn events() -> Vec<Event> {
        vec![
            cached("a", "[build 1/3] FROM docker.io/library/node:22", 0),
            start("b", "[build 2/3] RUN npm ci", 100),
            log("b", 200, "fetching\n\x1b[32madded 120 packages\x1b[0m\n\n"),
            start("c", "[web 1/1] FROM docker.io/library/nginx:1", 1100),
            status(
                "c",
                "sha256:0123",
                (1_000_000, 10_000_000),
                1200,
                2000,
                None,
            ),
            status("c", "sha256:4567", (10, 10), 1200, 2000, Some(2000)),
        ]
    }

    #[test]
    fn what_runs_is_shown_with_its_last_line_and_transfers() {
        let lines = sized(60, 24).running(&trace(&events()), ms(3200));
        assert_data_eq!(
            lines.join("\n"),
            str![[r#"
[+] Building 3.2s (1/3), 1 cached
 => [build 2/3] RUN npm ci                              3.1s
 => => # added 120 packages
 => [web 1/1] FROM docker.io/library/nginx:1            2.1s
 => => sha256:0123 1.00MB / 10.00MB                     2.0s
"#]]
        );
    }

    #[test]
    fn a_small_terminal_shows_steps_first() {
        let trace = trace(&events());
        assert_eq!(sized(60, 4).running(&trace, ms(3200)).len(), 3);
        assert_eq!(sized(60, 2).running(&trace, ms(3200)).len(), 1);
        let narrow = sized(12, 5).running(&trace, ms(3200));
        assert!(
            narrow[1..].iter().all(|line| line.chars().count() == 12),
            "{narrow:?}"
        );
    }

    #[test]
    fn what_ended_is_told_once() {
        let mut events = events();
        let mut tty = sized(60, 24);
        assert_data_eq!(
            tty.newly_ended(&trace(&events), ms(3200)).join("\n"),
            str![" => CACHED [build 1/3] FROM docker.io/library/node:22   0.0s"]
        );
        events.push(failed(
            "b",
            "[build 2/3] RUN npm ci",
            100,
            4100,
            "exit code: 1",
        ));
        events.push(failed(
            "c",
            "[web 1/1] FROM nginx",
            1100,
            4100,
            "context canceled",
        ));
        events.push(done("d", "[web 2/2] COPY a b", 4000, 4100));
        assert_data_eq!(
            tty.newly_ended(&trace(&events), ms(9999)).join("\n"),
            str![[r#"
 => ERROR [build 2/3] RUN npm ci                        4.0s
 => CANCELED [web 1/1] FROM nginx                       3.0s
 => [web 2/2] COPY a b                                  0.1s
"#]]
        );
    }

    #[test]
    fn why_a_step_runs_stands_below_it() {
        let because = |event| match event {
            Event::Vertex(vertex) => Event::Vertex(VertexEvent {
                why: "1 of 412 files changed: src/main.rs (content)".to_owned(),
                ..vertex
            }),
            other => other,
        };
        let mut events = vec![because(start("a", "[1/1] COPY . .", 0))];
        let mut tty = sized(50, 24);
        assert_data_eq!(
            tty.running(&trace(&events), ms(1000)).join("\n"),
            str![[r#"
[+] Building 1.0s (0/1)
 => [1/1] COPY . .                            1.0s
 => => why: 1 of 412 files changed: src/main.rs (c
"#]]
        );
        assert_eq!(sized(50, 3).running(&trace(&events), ms(1000)).len(), 2);
        events.push(because(done("a", "[1/1] COPY . .", 0, 2000)));
        assert_data_eq!(
            tty.newly_ended(&trace(&events), ms(2000)).join("\n"),
            str![[r#"
 => [1/1] COPY . .                            2.0s
 => => why: 1 of 412 files changed: src/main.rs (c
"#]]
        );
    }

    #[test]
    fn an_emulated_step_is_marked() {
        let Event::Vertex(mut vertex) = done("a", "[linux/arm/v7 1/1] RUN a", 0, 2000) else {
            unreachable!("a step's end is told of the step");
        };
        vertex.emulator = "qemu-arm".to_owned();
        assert_data_eq!(
            sized(50, 24)
                .newly_ended(&trace(&[Event::Vertex(vertex)]), ms(2000))
                .join("\n"),
            str![" => (qemu-arm) [linux/arm/v7 1/1] RUN a       2.0s"]
        );
    }

    #[test]
    fn a_short_build_is_told_at_its_end() {
        let trace = trace(&[cached("a", "[1/1] FROM x", 0)]);
        let (mut tty, mut out) = (Tty::new(false), Vec::new());
        tty.draw(&trace, ms(99));
        tty.finish(&trace, &mut out, ms(99)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(" => CACHED [1/1] FROM x"), "{text}");
        assert!(
            text.ends_with("\n[+] Building 0.1s (1/1), 1 cached FINISHED\n"),
            "{text}"
        );
    }
}
