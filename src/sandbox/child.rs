//! The process of a step, from its birth to execve(2).

use std::borrow::Cow;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rbuild_cache::Owner;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Uid;
use rustix::io::Errno as Os;
use rustix::process::DumpableBehavior;
use rustix::process::Signal;
use rustix::process::WaitOptions;
use rustix::thread::UnshareFlags;

use super::caps;
use super::cgroup;
use super::chroot;
use super::error::During;
use super::error::Errno;
use super::error::Failure;
use super::kernelfs;
use super::rootfs;
use super::seccomp;
use super::seccomp::Nesting;
use super::step::Reach;
use super::step::Security;
use super::step::Stdin;
use super::step::Step;
use super::step::Ulimit;
use super::supervise;
use super::sys;
use super::sys::Fork;
use super::sys::Scope;
use super::terminal;
use super::uplink;
use super::uplink::Link;
use super::wire::Blob;
use super::wire::wire_struct;

/// What holds for all steps of a build.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// Whether a step gets a pid namespace and a `/proc` of its own.
    pub(super) own_pids: bool,
    /// There are no namespaces at all: a step has a root of its own and nothing else.
    pub(super) chroot: bool,
    /// Only one user id and one group id are mapped.
    pub(super) single: bool,
    /// Whether steps may have user namespaces of their own.
    pub(super) nested: bool,
    /// The CA bundle, on the host.
    pub(super) ca: Option<PathBuf>,
    /// Content of `/etc/resolv.conf`.
    pub(super) resolv_conf: Blob,
    /// The default network, if there is anything to try.
    pub(super) uplink: Option<uplink::Plan>,
}

impl Config {
    /// The address by which a step reaches this machine.
    pub(super) fn host_address(&self, reach: Reach) -> String {
        let outward = self.uplink.as_ref().and_then(uplink::Plan::host);
        match (reach, outward) {
            (Reach::Uplink, Some(address)) => address,
            _ => "127.0.0.1".to_owned(),
        }
    }

    /// What its filter lets a step do.
    pub(super) fn nesting(&self) -> Nesting {
        match self.nested {
            true => Nesting::Allowed,
            false => Nesting::Refused,
        }
    }

    /// Content of a step's `/etc/resolv.conf`.
    pub(super) fn resolv_conf(&self, reach: Reach) -> Cow<'_, [u8]> {
        match &self.uplink {
            Some(plan) if reach == Reach::Uplink => {
                uplink::resolv_conf(&self.resolv_conf.0, plan.resolver()).into()
            }
            _ => self.resolv_conf.0.as_slice().into(),
        }
    }
}

wire_struct!(Config {
    own_pids,
    chroot,
    single,
    nested,
    ca,
    resolv_conf,
    uplink
});

/// Descriptors of the step's process.
pub(super) struct Standard {
    /// Of a step with a terminal the socket that its other end is sent to.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// BuildKit's name for all its steps.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// Docker's, for steps that set none (BuildKit, util/system/path.go).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by which programs find a CA bundle.
const CA_VARIABLES: [&str; 7] = [
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// What a process has from the one that it was cloned from of what it would do itself otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inherited {
    Nothing,
    /// The bounds of its capabilities, in [`Security::Sandbox`].
    Bounds,
    /// Those, and its seccomp filter.
    Filter,
}

/// Has the processes that are cloned from this one, all of them for steps in [`Security::Sandbox`], inherit as much as can
/// be: making the filter takes the kernel longer than the rest of it does.
pub(super) fn bequeath(config: &Config) -> io::Result<Inherited> {
    caps::bound(caps::DEFAULT)?;
    Ok(match config.nesting() {
        // It allows all that it takes to begin a step.
        Nesting::Allowed => {
            sys::install_filter(seccomp::program(Nesting::Allowed))?;
            Inherited::Filter
        }
        Nesting::Refused => Inherited::Bounds,
    })
}

/// A process that has done what every step begins with.
pub(super) struct Prepared {
    /// None without namespaces.
    files: Option<rootfs::Prepared>,
    reach: Reach,
    /// A network namespace of an earlier step that this one could not take over.
    refused: Option<OwnedFd>,
    security: Security,
    inherited: Inherited,
}

impl Prepared {
    /// The network namespaces that other steps may have once this one has ended.
    pub(super) fn netns_for_others(&mut self) -> Vec<OwnedFd> {
        match self.reach {
            Reach::Uplink => self
                .netns()
                .into_iter()
                .chain(self.refused.take())
                .collect(),
            Reach::Shared | Reach::Host | Reach::None => Vec::new(),
        }
    }

    /// The step's network namespace, if it has one of its own.
    pub(super) fn netns(&self) -> Option<OwnedFd> {
        let is_own = self.reach.is_own();
        let files = self.files.as_ref().filter(|_| is_own);
        let own = files.map(|files| files.open_proc("self/ns/net"));
        own.and_then(Result::ok)
    }
}

/// Begins a step in this process, which must be in new mount, IPC and UTS namespaces, and in a new network namespace
/// if `reach` is [`Reach::None`]; if it is [`Reach::Uplink`], by `link`. Its signals have their default actions.
pub(super) fn prepare(
    config: &Config,
    reach: Reach,
    link: Option<Link<'_>>,
    security: Security,
    inherited: Inherited,
) -> Result<Prepared, Failure> {
    rustix::process::setsid().during("start a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if config.chroot {
        if security == Security::Sandbox {
            // A container may not let its root do so, and then has bounds of its own.
            _ = caps::bound(caps::DEFAULT);
        }
        return Ok(Prepared {
            files: None,
            reach,
            refused: None,
            security,
            inherited,
        });
    }
    set_host_name(HOSTNAME)?;
    let proc = kernelfs::proc(config).during("mount /proc")?;
    let refused = match (reach, link) {
        (Reach::None, _) => {
            sys::loopback_up().during("bring up the loopback device")?;
            None
        }
        (Reach::Uplink, Some(link)) => link.join(&proc).during("connect the step to the uplink")?,
        _ => None,
    };
    let files = rootfs::prepare(config, reach, security, &proc)?;
    if security == Security::Sandbox && inherited == Inherited::Nothing {
        caps::bound(caps::DEFAULT).during("limit the capabilities")?;
    }
    Ok(Prepared {
        files: Some(files),
        reach,
        refused,
        security,
        inherited,
    })
}

fn set_host_name(name: &str) -> Result<(), Failure> {
    match rustix::system::sethostname(name.as_bytes()) {
        // A container's seccomp filter may forbid it; the step then sees the container's name.
        Ok(()) | Err(Os::PERM) => Ok(()),
        Err(e) => Err(e).during(format_args!("set the host name `{name}`")),
    }
}

/// Carries out a step, for whose kind this process was prepared. Returns only if the step's program could not be
/// executed.
pub(super) fn run(
    config: &Config,
    prepared: Prepared,
    mut step: Step,
    cgroup: Option<PathBuf>,
    standard: &Standard,
    supervisor: Option<OwnedFd>,
) -> Failure {
    debug_assert_eq!(prepared.security, step.security);
    if step.hostname.is_empty() {
        HOSTNAME.clone_into(&mut step.hostname);
    }
    // Without namespaces it is not process 1, and there is no `/proc` to tell whether it may be copied.
    let leaves = step.init && !config.chroot;
    // While the host's files are still to be seen.
    let joined = cgroup.map_or(Ok(()), |dir| {
        cgroup::join(&dir).during(format_args!("enter the cgroup `{}`", dir.display()))
    });
    let begun = joined.and_then(|()| become_step(config, prepared, &step, standard, supervisor));
    let begun = begun.and_then(|()| match leaves {
        true => leave_to_child().during("start a process for the step"),
        false => Ok(()),
    });
    let begun = begun.and_then(|()| lead(&step, leaves).during("lead the terminal"));
    match begun {
        Ok(()) => exec(config, &step),
        Err(failure) => failure,
    }
}

/// Makes the process of a step that has a terminal the one which that belongs to.
fn lead(step: &Step, left: bool) -> io::Result<()> {
    if let Stdin::Terminal(_) = step.stdin {
        if left {
            // Not in the session of what hands on signals: Ctrl-C would come twice.
            rustix::process::setsid()?;
        }
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    Ok(())
}

/// Goes on in a child of this process, which stays behind as process 1: it hands on signals, collects what ends, and ends
/// as the child does.
fn leave_to_child() -> io::Result<()> {
    let signals = [&FORWARDED[..], &[libc::SIGCHLD]].concat();
    sys::block_signals(&signals)?;
    let child = match sys::fork(0)? {
        Fork::Child => {
            sys::reset_signals();
            return Ok(());
        }
        Fork::Parent(child, _) => child,
    };
    // The step's program may look at what this process has open.
    sys::close_all_but_standard();
    loop {
        match sys::next_signal(&signals) {
            Ok(libc::SIGCHLD) => {}
            Ok(signal) => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    // If it has ended the next turn says so.
                    _ = rustix::process::kill_process(child, signal);
                }
            }
            Err(_) => sys::exit_child(1),
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == child {
                let code = status.exit_status();
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                sys::exit_child(code.or(signal).unwrap_or(1));
            }
        }
    }
}

/// Signals that are the container's and not the builder's, if a person runs one.
pub(super) const FORWARDED: [libc::c_int; 4] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH];

fn become_step(
    config: &Config,
    prepared: Prepared,
    step: &Step,
    standard: &Standard,
    supervisor: Option<OwnedFd>,
) -> Result<(), Failure> {
    let (reach, inherited) = (prepared.reach, prepared.inherited);
    // The container's own, where a step has none.
    let outside = config.chroot.then(|| terminal(step)).transpose()?.flatten();
    match prepared.files {
        Some(files) => {
            if step.hostname != HOSTNAME {
                set_host_name(&step.hostname)?;
            }
            rootfs::enter(config, step, files)?;
        }
        // The name is the container's, and not ours to set.
        None => chroot::enter(step)?,
    }
    let terminal = match outside {
        None if !config.chroot => terminal(step)?,
        made => made,
    };
    let streams = match (&terminal, &standard.stdin) {
        (Some((outer, inner)), Some(socket)) => terminal::send(socket, outer)
            .map_err(io::Error::from)
            .and_then(|()| (0..3).try_for_each(|stream| sys::dup_to(inner, stream))),
        _ => standard_streams(config, standard),
    };
    drop(terminal);
    streams.during("connect the standard streams")?;
    for limit in &step.ulimits {
        set_limit(limit)?;
    }
    enter_working_directory(config, step).map_err(|error| Failure::WorkingDirectory {
        path: step.cwd.clone(),
        errno: error.errno(),
    })?;
    let other = config.single && (step.uid, step.gid) != (0, 0);
    if other {
        map_single(step).during(format_args!("become user {}:{}", step.uid, step.gid))?;
    }
    if let Some(supervisor) = supervisor {
        supervise::begin(supervisor, step).map_err(not_supervised)?;
    }
    // Without namespaces nobody may: it takes power over one, or that nobody gains privileges any more.
    if step.security == Security::Sandbox && !config.chroot {
        let scope = Scope {
            sockets: reach == Reach::Shared,
            // The step's user may be the builder's.
            signals: !config.own_pids,
        };
        sys::begin_scope(scope).during("close what is outside to the step")?;
    }
    if step.security == Security::Sandbox {
        // Before CAP_SYS_ADMIN is given up, so that no_new_privs, which breaks su and sudo, need not be set.
        let installed = match inherited {
            Inherited::Filter => Ok(()),
            _ => sys::install_filter(seccomp::program(config.nesting())),
        };
        match installed {
            // Without namespaces there is none to be given up, and the container's own filter holds.
            Err(error) if config.chroot && error.raw_os_error() == Some(libc::EACCES) => {}
            installed => installed.during("install the seccomp filter")?,
        }
        if other {
            // A user namespace begins with all capabilities in the bounding set.
            caps::bound(caps::DEFAULT).during("limit the capabilities")?;
        }
    }
    if !other {
        become_user(config, step)?;
    }
    // What this process still has open is not for those who have the same capabilities, and may see it where process ids
    // are shared. execve(2) takes that back.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during("hide from other steps")?;
    caps::limit(caps::of(step.security, step.uid)).during("drop capabilities")?;
    sys::close_others_on_exec();
    Ok(())
}

/// Both ends of the step's terminal, if it is to have one.
fn terminal(step: &Step) -> Result<Option<(OwnedFd, OwnedFd)>, Failure> {
    let Stdin::Terminal(size) = step.stdin else {
        return Ok(None);
    };
    let made = terminal::make(size, (step.uid, step.gid));
    made.map(Some).during("make a terminal")
}

fn not_supervised(error: io::Error) -> Failure {
    Failure::Setup {
        doing: "have the owners of files kept".to_owned(),
        hint: supervise::fix(&error).map(str::to_owned),
        errno: error.errno(),
    }
}

fn standard_streams(config: &Config, standard: &Standard) -> io::Result<()> {
    match &standard.stdin {
        Some(stdin) => sys::dup_to(stdin, 0)?,
        // The step's own may be missing. This process has the zygote's, which is one.
        None if config.chroot => {}
        None => {
            let null =
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            sys::dup_to(null, 0)?;
        }
    }
    sys::dup_to(&standard.stdout, 1)?;
    sys::dup_to(&standard.stderr, 2)
}

/// Makes it if it is missing, with what is missing above it, as BuildKit and docker do: LLB has working directories that no
/// step makes.
fn enter_working_directory(config: &Config, step: &Step) -> io::Result<()> {
    match rustix::process::chdir(&step.cwd) {
        Err(rustix::io::Errno::NOENT) => {}
        entered => return Ok(entered?),
    }
    let mut above = PathBuf::from("/");
    for part in step.cwd.components() {
        above.push(part);
        match std::fs::create_dir(&above) {
            Ok(()) => {}
            // A file, or a link to nothing, is in the way.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&above, mode)?;
        match config.single {
            true => Owner::of(step.uid, step.gid).record(&above)?,
            false => std::os::unix::fs::chown(&above, Some(step.uid), Some(step.gid))?,
        }
    }
    Ok(rustix::process::chdir(&step.cwd)?)
}

fn set_limit(limit: &Ulimit) -> Result<(), Failure> {
    let doing = format!("set the limit {}={}:{}", limit.name, limit.soft, limit.hard);
    let resource = match limit.name.as_str() {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)).during(doing),
    };
    // -1 is RLIM_INFINITY, all bits set. musl's numbers are signed.
    sys::set_limit(resource as _, limit.soft as u64, limit.hard as u64).map_err(|e| {
        Failure::Setup {
            doing,
            hint: (e.errno() == libc::EPERM).then(|| {
                "only root can raise a hard limit: raise that of the shell that starts rbuild"
                    .to_owned()
            }),
            errno: e.errno(),
        }
    })
}

/// Takes on the step's ids. setresuid(2) to another user than 0 comes last, since it leaves no capability.
fn become_user(config: &Config, step: &Step) -> Result<(), Failure> {
    let ids = || {
        // A single id has no groups, and the kernel forbids to set any.
        if !config.single {
            let groups: Vec<Gid> = step.groups.iter().copied().map(Gid::from_raw).collect();
            rustix::thread::set_thread_groups(&groups)?;
        }
        let (uid, gid) = (Uid::from_raw(step.uid), Gid::from_raw(step.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    };
    ids().map_err(|e| Failure::Setup {
        doing: format!("become user {}:{}", step.uid, step.gid),
        hint: (e == Os::INVAL)
            .then(|| "the id is outside of the ranges in /etc/subuid and /etc/subgid".to_owned()),
        errno: e.errno(),
    })
}

/// With one id mapped, another user is that id seen through one more user namespace, in which all our files are the
/// step's own. Its capability sets begin full again, so this comes before they are limited.
fn map_single(step: &Step) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/uid_map", format!("{} 0 1", step.uid))?;
    std::fs::write("/proc/self/gid_map", format!("{} 0 1", step.gid))
}

/// Executes the step's program.
fn exec(config: &Config, step: &Step) -> Failure {
    let env = environment(step, config.ca.is_some());
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes())
        .to_owned();
    let command = step.args.first().cloned().unwrap_or_default();
    let strings = |list: &[OsString]| -> Result<Vec<CString>, std::ffi::NulError> {
        list.iter().map(|s| CString::new(s.as_bytes())).collect()
    };
    let (argv, envp) = match (strings(&step.args), strings(&env)) {
        (Ok(argv), Ok(envp)) => (argv, envp),
        _ => {
            return Failure::NotExecutable {
                path: command.into(),
                errno: libc::EINVAL,
            };
        }
    };
    search(&command, &path, |candidate| {
        sys::exec(candidate, &argv, &envp)
    })
}

/// As execvp(3) searches, but an error other than "not there" is told of the file it concerns.
fn search(command: &OsStr, path: &[u8], execute: impl Fn(&CString) -> io::Error) -> Failure {
    let not_found = |path| Failure::NotFound {
        command: command.to_owned(),
        path,
    };
    let failed = |path: &[u8]| -> Option<Failure> {
        let errno = execute(&CString::new(path).ok()?).errno();
        let path = PathBuf::from(OsString::from_vec(path.to_owned()));
        // Present all the same: what is not there is the interpreter.
        let absent = matches!(errno, libc::ENOENT | libc::ENOTDIR)
            && rustix::fs::access(&path, rustix::fs::Access::EXISTS).is_err();
        (!absent).then_some(Failure::NotExecutable { path, errno })
    };
    if command.is_empty() {
        return not_found(None);
    }
    if command.as_bytes().contains(&b'/') {
        return failed(command.as_bytes()).unwrap_or_else(|| not_found(None));
    }
    let mut first = None;
    for dir in path.split(|&b| b == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        match failed(&[dir, b"/", command.as_bytes()].concat()) {
            None => {}
            Some(Failure::NotExecutable {
                path,
                errno: errno @ libc::EACCES,
            }) => {
                first.get_or_insert(Failure::NotExecutable { path, errno });
            }
            Some(failure) => return failure,
        }
    }
    first.unwrap_or_else(|| not_found(Some(String::from_utf8_lossy(path).into_owned())))
}

/// The step's environment, with the names of the CA bundle it does not set itself.
fn environment(step: &Step, ca: bool) -> Vec<OsString> {
    let mut env = step.env.clone();
    if !ca {
        return env;
    }
    for name in CA_VARIABLES {
        let set = |e: &OsString| {
            e.as_bytes()
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"="))
        };
        if !step.env.iter().any(set) {
            env.push(format!("{name}={}", rootfs::CA_PATH).into());
        }
    }
    env
}
