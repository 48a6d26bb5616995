//! Taking times in turns, and saying them.

use std::fs;
use std::fs::File;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Why a line has no figures.
pub(crate) type Measured<T> = Result<T, String>;

/// The times of one side.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The shortest: what it takes when nobody else wants the machine.
    pub(crate) fn best(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        let mut times = self.0.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// Each time less a fixed cost, shared among `parts`.
    pub(crate) fn per_part(&self, less: Duration, parts: u32) -> Self {
        Self(
            self.0
                .iter()
                .map(|time| time.saturating_sub(less) / parts)
                .collect(),
        )
    }

    fn show(&self) -> String {
        format!("{} / {}", show(self.best()), show(self.median()))
    }
}

fn show(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 100.0 {
        format!("{ms:.2} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// What a line promises.
pub(crate) struct Bound {
    /// This time is enough, whatever the limit.
    pub(crate) within: Option<Duration>,
    /// So is this many times the limit.
    pub(crate) times: Option<f64>,
}

impl Bound {
    pub(crate) const fn times(times: f64) -> Self {
        Self {
            within: None,
            times: Some(times),
        }
    }
}

/// One side and then the other, `rounds` times; a side says how long it took.
pub(crate) fn in_turns(
    rounds: usize,
    mut rbuild: impl FnMut(usize) -> Measured<Duration>,
    mut limit: impl FnMut(usize) -> Measured<Duration>,
) -> Measured<(Times, Times)> {
    let (mut ours, mut limits) = (Times::default(), Times::default());
    for round in 0..rounds {
        ours.push(rbuild(round)?);
        limits.push(limit(round)?);
    }
    Ok((ours, limits))
}

/// `rbuild 3.10 ms / 3.40 ms, limit …`: best and median of each, the ratio of the bests, and whether it is kept.
pub(crate) fn line(ours: &Times, limit: &Times, what: &str, bound: &Bound) -> String {
    let ratio = ours.best().as_secs_f64() / limit.best().as_secs_f64();
    let within = bound.within.is_some_and(|within| ours.best() <= within);
    let kept = within || bound.times.is_some_and(|times| ratio <= times);
    let promises = [
        bound.within.map(show),
        bound.times.map(|times| format!("{times} x")),
    ];
    let promises: Vec<String> = promises.into_iter().flatten().collect();
    format!(
        "rbuild {}, {what} {}, {ratio:.2} x; bound {}: {}",
        ours.show(),
        limit.show(),
        promises.join(" or "),
        if kept { "holds" } else { "DOES NOT HOLD" }
    )
}

/// How long a command takes from before its process is made until it has been waited for.
pub(crate) fn run(command: &mut Command) -> Measured<Duration> {
    finish(command, said()?, |_| ()).map(|(time, ())| time)
}

/// How long several take that begin together, until the last has been waited for. What it takes to have them begin together is
/// done before.
pub(crate) fn run_at_once(commands: Vec<Command>) -> Measured<Duration> {
    let ready = Barrier::new(commands.len());
    let files = commands.iter().map(|_| said());
    let files = files.collect::<Measured<Vec<File>>>()?;
    thread::scope(|scope| {
        let ready = &ready;
        let running = commands.into_iter().zip(files).map(|(mut command, said)| {
            scope.spawn(move || {
                ready.wait();
                let began = Instant::now();
                let (time, ()) = finish(&mut command, said, |_| ())?;
                Measured::Ok((began, began + time))
            })
        });
        let running: Vec<_> = running.collect();
        let mut times = Vec::new();
        for command in running {
            times.push(command.join().expect("it does not panic")?);
        }
        let began = times.iter().map(|(began, _)| *began).min();
        let ended = times.iter().map(|(_, ended)| *ended).max();
        Ok(ended
            .zip(began)
            .map_or(Duration::ZERO, |(ended, began)| ended - began))
    })
}

/// Where a command's errors go.
fn said() -> Measured<File> {
    tempfile::tempfile().map_err(|error| error.to_string())
}

/// The same with the most memory it had resident at a time, in KiB. It is looked at every few milliseconds while it grows,
/// so that the last of them may be missing.
pub(crate) fn run_watched(command: &mut Command) -> Measured<(Duration, u64)> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watched = finish(command, said()?, |child| {
            let status = format!("/proc/{}/status", child.id());
            let ended = &ended;
            scope.spawn(move || {
                let mut peak = 0;
                while !ended.load(Ordering::Relaxed) {
                    peak = peak.max(resident_peak(&status).unwrap_or(0));
                    thread::sleep(Duration::from_millis(3));
                }
                peak
            })
        });
        ended.store(true, Ordering::Relaxed);
        let (time, watcher) = watched?;
        Ok((time, watcher.join().expect("it does not panic")))
    })
}

fn resident_peak(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn finish<T>(
    command: &mut Command,
    mut said: File,
    while_it_runs: impl FnOnce(&Child) -> T,
) -> Measured<(Duration, T)> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(|error| error.to_string())?);
    let started = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let aside = while_it_runs(&child);
    let status = child.wait().map_err(|error| error.to_string())?;
    let time = started.elapsed();
    if status.success() {
        return Ok((time, aside));
    }
    let mut text = String::new();
    let read = std::io::Seek::rewind(&mut said)
        .and_then(|()| std::io::Read::read_to_string(&mut said, &mut text));
    drop(read);
    let last: Vec<&str> = text.lines().rev().take(6).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(format!("{command:?}: {status}\n{}", last.join("\n")))
}
