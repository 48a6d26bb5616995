//! `rbuild logs`, `rbuild stop`: what `rbuild run -d` left running.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rbuild_cache::containers::Alive;
use rbuild_cache::containers::Container;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::PidfdFlags;
use rustix::process::Signal;

use super::Session;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// What `rbuild run -d` printed, or the beginning of it
    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Debug, Args)]
pub(crate) struct StopFlags {
    /// Seconds until containers are killed that do not end by themselves
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,
    /// What `rbuild run -d` printed, or the beginning of it
    #[arg(value_name = "CONTAINER", required = true)]
    container: Vec<String>,
}

/// The variable by which a `rbuild run -d` tells the process that carries it out which container it is.
pub(super) const DETACHED: &str = "RBUILD_DETACHED_CONTAINER";

/// Starts this command once more, in the background, and waits until its process is about to start.
pub(super) fn detach(session: &Session) -> Result<ExitCode, BuildError> {
    let root = &session.settings.root;
    let container =
        Container::create(root).map_err(|e| BuildError::new(ErrorKind::Environment, e))?;
    let log = File::create(container.log()).map_err(failed("make the log"))?;
    let (mut ready, theirs) = UnixStream::pair().map_err(failed("make a socket"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(super::env::argv().into_iter().skip(1))
        .env(DETACHED, container.id())
        .stdin(OwnedFd::from(theirs))
        .stdout(log.try_clone().map_err(failed("share the log"))?)
        .stderr(log);
    let mut child = command.spawn().map_err(failed("start a process"))?;
    // The other end of the socket is the child's alone.
    drop(command);
    let mut said = Vec::new();
    ready
        .read_to_end(&mut said)
        .map_err(failed("wait for the container"))?;
    if said.is_empty() {
        let status = child.wait().map_err(failed("wait for the container"))?;
        ui::relay(&std::fs::read(container.log()).unwrap_or_default());
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.unwrap_or(1).into());
    }
    super::print(format!("{}\n", container.id()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Makes this process the one that waits for the container, which no terminal can end.
pub(super) fn become_detached(id: &str, session: &Session) -> Result<Alive, BuildError> {
    let alive = find(id, session)?.claim();
    rustix::process::setsid().map_err(|e| failed("start a session")(e.into()))?;
    alive.map_err(|error| BuildError::new(ErrorKind::Environment, error))
}

/// Says so to who waits in [`detach`], and leaves standard input.
pub(super) fn say_started() {
    // Should nobody wait any more, it is as well.
    _ = rustix::io::write(rustix::stdio::stdin(), b"1");
    let null = File::open("/dev/null").map(rustix::stdio::dup2_stdin);
    drop(null);
}

/// How often a log that is followed is looked at: a file tells nobody that it grows.
const INTERVAL: Duration = Duration::from_millis(100);

fn find(id: &str, session: &Session) -> Result<Container, BuildError> {
    let found = Container::find(&session.settings.root, id)
        .map_err(|error| BuildError::new(ErrorKind::Environment, error))?;
    found.ok_or_else(|| {
        let error = anyhow::anyhow!("there is no container `{id}`");
        BuildError::new(ErrorKind::Request, error)
            .hint("`rbuild run -d` prints the ids of those it starts")
    })
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> BuildError {
    move |error| {
        let error = anyhow::Error::new(error).context(format!("cannot {doing}"));
        BuildError::new(ErrorKind::Environment, error)
    }
}

/// Prints what a container has written.
pub(crate) fn logs(flags: &LogsFlags, session: &Session) -> Result<(), BuildError> {
    let container = find(&flags.container, session)?;
    let mut log = File::open(container.log()).map_err(failed("open the log"))?;
    loop {
        // Before reading: what it wrote at last is read all the same.
        let lives = flags.follow && container.process().is_some();
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)
            .map_err(failed("read the log"))?;
        super::print(&bytes)?;
        if !lives {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Ends containers, gently first.
pub(crate) fn stop(flags: &StopFlags, session: &Session) -> Result<ExitCode, BuildError> {
    for id in &flags.container {
        let container = find(id, session)?;
        let Some(pid) = container.process() else {
            continue;
        };
        let failed = |doing| move |error: rustix::io::Errno| failed(doing)(error.into());
        let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Now that it is held, it is the one that was meant, or that has ended.
        if container.process() != Some(pid) {
            continue;
        }
        for (signal, patience) in [
            (Signal::TERM, Duration::from_secs(flags.time)),
            (Signal::KILL, Duration::from_secs(10)),
        ] {
            match rustix::process::pidfd_send_signal(&process, signal) {
                Ok(()) => {}
                Err(rustix::io::Errno::SRCH) => break,
                Err(error) => return Err(failed("stop the container")(error)),
            }
            // What no clock can hold is for ever.
            let patience = Timespec::try_from(patience).ok();
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            let ended =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, patience.as_ref()));
            if ended.map_err(failed("wait for the container"))? > 0 {
                break;
            }
        }
        super::print(format!("{id}\n").as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
