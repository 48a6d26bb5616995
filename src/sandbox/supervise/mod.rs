//! Owners of files where there is one id: a process beside the step that the kernel asks (seccomp_unotify(2)) about calls
//! that give files to somebody, make files, look at owners, or change ids.
//!
//! It does not confine the step, and it is not seen by it: it lives outside of the step's pid namespace. What a call would
//! have done with all ids there are is recorded, and answered afterwards:
//!
//! | | |
//! |---|---|
//! | chown(2) and its family | an attribute of the file ([`rbuild_cache::Owner`]), behind a chown(2) to our own id, which has the kernel's say on permissions, setuid bits and capabilities |
//! | stat(2) and its family | the kernel's answer with that owner in it; the kernel alone for what has no attribute, as most files |
//! | mknod(2) of a device | an empty file with the device in its attribute |
//! | open(2) with `O_CREAT`, mkdir(2), symlink(2), mknod(2) | made here, with its owner, for processes that are not root and in directories that hand on their group; else by the kernel |
//! | setresuid(2) and its family, getuid(2) … | ids of the process, which children inherit ([`ids`]) |
//! | prlimit(2) of that limit | none, and it stays |
//! | listxattr(2) | without our attribute |
//! | chroot(2) | from then on it is looked which root a process has |
//!
//! The ids of a process are kept with it by the kernel, too: the soft limit `RLIMIT_RTTIME`, which nothing but real-time
//! scheduling looks at, and which fork(2) and execve(2) hand on, holds the number of a row in a table here.
//!
//! What always holds:
//! - Arguments are read once. A path is resolved once, as its process would resolve it, to a descriptor, and everything is
//!   done to that. Whether the thread still waits is asked after its files, and its memory to be written to, were opened:
//!   its number may have become another's before that.
//! - What the supervisor cannot make sense of, the kernel carries out as if nobody had asked: with one id, which cannot do
//!   more than the step may do anyway.
//! - The supervisor lives among the builder's files, and may see its processes. So what it does in a step's name it does
//!   with the step's capabilities, and it follows links of proc(5) to processes of the step only. More than that is in
//!   effect while it looks at the process that asks, and at the attributes in which owners are ([`SPARE`]).
//! - Nothing it opens waits for anybody.
//! - When it ends before the step, the step is killed and fails; when the step ends, it is killed.

mod calls;
mod ids;
mod kernel;
mod memory;
mod owners;
mod service;
mod stat;
mod target;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::WaitIdStatus;
use rustix::thread::CapabilitySet;

pub(super) use calls::CALLS;
pub(super) use calls::Which;
pub(super) use kernel::keep_only;

use super::caps;
use super::child::Config;
use super::mounts;
use super::step::Security;
use super::step::Step;
use super::sys;
use super::sys::Fork;
use super::wire;
use super::wire::wire_struct;
use super::zygote::pair;
use super::zygote::receive;
use super::zygote::send;
use kernel::Listener;
use kernel::install_listener;
use service::Caller;
use service::Service;
use target::Target;

/// The longest [`Beginning`], in bytes.
const LONGEST: usize = 4096;

/// What a supervisor is told by its step, with the listener and the step's root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beginning {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Those of the step's program, a bit each.
    capabilities: u64,
    /// Processes may have other roots from the beginning.
    roots: bool,
}
wire_struct!(Beginning {
    uid,
    gid,
    groups,
    capabilities,
    roots
});

/// To look at processes that protect themselves, or that the kernel lets only its parents look at (Yama).
const TO_LOOK: CapabilitySet = CapabilitySet::SYS_PTRACE;
/// To record owners of files that their owner may not write to, or not look into, and of those that have a capability for it.
const TO_RECORD: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::SETFCAP);
/// What a supervisor has besides the step's capabilities. It also keeps the step from looking at the supervisor.
const SPARE: CapabilitySet = TO_LOOK.union(TO_RECORD);

/// Tries something with the step's capabilities, and again with a spare one where they are not enough.
fn insist<T>(
    spare: CapabilitySet,
    mut attempt: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match attempt() {
        Err(Errno::ACCESS | Errno::PERM) => caps::with(spare, attempt)?,
        done => done,
    }
}

/// A supervisor as the zygote sees it.
pub(super) struct Supervisor {
    pid: Pid,
    process: OwnedFd,
}

impl Supervisor {
    /// Starts one; with it comes the socket for its step to [`begin`] on.
    pub(super) fn start(config: &Config) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair()?;
        match sys::fork(0)? {
            Fork::Parent(pid, process) => Ok((Self { pid, process }, ours)),
            Fork::Child => sys::exit_child(match serve(config, theirs) {
                Ok(()) => 0,
                Err(_) => 1,
            }),
        }
    }

    /// Its number, for its parent.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when it has ended.
    pub(super) fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Ends it, and says how it ended if it had ended before by a fault.
    pub(super) fn end(self) -> Option<(i32, i32)> {
        // One that has ended is as good.
        _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
        let ended = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED)
        });
        fault(&ended.ok()??)
    }
}

fn fault(ended: &WaitIdStatus) -> Option<(i32, i32)> {
    let ending = (
        ended.exit_status().unwrap_or(0),
        ended.terminating_signal().unwrap_or(0),
    );
    (ending != (0, 0)).then_some(ending)
}

/// What a step lacks that [`begin`] fails with this error in.
pub(super) fn fix(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EBUSY => Some(
            "a process can have one supervisor, and this one runs below another: give the outer rbuild or container ranges \
             of ids",
        ),
        libc::EINVAL | libc::ENOSYS => {
            Some("it takes seccomp user notification (Linux 5.9), or ranges of ids")
        }
        _ => None,
    }
}

/// Whether this process could be supervised; for one that ends then.
pub(super) fn try_out() -> io::Result<()> {
    install_listener(&super::seccomp::questions()).map(drop)
}

/// The step's part: has its calls supervised from now on. It takes CAP_SYS_ADMIN in the process' user namespace.
pub(super) fn begin(supervisor: OwnedFd, step: &Step) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let beginning = Beginning {
        uid: step.uid,
        gid: step.gid,
        groups: step.groups.clone(),
        capabilities: caps::of(step.security, step.uid).bits(),
        roots: step.security == Security::Insecure,
    };
    let listener = install_listener(&super::seccomp::questions())?;
    let fds = [listener.as_fd(), root.as_fd()];
    Ok(send(&supervisor, &wire::encode(&beginning), &fds)?)
}

/// The supervisor's life.
fn serve(config: &Config, socket: OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // For who looks at the processes there are.
    rustix::thread::set_name(c"supervisor")?;
    let [socket] = kernel::keep_only([socket])?;
    // Modes are taken as they are; the callers' masks are taken off here.
    rustix::process::umask(Mode::empty());
    let proc = match config.own_pids {
        true => mounts::new("proc", &[], MountAttrFlags::empty())?,
        false => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open("/proc", flags, Mode::empty())?
        }
    };
    // End of file: there was no step.
    let Some((bytes, fds)) = receive::<LONGEST>(&socket)? else {
        return Ok(());
    };
    let beginning: Beginning = wire::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    let mut fds = fds.into_iter();
    let (Some(listener), Some(root)) = (fds.next(), fds.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    drop(socket);
    let step = CapabilitySet::from_bits_retain(beginning.capabilities);
    caps::limit_with_spare(step, SPARE)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(&proc, "self/fd", flags, Mode::empty())?;
    // What is open is named by its number there.
    rustix::process::fchdir(own)?;
    let mut service = Service::new(root, beginning);
    let listener = Listener::new(listener);
    // Until it is killed; a kernel that tells when nobody is left to ask says so with ENOTCONN.
    loop {
        match listener.next() {
            Ok(Some(question)) => {
                let caller = Caller {
                    target: Target {
                        proc: proc.as_fd(),
                        tid: question.tid,
                    },
                    listener: &listener,
                    id: question.id,
                };
                listener.answer(question.id, service.answer(&caller, &question));
            }
            Ok(None) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}
