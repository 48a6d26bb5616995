//! The zygote: a small single-threaded process that starts the steps.
//!
//! Forking the builder would copy its page tables (116 ms at 500 MB), and clone(2) with `CLONE_VM` would suspend it
//! while a step's mounts are made. So a process that executed this program anew, and holds nothing, forks once a step.
//! It is process 1 of a pid namespace: when it ends, for whatever reason, the kernel ends all steps with it.
//!
//! ```text
//! builder                         zygote                            step's child
//!   Config            ─────────▶
//!                     ◀─────────  Hello
//!   Order::Prepare    ─────────▶  has one made           ─────────▶  child::prepare
//!   Order::Start, step, status,
//!   stdout, stderr    ─────────▶  hands them on          ─────────▶  child::run
//!                     ◀───────────────────────────────────────────  Report::Failed, or execve
//!   end of file       ─────────▶  kills                  ─────────▶
//!                     ◀─────────  Report::Gone                       (all its processes have ended)
//! ```
//!
//! Half of what it takes to start a step does not depend on the step. So as long as more steps are to come, one child
//! is kept that has done it: while a step runs, a [maker](super::maker) makes the next one's namespaces, `/proc`, `/sys` and
//! `/dev`. A step of another kind, or that comes while there is no such child, gets a new one.
//!
//! Each step has a socket of its own for status, so the builder's threads do not share anything but the first socket,
//! on which a message is atomic. The builder's end being shut down or closed is the order to kill.
//!
//! Where `/proc` cannot be mounted there are no pid namespaces. Then a [reaper](super::reaper) stands between zygote and
//! step, to which the kernel hands all orphans of the step, and to the zygote those of a reaper that was killed.

use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Read as _;
use std::io::Seek as _;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::SealFlags;
use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::WaitIdStatus;

use super::child;
use super::child::Config;
use super::child::Inherited;
use super::child::Standard;
use super::error::Failure;
use super::maker::Made;
use super::maker::Makers;
use super::mounts;
use super::reaper;
use super::seccomp;
use super::step::Reach;
use super::step::Security;
use super::step::Step;
use super::supervise::Supervisor;
use super::sys;
use super::sys::Fork;
use super::uplink::Link;
use super::uplink::Uplink;
use super::wire;
use super::wire::Wire;
use super::wire::wire_enum;
use super::wire::wire_struct;

/// The argument that makes this program a zygote.
const ARGUMENT: &str = "__zygote";

/// What the zygote found out about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// A new `/proc` can be mounted.
    pub(super) proc: bool,
}
wire_struct!(Hello { proc });

/// What the builder asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A step will come.
    Prepare,
    /// Start one; its descriptors come along. Whether there will be another.
    Start {
        reach: Reach,
        security: Security,
        /// Whether a process of ours stays in it.
        init: bool,
        another: bool,
    },
    /// Start the uplink; a socket for its [`Outcome`] comes along.
    Connect,
}
wire_enum!(Order {
    0 => Prepare,
    1 => Start { reach, security, init, another },
    2 => Connect,
});

/// What a step's status socket carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// The program was not executed.
    Failed { failure: Failure },
    /// The program ended, in this way.
    Ended { code: i32, signal: i32 },
    /// The step's network namespace comes along, if it has one of its own.
    Inside,
    /// All processes of the step have ended; the step's own in this way, unless an `Ended` came before.
    Gone { code: i32, signal: i32 },
}
wire_enum!(Report {
    0 => Failed { failure },
    1 => Ended { code, signal },
    2 => Gone { code, signal },
    3 => Inside,
});

/// Longer than an [`Order`] or a [`Hello`], in bytes.
pub(super) const SHORT: usize = 64;
/// The longest report, in bytes.
const LONGEST: usize = 64 << 10;

/// A message with its descriptors.
pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(fits, "no message has more than eight descriptors");
    }
    let bytes = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &bytes, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// A message of at most `LEN` bytes; `None` at the end.
///
/// What may be long, a step or the configuration, travels as a file in memory: a child that is forked for each step pays
/// for every page it touches.
pub(super) fn receive<const LEN: usize>(
    socket: impl AsFd,
) -> rustix::io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = [0; LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let bytes = &bytes[..received.bytes];
    Ok((!bytes.is_empty()).then(|| (bytes.to_vec(), fds)))
}

/// What a step's status socket says next, with the descriptor that came along.
pub(super) fn report(status: &OwnedFd) -> io::Result<(Report, Option<OwnedFd>)> {
    receive::<LONGEST>(status)?
        .and_then(|(bytes, fds)| Some((wire::decode(&bytes)?, fds.into_iter().next())))
        .ok_or_else(|| io::Error::other("the process that starts steps is gone"))
}

/// A connected pair of sockets that keep messages apart.
pub(super) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// A file in memory with `bytes`, read from its start.
pub(super) fn memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    io::Write::write_all(&mut file, bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// The builder's end.
pub(super) struct Zygote {
    socket: OwnedFd,
    pid: Pid,
}

impl Zygote {
    /// Starts a zygote in the namespaces of this process, which must have one thread, and a pid namespace of its own
    /// if `/proc` can be mounted there.
    pub(super) fn start(config: &mut Config) -> io::Result<Self> {
        config.own_pids = !config.chroot;
        let (zygote, hello) = Self::spawn(config)?;
        if hello.proc || config.chroot {
            return Ok(zygote);
        }
        drop(zygote);
        config.own_pids = false;
        Ok(Self::spawn(config)?.0)
    }

    fn spawn(config: &Config) -> io::Result<(Self, Hello)> {
        let (ours, theirs) = pair()?;
        let theirs = sys::above_standard(theirs)?;
        let file = own_program()?;
        let program = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let argv = [CString::from(c"rbuild"), CString::new(ARGUMENT)?];
        let namespaces = if config.own_pids {
            libc::CLONE_NEWPID
        } else {
            0
        };
        let pid = match sys::fork(namespaces)? {
            Fork::Parent(pid, _) => pid,
            Fork::Child => {
                if sys::dup_to(&theirs, 0).is_ok() {
                    sys::exec(&program, &argv, &[]);
                }
                sys::exit_child(1);
            }
        };
        drop(theirs);
        let zygote = Self { socket: ours, pid };
        let payload = memory("configuration", &wire::encode(config))?;
        send(&zygote.socket, &[1], &[payload.as_fd()])?;
        let hello = receive::<SHORT>(&zygote.socket)?
            .and_then(|(bytes, _)| wire::decode(&bytes))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((zygote, hello))
    }

    /// Says that a step will come.
    pub(super) fn expect_step(&self) -> io::Result<()> {
        Ok(send(&self.socket, &wire::encode(&Order::Prepare), &[])?)
    }

    /// Has the uplink started. The socket will have its [`Outcome`].
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = pair()?;
        let order = wire::encode(&Order::Connect);
        send(&self.socket, &order, &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// Has a step started, after which `another` will come or not. Its status socket is the answer.
    pub(super) fn start_step(
        &self,
        step: &Step,
        cgroup: Option<&Path>,
        reach: Reach,
        standard: &Standard,
        another: bool,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = pair()?;
        let mut bytes = wire::encode(step);
        cgroup.map(Path::to_owned).put(&mut bytes);
        let payload = memory("step", &bytes)?;
        let mut fds = vec![
            payload.as_fd(),
            theirs.as_fd(),
            standard.stdout.as_fd(),
            standard.stderr.as_fd(),
        ];
        fds.extend(standard.stdin.as_ref().map(AsFd::as_fd));
        let order = Order::Start {
            reach,
            security: step.security,
            init: step.init,
            another,
        };
        send(&self.socket, &wire::encode(&order), &fds)?;
        Ok(ours)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // End of file tells it to end. An error here means that it has.
        _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED)
        });
    }
}

/// This program's file, on a read-only mount of its own: a step's program can be a script that has `/proc/self/exe`
/// executed, and that is what the zygote is (CVE-2019-5736). If the file is not to be found any more, or the mount cannot be
/// made read-only while it is mounted nowhere (before Linux 5.12), a copy of it that nobody can write.
fn own_program() -> io::Result<OwnedFd> {
    const EXE: &str = "/proc/self/exe";
    // What the link leads to lies in the mount namespace that this process has left, and cannot be mounted.
    let found = || -> io::Result<OwnedFd> {
        let path = std::fs::read_link(EXE)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty())?;
        let (is, wanted) = (rustix::fs::fstat(&file)?, rustix::fs::stat(EXE)?);
        if (is.st_dev, is.st_ino) != (wanted.st_dev, wanted.st_ino) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mount = mounts::copy(&file, "", false)?;
        mounts::make_read_only(&mount)?;
        Ok(mount)
    };
    if let Ok(mount) = found() {
        return Ok(mount);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create("rbuild", flags)?);
    io::copy(&mut File::open(EXE)?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

/// The zygote's whole life, if `args` (with the program's name) ask for one; the first thing `main` calls.
pub fn zygote_main_if_asked(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    if args.next().as_deref() != Some(OsStr::new(ARGUMENT)) || args.next().is_some() {
        return None;
    }
    Some(match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// A child that waits for its step, in [`Security::Sandbox`].
struct Ready {
    reach: Reach,
    made: Made,
    supervisor: Option<Supervisor>,
}

/// A step under way.
struct Running {
    pid: Pid,
    process: OwnedFd,
    status: OwnedFd,
    /// Where network namespaces come from that other steps may have after it.
    job: Option<OwnedFd>,
    killed: bool,
    supervisor: Option<Supervisor>,
}

impl Running {
    /// Whether a child of the zygote is there for it.
    fn has(&self, pid: Pid) -> bool {
        let supervisor = self.supervisor.as_ref().map(Supervisor::pid);
        self.pid == pid || supervisor == Some(pid)
    }
}

fn serve() -> io::Result<()> {
    let socket = sys::above_standard(io::stdin())?;
    // The first three descriptors stay taken, so that none that comes along is one of them.
    sys::dup_to(File::open("/dev/null")?, 0)?;
    // For the steps: execve(2) keeps what is ignored, and Rust's runtime ignores SIGPIPE.
    sys::reset_signals();
    // Not a copy of the terminal's Ctrl-C: the builder decides when steps are killed.
    rustix::process::setsid()?;
    // An insecure step must not find the user's keys. Where keyrings are forbidden to us they are to it.
    drop(sys::new_session_keyring());
    // The end of the socket says the same; this says it while a step's mounts are being made.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let Some((_, fds)) = receive::<SHORT>(&socket)? else {
        return Ok(());
    };
    let payload = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    let config: Config = read(payload)?;
    let hello = Hello {
        proc: config.own_pids
            && mounts::new("proc", &[], rustix::mount::MountAttrFlags::empty()).is_ok(),
    };
    send(&socket, &wire::encode(&hello), &[])?;
    if !config.own_pids {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    }

    // Here, and not by every step.
    seccomp::program(config.nesting());
    let mut running: Vec<Running> = Vec::new();
    let mut makers = Makers::default();
    let mut ready: Option<Ready> = None;
    let mut uplink = Uplink::Unasked;
    let mut another = false;
    loop {
        let mut polled = Vec::with_capacity(2 + 2 * running.len());
        polled.push(PollFd::new(&socket, PollFlags::IN));
        for step in &running {
            polled.push(PollFd::new(&step.process, PollFlags::IN));
            // A killed step's socket stays readable; without events it still tells of its end being closed.
            let events = if step.killed {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            polled.push(PollFd::new(&step.status, events));
        }
        let supervised = running.iter().filter_map(|step| step.supervisor.as_ref());
        polled
            .extend(supervised.map(|supervisor| PollFd::new(supervisor.process(), PollFlags::IN)));
        let others = polled.len();
        if let Some(told) = uplink.told() {
            polled.push(PollFd::new(told, PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        let steps = running.len();
        let told: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        for (step, told) in running.iter_mut().zip(told[1..].chunks(2)) {
            if told[1] && !step.killed {
                match receive::<SHORT>(&step.status) {
                    Ok(Some((bytes, _))) => pass_on(&config, step, &bytes),
                    Ok(None) | Err(_) => {
                        step.killed = true;
                        kill(&config, step);
                    }
                }
            }
        }
        let supervised = running.iter_mut().filter(|step| step.supervisor.is_some());
        for (step, _) in supervised
            .zip(&told[1 + 2 * steps..])
            .filter(|(_, ended)| **ended)
        {
            supervisor_ended(&config, step);
        }
        if told.get(others) == Some(&true) {
            uplink = uplink.finish(&config);
        }
        if !config.own_pids && told[1..].iter().step_by(2).take(steps).any(|ended| *ended) {
            reaper::end_orphans(|pid| running.iter().any(|step| step.has(pid)))?;
        }
        let mut at = 1;
        running.retain_mut(|step| {
            let ended = told[at] && reap(step, &mut uplink);
            at += 2;
            !ended
        });
        if told[0] {
            let Some((bytes, fds)) = receive::<SHORT>(&socket)? else {
                return Ok(());
            };
            match wire::decode(&bytes).ok_or(io::ErrorKind::InvalidData)? {
                Order::Prepare => another = true,
                Order::Connect => {
                    let tell = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
                    uplink = Uplink::start(&config, tell);
                }
                Order::Start {
                    reach,
                    security,
                    init,
                    another: more,
                } => {
                    // A process of ours that stays would keep its maker waiting.
                    let wanted = (reach, security, init);
                    let fits =
                        |ready: &mut Ready| (ready.reach, Security::Sandbox, false) == wanted;
                    let taken = ready.take_if(fits);
                    let taken = taken.and_then(|ready| hand_over(&mut makers, ready, &fds));
                    let started = || start(&config, reach, uplink.link(reach), security, fds);
                    running.extend(taken.or_else(started));
                    another = more;
                }
            }
        }
        // A reaper, which stands between zygote and step, is told of its step when it is made.
        if another
            && ready.is_none()
            && config.own_pids
            && let Some(reach) = uplink.usual()
        {
            ready = make_ready(&config, &mut makers, reach, uplink.link(reach));
            another = false;
        }
    }
}

/// Fails a step whose supervisor ended by a fault: its calls would fail from now on with an `ENOSYS` that says nothing.
fn supervisor_ended(config: &Config, step: &mut Running) {
    if let Some((code, signal)) = step.supervisor.take().and_then(Supervisor::end)
        && !step.killed
    {
        let failure = Failure::Supervisor { code, signal };
        tell(&step.status, &Report::Failed { failure });
        step.killed = true;
        kill(config, step);
    }
}

/// What keeps the owners of a step's files, where they can have one only.
fn supervisor(config: &Config) -> io::Result<(Option<Supervisor>, Option<OwnedFd>)> {
    if !config.single {
        return Ok((None, None));
    }
    let (supervisor, socket) = Supervisor::start(config)?;
    Ok((Some(supervisor), Some(socket)))
}

/// Makes a child that waits for its step; none if that fails, since the step's own attempt will say why.
fn make_ready(
    config: &Config,
    makers: &mut Makers,
    reach: Reach,
    link: Option<Link<'_>>,
) -> Option<Ready> {
    let (supervisor, socket) = supervisor(config).ok()?;
    match makers.make(config, reach, link.as_ref(), socket.as_ref()) {
        Some(made) => Some(Ready {
            reach,
            made,
            supervisor,
        }),
        None => {
            supervisor.and_then(Supervisor::end);
            None
        }
    }
}

/// Gives a child its step; none if there is no such child any more.
fn hand_over(makers: &mut Makers, ready: Ready, fds: &[OwnedFd]) -> Option<Running> {
    let Ready {
        made, supervisor, ..
    } = ready;
    let taken = makers.take(made);
    let handed = taken.and_then(|(pid, process, job)| {
        let status = rustix::io::fcntl_dupfd_cloexec(fds.get(1)?, 3).ok();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match (status, send(&job, &[1], &borrowed)) {
            (Some(status), Ok(())) => Some((pid, process, job, status)),
            _ => {
                _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
                _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                None
            }
        }
    });
    match handed {
        Some((pid, process, job, status)) => Some(Running {
            pid,
            process,
            status,
            job: Some(job),
            killed: false,
            supervisor,
        }),
        None => {
            supervisor.and_then(Supervisor::end);
            None
        }
    }
}

/// Those of all steps.
pub(super) fn namespaces(config: &Config) -> libc::c_int {
    if config.chroot {
        return 0;
    }
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if config.own_pids {
        namespaces |= libc::CLONE_NEWPID;
    }
    namespaces
}

/// Those of a step.
fn namespaces_of(config: &Config, reach: Reach) -> libc::c_int {
    let mut namespaces = namespaces(config);
    // A step with an uplink makes its own when it has been to the router.
    if reach == Reach::None && !config.chroot {
        namespaces |= libc::CLONE_NEWNET;
    }
    namespaces
}

/// Hands on a signal, of which the message is the number. A reaper, of which one stands between zygote and step where
/// there are no pid namespaces, takes SIGTERM alone.
fn pass_on(config: &Config, step: &Running, message: &[u8]) {
    let signal = message
        .first()
        .and_then(|n| Signal::from_named_raw(i32::from(*n)));
    match (config.own_pids, signal) {
        // A process that has ended needs none.
        (true, Some(signal)) => drop(rustix::process::pidfd_send_signal(&step.process, signal)),
        (false, Some(Signal::INT | Signal::TERM | Signal::HUP)) => kill(config, step),
        _ => {}
    }
}

fn kill(config: &Config, step: &Running) {
    // A reaper ends its step itself, then itself. A process that has ended is what was wanted.
    let signal = match config.own_pids {
        true => Signal::KILL,
        false => Signal::TERM,
    };
    _ = rustix::process::pidfd_send_signal(&step.process, signal);
}

fn start(
    config: &Config,
    reach: Reach,
    link: Option<Link<'_>>,
    security: Security,
    fds: Vec<OwnedFd>,
) -> Option<Running> {
    let forked = supervisor(config)
        .and_then(|supervised| Ok((supervised, sys::fork(namespaces_of(config, reach))?)));
    match forked {
        Ok(((supervisor, _), Fork::Parent(pid, process))) => Some(Running {
            pid,
            process,
            status: fds.into_iter().nth(1)?,
            job: None,
            killed: false,
            supervisor,
        }),
        Ok(((_, socket), Fork::Child)) => match config.own_pids {
            true => {
                let prepared = child::prepare(config, reach, link, security, Inherited::Nothing);
                carry_out(config, prepared, fds, socket)
            }
            false => reaper::run(config, reach, security, fds, socket),
        },
        Err(e) => {
            let status = fds.into_iter().nth(1)?;
            tell(&status, &not_started(&e));
            tell(&status, &Report::Gone { code: 1, signal: 0 });
            None
        }
    }
}

pub(super) fn not_started(error: &io::Error) -> Report {
    Report::Failed {
        failure: Failure::Setup {
            doing: "start a process for the step".to_owned(),
            hint: None,
            errno: error.raw_os_error().unwrap_or(0),
        },
    }
}

/// A value that was sent as a file.
fn read<T: Wire>(payload: OwnedFd) -> io::Result<T> {
    let mut bytes = Vec::new();
    File::from(payload).read_to_end(&mut bytes)?;
    Ok(wire::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?)
}

/// Nobody listens any more if this fails.
pub(super) fn tell(status: &OwnedFd, report: &Report) {
    _ = send(status, &wire::encode(report), &[]);
}

/// The child's side of a step: payload, status, standard output, standard error and perhaps input are in `fds`.
pub(super) fn carry_out(
    config: &Config,
    prepared: Result<child::Prepared, Failure>,
    fds: Vec<OwnedFd>,
    supervisor: Option<OwnedFd>,
) -> ! {
    let mut fds = fds.into_iter();
    let (Some(payload), Some(status), Some(stdout), Some(stderr)) =
        (fds.next(), fds.next(), fds.next(), fds.next())
    else {
        sys::exit_child(1);
    };
    let standard = Standard {
        stdin: fds.next(),
        stdout,
        stderr,
    };
    let report = match (prepared, read::<(Step, Option<PathBuf>)>(payload)) {
        (Ok(prepared), Ok((step, cgroup))) => {
            if step.init {
                let netns = prepared.netns();
                let fds: Vec<BorrowedFd<'_>> = netns.iter().map(AsFd::as_fd).collect();
                // As with `tell`.
                _ = send(&status, &wire::encode(&Report::Inside), &fds);
            }
            Report::Failed {
                failure: child::run(config, prepared, step, cgroup, &standard, supervisor),
            }
        }
        (Err(failure), _) => Report::Failed { failure },
        (_, Err(error)) => not_started(&error),
    };
    tell(&status, &report);
    sys::exit_child(1);
}

/// Reports and forgets a step whose process has ended, and so all of its processes.
fn reap(step: &mut Running, uplink: &mut Uplink) -> bool {
    match rustix::process::waitid(WaitId::Pid(step.pid), WaitIdOptions::EXITED) {
        Ok(Some(ended)) => {
            let (code, signal) = ending(&ended);
            step.supervisor.take().and_then(Supervisor::end);
            tell(&step.status, &Report::Gone { code, signal });
            // There is nobody at the other end who could keep this waiting.
            if let Some(job) = step.job.take()
                && let Ok(Some((_, fds))) = receive::<SHORT>(&job)
            {
                fds.into_iter().for_each(|netns| uplink.keep(netns));
            }
            true
        }
        Ok(None) | Err(_) => false,
    }
}

pub(super) fn ending(status: &WaitIdStatus) -> (i32, i32) {
    (
        status.exit_status().unwrap_or(0),
        status.terminating_signal().unwrap_or(0),
    )
}
