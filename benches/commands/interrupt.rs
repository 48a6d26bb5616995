//! Ctrl-C while a step runs: until the build has ended, and nothing of the step is left.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;

use super::measure::Bound;
use super::measure::Measured;
use super::measure::Times;
use super::measure::line;
use super::place::Place;
use super::place::busybox;

const ROUNDS: usize = 20;
/// A process of its own, one that is its child, and one that has left its session; none heeds what can be ignored.
const STEP: &str = "trap '' INT TERM HUP; /bin/busybox setsid /bin/busybox sleep SECONDS & /bin/busybox sleep SECONDS & wait";
/// What containers do to /proc, whereupon steps share the builder's process ids.
const MASKED: &str = "mount --bind /dev/null /proc/version && exec \"$@\"";

/// In a pid namespace for each step, and without.
pub(crate) fn interrupt() -> Measured<String> {
    if ignores_interrupts() {
        return Err("SIGINT is ignored here, as in what a shell has in the background".to_owned());
    }
    let place = Place::new();
    fs::copy(busybox()?, place.context("busybox")).unwrap();
    let bound = Bound {
        within: Some(Duration::from_millis(100)),
        times: None,
    };
    // A number that no other process sleeps for.
    let seconds = (100_000 + std::process::id()).to_string();
    let mut own = Times::default();
    let mut shared = Times::default();
    let mut alone = Times::default();
    for round in 0..ROUNDS {
        place.dockerfile(&format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV ROUND={round}\nRUN {}\n",
            STEP.replace("SECONDS", &seconds)
        ));
        let mut build = place.build("store");
        build.arg("context");
        own.push(ended(&mut build, &seconds, 2, Some(false))?);
        let mut build = in_masked(&place.build("shared"));
        build.arg("context");
        shared.push(ended(&mut build, &seconds, 2, Some(true))?);
        let mut sleep = Command::new(busybox()?);
        alone.push(ended(sleep.args(["sleep", &seconds]), &seconds, 1, None)?);
    }
    let what = "a process that sleeps";
    Ok(format!(
        "{}\n{:18} with shared process ids: {}",
        line(&own, &alone, what, &bound),
        "",
        line(&shared, &alone, what, &bound)
    ))
}

/// Whether what this process starts ignores SIGINT, unless it says otherwise (proc(5), `SigIgn`).
fn ignores_interrupts() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (Signal::INT.as_raw() - 1) != 0)
}

fn in_masked(build: &Command) -> Command {
    let mut command = Command::new("unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            MASKED,
            "sh",
        ])
        .arg(build.get_program())
        .args(build.get_args())
        .env_clear()
        .envs(
            build
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    if let Some(dir) = build.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// From the interrupt until the command has been waited for. Meanwhile `sleepers` of its processes sleep for that number of
/// seconds; `shared` is whether they are in this process' pid namespace.
fn ended(
    command: &mut Command,
    seconds: &str,
    sleepers: usize,
    shared: Option<bool>,
) -> Measured<Duration> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let begun = begun(&mut child, seconds, sleepers)?;
    if let Some(shared) = shared {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid"));
        let (ours, theirs) = (namespace("self"), namespace(&begun));
        let same = matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs);
        if same != shared {
            interrupted(&mut child)?;
            return Err("steps have other process ids here than this line is about".to_owned());
        }
    }
    let time = interrupted(&mut child)?;
    match sleeping(seconds).len() {
        0 => Ok(time),
        left => Err(format!("{left} processes of the step are left")),
    }
}

fn interrupted(child: &mut Child) -> Measured<Duration> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let started = Instant::now();
    rustix::process::kill_process(pid.ok_or("no pid")?, Signal::INT)
        .map_err(|error| error.to_string())?;
    child.wait().map_err(|error| error.to_string())?;
    Ok(started.elapsed())
}

/// Waits until they sleep; one of them.
fn begun(child: &mut Child, seconds: &str, sleepers: usize) -> Measured<String> {
    loop {
        let mut found = sleeping(seconds);
        if found.len() >= sleepers {
            return Ok(found.swap_remove(0));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the build ended before its step began: {status}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Processes whose last argument is that number.
fn sleeping(seconds: &str) -> Vec<String> {
    let sleeps = |process: &Path| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.ends_with(format!("sleep\0{seconds}\0").as_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| sleeps(&process.path()))
        .filter_map(|process| process.file_name().into_string().ok())
        .collect()
}
