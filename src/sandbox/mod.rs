//! Runs the process of a RUN step, without root, in namespaces of its own; the only home of `unsafe`.
//!
//! It knows directories and processes; what a layer, an image or a cache mount is, its caller knows. It keeps nothing
//! on disk but owners of files, where there is one id ([`supervise`]).
//!
//! What a step's platform is matters only to [`foreign`]: emulators for programs of other architectures.
//!
//! [`enter`] moves the calling process, which must not have started a thread, into a user and a mount namespace, and
//! starts the [`zygote`]; then [`Sandbox::run`] may be called from any number of threads. `main` must hand its
//! arguments to [`zygote_main_if_asked`] before anything else, since the zygote is this program. [`probe`] tells what
//! works here and what would mend the rest.
//!
//! ```text
//! builder      user + mount namespace; the ids of the rung
//! └ zygote     + pid namespace, of which it is process 1
//!   ├ uplink   + pid namespace: the network of all steps ([`uplink`])
//!   ├ makers   which begin steps before these come ([`maker`])
//!   └ step     + mount, pid, IPC, UTS, perhaps network namespace; process 1 is the step's own
//! ```
//!
//! The ladder: with ranges of ids ([`Rung::Full`]; as root, all ids there are, each mapped to itself), with the
//! caller's own id alone ([`Rung::Single`]), or not at all. Where it is asked for, root makes do with chroot(2)
//! ([`Rung::Chroot`]).
//!
//! What always holds, but for the second and third on [`Rung::Chroot`], where there are no namespaces:
//! - A step outlives neither its `run` nor the builder, however either ends. Nor does one of its processes.
//! - In [`Security::Sandbox`] docker's capabilities, seccomp filter, masked and read-only paths hold, as root too:
//!   otherwise a step without any capability could write `/proc/sys/kernel/core_pattern`, which uid 0 owns. They hold in
//!   user namespaces that a step makes, which docker's filter refuses and [`Settings::nested`] allows.
//! - A step sees no file of the host but what it is given; nothing is written to its root's `upper` but by itself.
//! - no_new_privs stays off: su, sudo and ping work.

mod attributes;
mod caps;
mod cgroup;
mod child;
mod chroot;
mod error;
mod foreign;
mod ground;
mod kernelfs;
mod machine;
mod maker;
mod mounts;
mod oom;
mod points;
mod probe;
mod publish;
mod reaper;
mod rootfs;
mod seccomp;
mod step;
mod supervise;
mod sys;
mod terminal;
mod uplink;
mod userns;
mod wire;
mod zygote;

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use rbuild_llb::Platform;
use rbuild_llb::cancel::CancelToken;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

pub use error::SandboxError;
pub use foreign::Foreign;
pub use probe::Finding;
pub use probe::Report;
pub use probe::State;
pub use probe::probe;
pub use publish::Port;
pub use publish::Published;
pub(crate) use rootfs::MAX_LOWERS;
pub use step::HOST_GATEWAY;
pub use step::Mount;
pub use step::MountSource;
pub use step::Network;
pub use step::Root;
pub use step::Security;
pub use step::Stdin;
pub use step::Step;
pub use step::Ulimit;
pub use sys::succeed;
pub use terminal::Size;
pub use zygote::zygote_main_if_asked;

use cgroup::Cgroups;
use cgroup::Group;
use child::Config;
use child::Standard;
use chroot::Furnished;
use chroot::Given;
use foreign::Arranged;
use points::Points;
use step::Reach;
use terminal::Carrier;
use userns::EnterError;
use userns::Ids;
use wire::Blob;
use zygote::Zygote;

/// What holds for all steps of a build.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A PEM bundle that steps are given and told of by the usual variables.
    pub ca: Option<PathBuf>,
    /// Where [`probe`] makes a private directory to try out mounts, if there is no place for a store.
    pub temp_dir: PathBuf,
    /// The store: uppers are on its file system.
    pub store: PathBuf,
    /// Whether overlayfs is to be used; `None` if it works.
    pub overlay: Option<bool>,
    /// Whether steps run without namespaces, kept apart by chroot(2) alone.
    pub chroot: bool,
    /// Whether steps may have user namespaces of their own, where there are ranges of ids ([`Rung::Full`]).
    pub nested: bool,
    /// What steps are for, and where emulators are.
    pub foreign: Foreign,
}

impl Settings {
    /// For who runs nothing, and is inside to reach files of all ids in the store.
    pub fn without_steps(store: &Path, temp_dir: &Path) -> Self {
        Self {
            ca: None,
            temp_dir: temp_dir.to_owned(),
            store: store.to_owned(),
            overlay: Some(true),
            chroot: false,
            nested: false,
            foreign: Foreign::default(),
        }
    }
}

/// Whether roots are made by [`Root::Overlay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacking {
    /// It was asked for.
    Must,
    /// As far as is known. A step may be refused it all the same, with [`SandboxError::Overlay`], before anything of it
    /// has run.
    May,
    /// They are directories.
    Cannot,
}

/// Which ids there are in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Ranges of ids: chown, su and package managers work.
    Full,
    /// One id: files can belong to nobody else. Owners and ids are recorded and answered by a supervisor.
    Single,
    /// There is no user namespace, and was to be none: steps run with chroot(2) alone, one at a time.
    Chroot,
    /// There is no user namespace: no steps.
    None,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel killed it, or a process of it, for want of memory.
    OutOfMemory {
        /// Its limit, in bytes, if it had one and that was the reason.
        limit: Option<u64>,
    },
}

/// Where output was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What the steps of [`Network::Default`] have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// Network namespaces of their own, connected by this program.
    Own(String),
    /// The builder's network, and why.
    Shared(String),
}

/// This process is inside; steps can run.
pub struct Sandbox {
    zygote: Zygote,
    /// Steps see processes of the builder, as they have no `/proc` of their own.
    shares_pids: bool,
    rung: Rung,
    domain: String,
    remark: Option<String>,
    stacking: Stacking,
    /// Files that are mounted in every step.
    files: Vec<&'static str>,
    oom: oom::Counter,
    cgroups: Cgroups,
    foreign: Arranged,
    uplink: OnceLock<Uplink>,
    /// Where the zygote says how the uplink's start went, if it was asked to start it.
    connecting: Mutex<Option<OwnedFd>>,
    /// Ports that lead to such a step.
    published: OnceLock<Published>,
    /// Steps that will come, as far as is known.
    expected: AtomicUsize,
    /// Of [`Rung::Chroot`]: what is mounted in a step is moved there, so there is one at a time.
    turn: Mutex<()>,
    /// Of [`Rung::Chroot`]: what every step is given.
    given: Given,
}

/// What [`Sandbox::domain`] will be if [`enter`] is granted all it asks for.
pub fn expected_domain() -> String {
    userns::expected_domain()
}

/// Moves this process into a user namespace and gets ready to run steps.
///
/// The process must have one thread (a thread that was joined less than 100 ms ago is waited for). On error it may be
/// inside all the same, and cannot go on to do other work.
pub fn enter(settings: &Settings) -> Result<Sandbox, SandboxError> {
    let failed = |doing| move |source| SandboxError::Zygote { doing, source };
    // What is relative now, or behind a link, may be elsewhere later.
    let ca = settings
        .ca
        .as_ref()
        .map(std::path::absolute)
        .transpose()
        .map_err(failed("find the CA bundle"))?;
    let resolv_conf = rootfs::resolv_conf(|path| std::fs::read(path).ok());
    let oom = oom::Counter::new();
    let cgroups = Cgroups::new();
    let user = rustix::process::geteuid().as_raw();
    if settings.chroot {
        let given = Given {
            resolv_conf,
            ca,
            store: settings.store.clone(),
        };
        let foreign = foreign::arrange(&settings.foreign, false, false)?;
        return enter_chroot(given, oom, cgroups, foreign);
    }
    let ids = match userns::enter(ground::plan(&settings.store)) {
        Ok(ids) => ids,
        Err(EnterError::Threads) => return Err(SandboxError::Threads),
        Err(EnterError::Unshare(source)) => {
            return Err(SandboxError::Unavailable {
                report: probe::no_namespace(&source),
            });
        }
        Err(EnterError::Map(why)) => {
            return Err(SandboxError::Unavailable {
                report: probe::no_map(&why, user),
            });
        }
    };
    mounts::make_private().map_err(|e| SandboxError::Unavailable {
        report: probe::no_mounts(&e.into()),
    })?;
    mounts::may_pivot().map_err(|e| SandboxError::Unavailable {
        report: probe::no_root(&e.into()),
    })?;
    let (rung, remark) = match ids {
        Ids::Full => (Rung::Full, None),
        Ids::Single(why) => (Rung::Single, Some(probe::single_remark(&why, user))),
    };
    if rung == Rung::Single {
        ground::keeps_owners(&settings.store).map_err(|e| SandboxError::Unavailable {
            report: probe::no_owners(&e, &settings.store),
        })?;
    }
    let foreign = foreign::arrange(&settings.foreign, true, rung == Rung::Single)?;
    let domain = userns::domain().map_err(failed("read the id maps"))?;
    let mut files = vec!["/etc/hosts", "/etc/resolv.conf"];
    files.extend(ca.as_ref().map(|_| rootfs::CA_PATH));
    let mut config = Config {
        own_pids: true,
        chroot: false,
        single: rung == Rung::Single,
        // The supervisor takes ids for what they are in the step's own namespace.
        nested: settings.nested && rung == Rung::Full,
        ca,
        resolv_conf: Blob(resolv_conf),
        uplink: None,
    };
    let uplink = OnceLock::new();
    match uplink::Plan::make() {
        Ok(plan) => config.uplink = Some(plan),
        Err(lack) => drop(uplink.set(Uplink::Shared(lack.to_string()))),
    }
    let zygote =
        Zygote::start(&mut config).map_err(failed("start the process that starts steps"))?;
    if !config.own_pids {
        let why = "there are no pid namespaces to end its uplink with the build";
        drop(uplink.set(Uplink::Shared(why.to_owned())));
    }
    Ok(Sandbox {
        zygote,
        shares_pids: !config.own_pids,
        rung,
        domain,
        remark,
        stacking: match settings.overlay {
            Some(true) => Stacking::Must,
            Some(false) => Stacking::Cannot,
            None if ground::stacks(&settings.store) => Stacking::May,
            None => Stacking::Cannot,
        },
        files,
        oom,
        cgroups,
        foreign,
        uplink,
        connecting: Mutex::new(None),
        published: OnceLock::new(),
        expected: AtomicUsize::new(0),
        turn: Mutex::default(),
        given: Given::default(),
    })
}

/// [`enter`] where there are to be no namespaces.
fn enter_chroot(
    given: Given,
    oom: oom::Counter,
    cgroups: Cgroups,
    foreign: Arranged,
) -> Result<Sandbox, SandboxError> {
    if let Err(report) = probe::chroot() {
        return Err(SandboxError::Unavailable { report });
    }
    let mut config = Config {
        own_pids: false,
        chroot: true,
        single: false,
        nested: false,
        ca: given.ca.clone(),
        resolv_conf: Blob(Vec::new()),
        uplink: None,
    };
    let zygote = Zygote::start(&mut config).map_err(|source| SandboxError::Zygote {
        doing: "start the process that starts steps",
        source,
    })?;
    Ok(Sandbox {
        zygote,
        // And all else that is there.
        shares_pids: false,
        rung: Rung::Chroot,
        domain: userns::expected_domain(),
        remark: Some(
            "steps run with chroot(2) alone, without /proc: what needs more than that fails"
                .to_owned(),
        ),
        stacking: Stacking::Cannot,
        files: Vec::new(),
        oom,
        cgroups,
        foreign,
        uplink: OnceLock::from(Uplink::Shared("chroot(2) gives no network".to_owned())),
        connecting: Mutex::new(None),
        published: OnceLock::new(),
        expected: AtomicUsize::new(0),
        turn: Mutex::default(),
        given,
    })
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("rung", &self.rung)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// The rung that holds; never [`Rung::None`].
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Names the id map: files written under one have other owners under another.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What a failed step's message should mention: which ids are missing, why, and how to get them.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// What executes programs of a platform that this machine does not: `qemu-aarch64`.
    pub fn emulator(&self, platform: &Platform) -> Option<&str> {
        self.foreign.emulator(platform)
    }

    /// Whether roots are made by [`Root::Overlay`].
    pub fn stacking(&self) -> Stacking {
        self.stacking
    }

    /// Says that `steps` calls of [`run`](Self::run) will come: what they have in common is then made beforehand. More or
    /// fewer may come.
    ///
    /// If some want the default network, it is got ready as well, without waiting for it.
    pub fn expect(&self, steps: usize, networked: bool) {
        self.expected.store(steps, Relaxed);
        if networked {
            // As below.
            drop(self.connect());
        }
        if steps > 0 {
            // Should the zygote be gone, the first step will say so.
            drop(self.zygote.expect_step());
        }
    }

    /// Has the uplink started, if nobody has.
    fn connect(&self) -> io::Result<()> {
        let mut connecting = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.uplink.get().is_none() && connecting.is_none() {
            *connecting = Some(self.zygote.connect()?);
        }
        Ok(())
    }

    /// The default network. Starts it if [`expect`](Self::expect) has not, and waits until it is known, at most some
    /// seconds; less if `cancel` is cancelled.
    pub fn uplink(&self, cancel: &CancelToken) -> Result<&Uplink, SandboxError> {
        let failed = |doing| move |source| SandboxError::Zygote { doing, source };
        if let Some(uplink) = self.uplink.get() {
            return Ok(uplink);
        }
        self.connect().map_err(failed("ask for the uplink"))?;
        let connecting = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(told) = connecting.as_ref() else {
            return Err(SandboxError::Cancelled);
        };
        if let Some(uplink) = self.uplink.get() {
            return Ok(uplink);
        }
        let waking = rustix::io::fcntl_dupfd_cloexec(told, 3)
            .map_err(|e| failed("wait for the uplink")(e.into()))?;
        let _woken_on_cancel = cancel.on_cancel(move || {
            // It fails if nobody is at the other end, of which the reader learns as well.
            _ = rustix::net::shutdown(&waking, rustix::net::Shutdown::Both);
        });
        let said = zygote::receive::<{ uplink::LONGEST }>(told)
            .map_err(|e| failed("wait for the uplink")(e.into()))?;
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        let outcome = said.and_then(|(bytes, _)| wire::decode(&bytes));
        Ok(self.uplink.get_or_init(|| match outcome {
            Some(uplink::Outcome::Up { program }) => Uplink::Own(program),
            Some(uplink::Outcome::Down { why }) => Uplink::Shared(why),
            None => Uplink::Shared("the process that starts steps is gone".to_owned()),
        }))
    }

    /// Has these ports lead to the process of a step with an [`init`](Step::init).
    pub fn publish(&self, published: Published) {
        drop(self.published.set(published));
    }

    /// Runs a step to its end, handing on what it writes as it comes. When `cancel` is cancelled, the step is killed.
    /// When this returns, all processes of the step have ended.
    pub fn run(
        &self,
        step: &Step,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Exit, SandboxError> {
        if self.shares_pids && step.security == Security::Insecure {
            return Err(SandboxError::Insecure);
        }
        let Root::Directory { path } = &step.root else {
            return self.run_in_root(step, output, cancel);
        };
        if self.rung == Rung::Chroot {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let furnished = Furnished::make(path, step, &self.given)?;
            let ended = self.run_in_root(step, output, cancel);
            let cleared = furnished.clear();
            let ended = ended?;
            cleared?;
            return Ok(ended);
        }
        let points = Points::make(path, step, &self.files)?;
        let ended = self.run_in_root(step, output, cancel);
        points.remove();
        ended
    }

    fn run_in_root(
        &self,
        step: &Step,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Exit, SandboxError> {
        let failed = |doing| move |source| SandboxError::Zygote { doing, source };
        let reach = match step.network {
            Network::Host => Reach::Host,
            Network::None => Reach::None,
            Network::Default => match self.uplink(cancel)? {
                Uplink::Own(_) => Reach::Uplink,
                Uplink::Shared(_) => Reach::Shared,
            },
        };
        let group = self.cgroups.step(&step.limits)?;
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
        let (out, stdout) = pipe().map_err(failed("make a pipe"))?;
        let (err, stderr) = pipe().map_err(failed("make a pipe"))?;
        let mut carrier = None;
        let stdin = match &step.stdin {
            Stdin::Null => Ok(None),
            Stdin::Data(data) => zygote::memory("stdin", data).map(Some),
            Stdin::Own => sys::above_standard(rustix::stdio::stdin())
                .map(Some)
                .map_err(io::Error::from),
            Stdin::Terminal(_) => zygote::pair()
                .map_err(io::Error::from)
                .map(|(ours, theirs)| {
                    carrier = Some(Carrier::new(ours));
                    Some(theirs)
                }),
        };
        let stdin = stdin.map_err(failed("pass standard input"))?;
        let standard = Standard {
            stdin,
            stdout,
            stderr,
        };
        // From now on they are for its process.
        let signals = match step.init {
            true => {
                let numbers = sys::signal_numbers(&child::FORWARDED);
                Some(numbers.map_err(failed("take signals"))?)
            }
            false => None,
        };
        let another = self
            .expected
            .fetch_update(Relaxed, Relaxed, |steps| steps.checked_sub(1));
        let status = self
            .zygote
            .start_step(
                step,
                group.as_ref().map(Group::dir),
                reach,
                &standard,
                another.is_ok_and(|before| before > 1),
            )
            .map_err(failed("ask for a step to be started"))?;
        drop(standard);
        let status = Arc::new(status);
        let killer = Arc::clone(&status);
        let _killed_on_cancel = cancel.on_cancel(move || {
            // It fails if the step has ended, which is what is wanted.
            _ = rustix::net::shutdown(&*killer, rustix::net::Shutdown::Write);
        });
        let mut attached = Attached {
            carrier,
            signals: signals.as_ref(),
            published: self.published.get().filter(|ports| !ports.is_empty()),
        };
        let ended = follow(
            &status,
            [(out, Stream::Stdout), (err, Stream::Stderr)],
            output,
            &mut attached,
        )
        .map_err(failed("follow the step"))?;
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        let exit = match ended {
            Ended::Failed(failure) => return Err(failure.into()),
            Ended::Code(code) => Exit::Code(code),
            Ended::Signal(signal) => Exit::Signal(signal),
        };
        if let Some(limit) = group.as_ref().and_then(Group::killed_for)
            && exit != Exit::Code(0)
        {
            return Ok(Exit::OutOfMemory { limit: Some(limit) });
        }
        // A shell reports a child killed by signal 9 as 137.
        let killed = matches!(exit, Exit::Signal(libc::SIGKILL) | Exit::Code(137));
        Ok(match killed && self.oom.grew() {
            true => Exit::OutOfMemory { limit: None },
            false => exit,
        })
    }
}

/// How a step ended, as the zygote tells it.
enum Ended {
    Failed(error::Failure),
    Code(i32),
    Signal(i32),
}

/// What a step has to do with this process besides its output.
struct Attached<'a> {
    carrier: Option<Carrier>,
    signals: Option<&'a OwnedFd>,
    published: Option<&'a Published>,
}

/// Hands on output until the step is gone.
fn follow(
    status: &OwnedFd,
    streams: [(OwnedFd, Stream); 2],
    output: &mut dyn FnMut(Stream, &[u8]),
    attached: &mut Attached<'_>,
) -> io::Result<Ended> {
    let mut open = streams.map(Some);
    let mut buffer = vec![0; 64 << 10];
    let mut failed = None;
    let mut ended = None;
    let gone = loop {
        let mut polled = vec![PollFd::new(status, PollFlags::IN)];
        for (fd, _) in open.iter().flatten() {
            polled.push(PollFd::new(fd, PollFlags::IN));
        }
        if let Some(signals) = attached.signals {
            polled.push(PollFd::new(signals, PollFlags::IN));
        }
        let own = polled.len();
        let mut carried = Vec::new();
        for (what, fd) in attached.carrier.iter().flat_map(Carrier::polled) {
            carried.push(what);
            polled.push(fd);
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        let mut ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        let carried: Vec<_> = carried.into_iter().zip(ready.split_off(own)).collect();
        if let Some(carrier) = &mut attached.carrier {
            for (what, _) in carried.into_iter().filter(|(_, ready)| *ready) {
                carrier.carry(what, &mut |bytes| output(Stream::Stdout, bytes))?;
            }
        }
        if let Some(signals) = attached.signals
            && ready.pop() == Some(true)
        {
            let mut number = [0_u8];
            if rustix::io::read(signals, &mut number) == Ok(1) {
                match &attached.carrier {
                    Some(carrier) if number == [libc::SIGWINCH as u8] => carrier.resize(),
                    // A step that has ended takes no signal.
                    _ => _ = zygote::send(status, &number, &[]),
                }
            }
        }
        let streams = open.iter_mut().filter(|stream| stream.is_some());
        for (stream, _) in streams.zip(&ready[1..]).filter(|(_, ready)| **ready) {
            read_some(stream, &mut buffer, output)?;
        }
        if !ready[0] {
            continue;
        }
        let (report, fd) = zygote::report(status)?;
        match report {
            zygote::Report::Inside => {
                if let Some(published) = attached.published {
                    published.serve(fd)?;
                }
            }
            zygote::Report::Failed { failure } => failed = Some(failure),
            zygote::Report::Ended { code, signal } => ended = Some((code, signal)),
            zygote::Report::Gone { code, signal } => break (code, signal),
        }
    };
    // Whoever wrote has ended; a descriptor that was sent away must not keep us waiting.
    for stream in &mut open {
        if let Some((fd, _)) = stream {
            rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
        }
        while stream.is_some() && read_some(stream, &mut buffer, output)? {}
    }
    if let Some(carrier) = attached.carrier.take() {
        carrier.finish(&mut |bytes| output(Stream::Stdout, bytes))?;
    }
    Ok(match (failed, ended.unwrap_or(gone)) {
        (Some(failure), _) => Ended::Failed(failure),
        (None, (code, 0)) => Ended::Code(code),
        (None, (_, signal)) => Ended::Signal(signal),
    })
}

/// Reads once; closes the stream at its end. Whether more may come at once.
fn read_some(
    stream: &mut Option<(OwnedFd, Stream)>,
    buffer: &mut [u8],
    output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<bool> {
    let Some((fd, kind)) = stream else {
        return Ok(false);
    };
    match rustix::io::read(fd, &mut *buffer) {
        Ok(0) => {
            *stream = None;
            Ok(false)
        }
        Ok(len) => {
            output(*kind, &buffer[..len]);
            Ok(true)
        }
        Err(Errno::INTR) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// What ends a process, and is to end a build first.
const TERMINATION: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Cancels `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process. Starts a thread: call it after
/// [`enter`].
pub fn on_termination_signals(cancel: &CancelToken) -> io::Result<()> {
    termination_signals(cancel).map(std::mem::forget)
}

/// The same until what it gives is dropped, which ends the thread.
pub fn termination_signals(cancel: &CancelToken) -> io::Result<Signals> {
    let event = Arc::new(sys::signal_event(&TERMINATION, true)?);
    let over = Arc::new(AtomicBool::new(false));
    let (seen, ending) = (Arc::clone(&event), Arc::clone(&over));
    let cancel = cancel.clone();
    let thread = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let read = || rustix::io::read(&seen, &mut [0_u8; 8]);
            if rustix::io::retry_on_intr(read).is_ok() && !ending.load(Ordering::Acquire) {
                cancel.cancel();
            }
        })?;
    Ok(Signals {
        event,
        over,
        thread: Some(thread),
    })
}

/// Termination signals that cancel something.
#[must_use]
pub struct Signals {
    event: Arc<OwnedFd>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Signals {
    fn drop(&mut self) {
        sys::default_signals(&TERMINATION);
        self.over.store(true, Ordering::Release);
        let woken = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        // A thread that cannot be woken ends with the process.
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            drop(thread.join());
        }
    }
}
