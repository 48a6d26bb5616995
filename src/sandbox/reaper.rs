//! What stands in for process 1 of a pid namespace where there are none: a process between zygote and step, to which the
//! kernel hands all orphans of the step.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::os::fd::OwnedFd;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

use super::child;
use super::child::Config;
use super::child::Inherited;
use super::step::Reach;
use super::step::Security;
use super::sys;
use super::sys::Fork;
use super::zygote;
use super::zygote::Report;

/// Runs a step in a child of this process, which stands in for the pid namespace's process 1: orphans become its
/// children, and when the step ends, or SIGTERM comes, it kills children until there are none.
///
/// The step sees this process. A kernel that knows scopes (Linux 6.12) keeps it from killing it; with another, its orphans
/// become the zygote's, which [ends](end_orphans) them.
pub(super) fn run(
    config: &Config,
    reach: Reach,
    security: Security,
    fds: Vec<OwnedFd>,
    supervisor: Option<OwnedFd>,
) -> ! {
    let prepare = || -> io::Result<(OwnedFd, File)> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let wanted = sys::signal_event(&[libc::SIGTERM], false)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        Ok((wanted, children()?))
    };
    let prepared = prepare().and_then(|prepared| Ok((prepared, sys::fork(0)?)));
    let ((wanted, children), pid, process) = match prepared {
        Ok((_, Fork::Child)) => {
            // There is an uplink only where there are pid namespaces.
            let prepared = child::prepare(config, reach, None, security, Inherited::Nothing);
            zygote::carry_out(config, prepared, fds, supervisor)
        }
        Ok((prepared, Fork::Parent(pid, process))) => (prepared, pid, process),
        Err(e) => {
            if let Some(status) = fds.get(1) {
                zygote::tell(status, &zygote::not_started(&e));
            }
            sys::exit_child(1);
        }
    };
    // The step's standard streams end with the step.
    let status = fds.into_iter().nth(1);
    let mut polled = [
        PollFd::new(&process, PollFlags::IN),
        PollFd::new(&wanted, PollFlags::IN),
    ];
    _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None));
    if !polled[0].revents().is_empty()
        && let Ok(Some(ended)) = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)
    {
        let (code, signal) = zygote::ending(&ended);
        if let Some(status) = &status {
            zygote::tell(status, &Report::Ended { code, signal });
        }
    }
    loop {
        let children = read_children(&children);
        if children.is_empty() {
            sys::exit_child(0);
        }
        kill_all(&children);
        // Those killed, and those that had ended.
        _ = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED);
    }
}

/// Ends what a reaper that was killed has left to the zygote, whose `own` children are others.
pub(super) fn end_orphans(own: impl Fn(Pid) -> bool) -> io::Result<()> {
    let children = children()?;
    loop {
        let mut orphans = read_children(&children);
        orphans.retain(|pid| !own(*pid));
        if orphans.is_empty() {
            return Ok(());
        }
        kill_all(&orphans);
        for pid in orphans {
            _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        }
    }
}

/// The file that lists the children of this process, which has one thread.
fn children() -> io::Result<File> {
    let tid = rustix::thread::gettid();
    File::open(format!("/proc/self/task/{tid}/children"))
}

/// Those it lists now; none if it cannot be read.
fn read_children(mut children: &File) -> Vec<Pid> {
    let mut list = String::new();
    if children.rewind().is_err() || children.read_to_string(&mut list).is_err() {
        return Vec::new();
    }
    let numbers = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

fn kill_all(processes: &[Pid]) {
    for pid in processes {
        // One that has ended is as good.
        _ = rustix::process::kill_process(*pid, Signal::KILL);
    }
}
