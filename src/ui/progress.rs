//! From events to a display.
//!
//! At first events are shown by whoever sends them: an unchanged build is over before a thread would have been
//! worth starting. [`Progress::resume`] starts one, so that the display moves while nothing happens, and
//! [`Progress::pause`] joins it again, because a process can enter a user namespace only while it has one thread.

use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use rbuild_llb::Diagnostic;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;

use super::Terminal;
use super::mask::Mask;
use super::plain::Plain;
use super::rawjson;
use super::trace::Trace;
use super::tty::Tty;
use crate::clock;

/// How often the display is brought up to date while no events come.
const TICK: Duration = Duration::from_millis(100);
/// Events that are taken in before the display is brought up to date.
const BATCH: usize = 256;

/// How progress is shown, `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressMode {
    /// As on a terminal if standard error is one, else plain.
    Auto,
    /// On a terminal, changing in place.
    Tty,
    /// Lines of text.
    Plain,
    /// BuildKit's JSON.
    RawJson,
    /// Not at all.
    Quiet,
}

/// The progress of one build. It belongs to the command; what works gets an [`EventSink`].
pub struct Progress {
    state: Arc<Mutex<State>>,
    mode: ProgressMode,
}

/// Where events go. All clones are one.
#[derive(Clone)]
pub struct EventSink {
    state: Arc<Mutex<State>>,
}

struct State {
    mask: Mask,
    drawing: Drawing,
}

/// Who brings the display up to date.
enum Drawing {
    /// Whoever sends an event.
    Here(Box<Core>),
    /// A thread; it gives the rest back when the channel closes.
    Thread(mpsc::Sender<Event>, JoinHandle<Box<Core>>),
    /// Over; the trace can still be asked.
    Finished(Box<Core>),
    /// Between two of the others.
    Moving,
}

impl Progress {
    /// Begins, without a thread. `secrets` are masked in the output of steps.
    ///
    /// Events are written to standard error.
    pub fn start(mode: ProgressMode, terminal: Terminal, secrets: Vec<Vec<u8>>) -> Self {
        Self::start_with(mode, terminal, secrets, Box::new(io::stderr()))
    }

    fn start_with(
        mode: ProgressMode,
        terminal: Terminal,
        secrets: Vec<Vec<u8>>,
        out: Box<dyn Write + Send>,
    ) -> Self {
        let mode = match mode {
            ProgressMode::Auto if terminal.tty => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            mode => mode,
        };
        let display = match mode {
            ProgressMode::Tty => Display::Tty(Tty::new(terminal.color)),
            ProgressMode::RawJson => Display::RawJson,
            ProgressMode::Quiet => Display::Quiet,
            ProgressMode::Plain | ProgressMode::Auto => Display::Plain(Plain::default()),
        };
        let core = Core {
            trace: Trace::default(),
            display,
            buffer: Vec::new(),
            out,
        };
        let state = State {
            mask: Mask::new(secrets),
            drawing: Drawing::Here(Box::new(core)),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            mode,
        }
    }

    /// How progress is shown; never [`ProgressMode::Auto`].
    pub fn mode(&self) -> ProgressMode {
        self.mode
    }

    /// Where events go.
    pub fn events(&self) -> EventSink {
        EventSink {
            state: Arc::clone(&self.state),
        }
    }

    /// Ends the display's thread, if there is one. Events that come meanwhile are shown by who sends them.
    pub fn pause(&self) {
        let mut state = lock(&self.state);
        state.drawing = match std::mem::replace(&mut state.drawing, Drawing::Moving) {
            Drawing::Thread(sender, thread) => {
                drop(sender);
                Drawing::Here(thread.join().expect("the display does not panic"))
            }
            other => other,
        };
    }

    /// Gives the display a thread, if it has none. If the system refuses one, events are shown by who sends them.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        state.drawing = match std::mem::replace(&mut state.drawing, Drawing::Moving) {
            Drawing::Here(core) => start_thread(core),
            other => other,
        };
    }

    /// Has something else written to the terminal, where the display would stand in its way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.pause();
        let written = match &mut lock(&self.state).drawing {
            Drawing::Here(core) => core.aside(write),
            _ => write(),
        };
        self.resume();
        written
    }

    /// Shows what is still to be shown, and ends. Later events are lost. Can be called again.
    pub fn finish(&self) {
        self.pause();
        let mut state = lock(&self.state);
        let state = &mut *state;
        state.mask.flush(&mut |event| state.drawing.send(event));
        state.drawing = match std::mem::replace(&mut state.drawing, Drawing::Moving) {
            Drawing::Here(mut core) => {
                core.finish(clock::now());
                Drawing::Finished(core)
            }
            other => other,
        };
    }

    /// The last lines of a step's output that a terminal does not show any more.
    pub(crate) fn tail(&self, digest: &str) -> Vec<String> {
        self.pause();
        let tail = match &lock(&self.state).drawing {
            Drawing::Here(core) if matches!(core.display, Display::Tty(_)) => {
                core.trace.tail(digest)
            }
            _ => Vec::new(),
        };
        self.resume();
        tail
    }

    /// The last lines of a step's output, after [`finish`](Self::finish).
    pub(crate) fn log_tail(&self, digest: &str) -> Vec<String> {
        match &lock(&self.state).drawing {
            Drawing::Finished(core) => core.trace.tail(digest),
            _ => Vec::new(),
        }
    }

    /// Shows somebody all that is known of the steps, after [`finish`](Self::finish).
    pub(crate) fn traced(&self, see: impl FnOnce(&Trace)) {
        if let Drawing::Finished(core) = &lock(&self.state).drawing {
            see(&core.trace);
        }
    }

    /// All warnings, after [`finish`](Self::finish).
    pub(crate) fn warnings(&self) -> Vec<Diagnostic> {
        match &lock(&self.state).drawing {
            Drawing::Finished(core) => core.trace.warnings.clone(),
            _ => Vec::new(),
        }
    }
}

impl EventSink {
    /// Shows an event.
    pub fn send(&self, event: Event) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        state
            .mask
            .pass(event, &mut |event| state.drawing.send(event));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no display panics while it is locked")
}

impl Drawing {
    fn send(&mut self, event: Event) {
        match self {
            Self::Here(core) => {
                let now = clock::now();
                core.update(&event, now);
                core.refresh(now);
            }
            Self::Thread(sender, _) => {
                // It receives until this sender is dropped.
                drop(sender.send(event));
            }
            Self::Finished(_) | Self::Moving => {}
        }
    }
}

fn start_thread(core: Box<Core>) -> Drawing {
    let (sender, receiver) = mpsc::channel();
    let (hand_over, take_over) = mpsc::sync_channel::<Box<Core>>(1);
    let thread = thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            let mut core = take_over.recv().expect("it is handed over at once");
            draw_until_closed(&mut core, &receiver);
            core
        });
    match thread {
        Ok(thread) => {
            drop(hand_over.send(core));
            Drawing::Thread(sender, thread)
        }
        Err(_) => Drawing::Here(core),
    }
}

fn draw_until_closed(core: &mut Core, events: &mpsc::Receiver<Event>) {
    loop {
        match events.recv_timeout(TICK) {
            Ok(event) => {
                core.update(&event, clock::now());
                for event in events.try_iter().take(BATCH) {
                    core.update(&event, clock::now());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        core.refresh(clock::now());
    }
}

/// The build as it is known, and as it is shown.
struct Core {
    trace: Trace,
    display: Display,
    buffer: Vec<u8>,
    out: Box<dyn Write + Send>,
}

enum Display {
    Tty(Tty),
    Plain(Plain),
    RawJson,
    Quiet,
}

impl Core {
    fn update(&mut self, event: &Event, now: Timestamp) {
        let step = self.trace.update(event);
        match &mut self.display {
            Display::Plain(plain) => {
                if let Some(step) = step {
                    plain.update(&self.trace, step, event, now);
                }
            }
            Display::RawJson => self
                .buffer
                .extend_from_slice(rawjson::line(event).as_bytes()),
            Display::Tty(_) | Display::Quiet => {}
        }
    }

    fn refresh(&mut self, now: Timestamp) {
        match &mut self.display {
            Display::Plain(plain) => plain
                .print(&self.trace, &mut self.buffer, now)
                .expect("writing to memory does not fail"),
            Display::Tty(tty) => tty.draw(&self.trace, now),
            Display::RawJson | Display::Quiet => {}
        }
        self.write();
    }

    fn aside<T>(&mut self, write: impl FnOnce() -> T) -> T {
        self.refresh(clock::now());
        match &mut self.display {
            Display::Tty(tty) => tty.aside(write),
            Display::Plain(_) | Display::RawJson | Display::Quiet => write(),
        }
    }

    fn finish(&mut self, now: Timestamp) {
        self.refresh(now);
        if let Display::Tty(tty) = &mut self.display {
            tty.finish(&self.trace, &mut self.buffer, now)
                .expect("writing to memory does not fail");
        }
        self.write();
    }

    /// One write a refresh. A standard error that nobody reads any more must not end a build.
    fn write(&mut self) {
        if !self.buffer.is_empty() {
            drop(self.out.write_all(&self.buffer));
            self.buffer.clear();
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::ui::testing::cached;
    use crate::ui::testing::done;
    use crate::ui::testing::failed;
    use crate::ui::testing::log;
    use crate::ui::testing::start;
    use snapbox::assert_data_eq;
    use snapbox::str;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn progress(mode: ProgressMode, secret: &str) -> (Progress, Sink) {
        let sink = Sink::default();
        let terminal = Terminal {
            tty: false,
            color: false,
        };
        let secrets = vec![secret.as_bytes().to_vec()];
        let out = Box::new(sink.clone());
        (Progress::start_with(mode, terminal, secrets, out), sink)
    }

    #[test]
    fn keeps_its_state_over_pauses_and_loses_nothing() {
        let (progress, sink) = progress(ProgressMode::Auto, "swordfish!");
        assert_eq!(progress.mode(), ProgressMode::Plain);
        let events = progress.events();
        events.send(cached("a", "FROM x", 0));
        assert_eq!(sink.text(), "#1 FROM x\n#1 CACHED\n", "shown at once");
        progress.resume();
        progress.resume();
        events.send(start("b", "RUN b", 0));
        events.send(log("b", 10, "the word is sword"));
        progress.pause();
        progress.pause();
        events.send(log("b", 20, "fish!\n"));
        progress.resume();
        events.send(done("b", "RUN b", 0, 100));
        progress.finish();
        progress.finish();
        events.send(done("c", "too late", 0, 100));
        assert_data_eq!(
            sink.text(),
            str![[r##"
#1 FROM x
#1 CACHED

#2 RUN b
#2 0.010 the word is ***
#2 DONE 0.1s

"##]]
        );
        assert_eq!(progress.log_tail("b"), ["0.010 the word is ***"]);
    }

    #[test]
    fn what_is_held_back_is_shown_at_the_end() {
        let (progress, sink) = progress(ProgressMode::Plain, "swordfish!");
        progress.events().send(start("a", "RUN a", 0));
        progress.events().send(log("a", 0, "sword"));
        progress.finish();
        assert_eq!(sink.text(), "#1 RUN a\n#1 0.000 sword");
    }

    #[test]
    fn quiet_still_knows_why_it_failed() {
        let (progress, sink) = progress(ProgressMode::Quiet, "");
        progress.resume();
        progress.events().send(start("a", "RUN a", 0));
        progress.events().send(log("a", 5, "no such file\n"));
        progress
            .events()
            .send(failed("a", "RUN a", 0, 9, "exit code: 1"));
        progress.finish();
        assert_eq!(sink.text(), "");
        assert_eq!(progress.log_tail("a"), ["0.005 no such file"]);
    }

    #[test]
    fn rawjson_is_a_line_an_event() {
        let (progress, sink) = progress(ProgressMode::RawJson, "");
        progress.resume();
        progress.events().send(start("a", "RUN a", 0));
        progress.events().send(log("a", 5, "x\n"));
        progress.finish();
        let lines: Vec<serde_json::Value> = sink
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["vertexes"][0]["name"], "RUN a");
        assert_eq!(lines[1]["logs"][0]["data"], "eAo=");
    }

    #[test]
    fn many_senders_meet_one_display() {
        let (progress, sink) = progress(ProgressMode::Plain, "");
        progress.resume();
        let events = progress.events();
        events.send(start("a", "RUN a", 0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| events.send(log("a", 1, "x\n"))));
            }
        });
        progress.finish();
        assert_eq!(sink.text().matches("#1 0.001 x\n").count(), 1000);
    }
}
