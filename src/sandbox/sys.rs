//! System calls that rustix does not have, or has only as unsafe functions; with `supervise/kernel.rs` all the
//! `unsafe` there is.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::thread::UnshareFlags;

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    /// The child.
    Child,
    /// The parent, with the child's id in the parent's pid namespace and its pidfd.
    Parent(Pid, OwnedFd),
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Whether the process has one thread. A thread that was joined may still be counted for a moment.
pub(super) fn single_threaded() -> io::Result<bool> {
    // A directory's link count is 2 and one for each directory in it (proc(5), /proc/pid/task).
    let tasks = rustix::fs::stat("/proc/self/task")?;
    Ok(tasks.st_nlink == 3)
}

/// Makes a copy of the process in new namespaces, `CLONE_NEW…` bits in `namespaces`. Fails with `EDEADLK` in a process
/// with threads, whose locks the copy would hold for ever.
///
/// clone(2) and not clone3(2), which container runtimes answer with `ENOSYS`.
pub(super) fn fork(namespaces: libc::c_int) -> io::Result<Fork> {
    if !single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let flags = (namespaces | libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_ulong;
    let mut pidfd: RawFd = -1;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM and with no stack this is fork: the child goes on with a copy of this memory, in which
    // no other thread can hold a lock. The kernel writes the pidfd to the third argument on all architectures
    // (clone(2), "C library/kernel differences"); the last two are not used by these flags.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none)
    })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    let pid = Pid::from_raw(pid as i32).expect("clone returned a positive id");
    if pidfd < 0 {
        // Before Linux 5.2, which takes no notice of the flag, and has none of the calls that mount by descriptors either.
        _ = rustix::process::kill_process(pid, Signal::KILL);
        _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent(pid, pidfd))
}

/// Whether this process is in execve(2), for the one whose memory it uses.
static EXECUTES: AtomicBool = AtomicBool::new(false);

/// The stack of processes that use this one's memory, one after another.
pub(super) struct Stack {
    top: *mut libc::c_void,
}

impl Stack {
    /// Of a usual size. It stays for as long as this process does.
    pub(super) fn new() -> io::Result<Self> {
        const SIZE: usize = 2 << 20;
        const GUARD: usize = 64 << 10;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping, where nothing is.
        let bottom = unsafe { libc::mmap(none, SIZE, access, kind, -1, 0) };
        if bottom == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the lowest part of what has just been mapped, in which nothing is. Stacks grow towards it.
        checked(libc::c_long::from(unsafe {
            libc::mprotect(bottom, GUARD, libc::PROT_NONE)
        }))?;
        let top = bottom.wrapping_byte_add(SIZE);
        Ok(Self { top })
    }
}

/// What a process that uses this one's memory begins with.
struct Shared<'a> {
    child: &'a mut dyn FnMut(Pid),
    pid: libc::pid_t,
}

extern "C" fn begin(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: this is what `share` has given, which waits until this process is done with it.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    let pid = Pid::from_raw(shared.pid).expect("the kernel has given it an id");
    (shared.child)(pid);
    // It should have ended, or be another program.
    1
}

/// Runs `child` in a child of this process' parent, in new namespaces, with this process' memory and a stack of its own, and
/// waits until it ends or executes a program. Says whether it did the latter: one that ended in any other way may have been
/// killed in the middle of anything, and this memory must not be used for more than ending, too.
///
/// `child` gets its id in the pid namespace of this process, which has one thread. What it has is a copy but for the memory,
/// of which it frees nothing that it does not free itself.
pub(super) fn share(
    stack: &Stack,
    namespaces: libc::c_int,
    child: &mut dyn FnMut(Pid),
) -> io::Result<bool> {
    // No signal handler runs in either process: they are as `reset_signals` has left them.
    let sharing = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT;
    let flags = namespaces | sharing | libc::CLONE_PARENT_SETTID;
    EXECUTES.store(false, Ordering::Relaxed);
    let mut shared = Shared { child, pid: 0 };
    let shared = &raw mut shared;
    // SAFETY: with CLONE_VFORK this process, which has one thread, is not run until the child has left its memory, so it is
    // as if it had called `begin` itself. The stack is used by nobody else. `shared` outlives the call, and the kernel writes
    // the id into it before the child runs.
    checked(libc::c_long::from(unsafe {
        libc::clone(
            begin,
            stack.top,
            flags,
            shared.cast::<libc::c_void>(),
            &raw mut (*shared).pid,
        )
    }))?;
    Ok(EXECUTES.load(Ordering::Relaxed))
}

/// Ends a forked child at once: nothing of the parent's is flushed or dropped twice.
pub(super) fn exit_child(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends the process with success and without more ado. The end that the C library knows has the allocator give its memory
/// back piece by piece, which is a fifth of an unchanged build; the kernel takes it all at once.
pub fn succeed() -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(0) }
}

/// Moves the process into new namespaces.
pub(super) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only CLONE_FILES can hurt, and it is not asked for.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Replaces the process; returns only why it could not.
pub(super) fn exec(path: &CString, argv: &[CString], envp: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        let end = std::iter::once(std::ptr::null());
        list.iter().map(|s| s.as_ptr()).chain(end).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    EXECUTES.store(true, Ordering::Relaxed);
    // SAFETY: both lists end in a null pointer, and they and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    EXECUTES.store(false, Ordering::Relaxed);
    io::Error::last_os_error()
}

/// Makes the standard stream `to` (0, 1 or 2) what `fd` is, which is none of them.
pub(super) fn dup_to(fd: impl AsFd, to: RawFd) -> io::Result<()> {
    debug_assert!((0..3).contains(&to) && fd.as_fd().as_raw_fd() > 2);
    // SAFETY: no owner closes a standard stream, so none is surprised by what it has become.
    let result = unsafe { libc::dup2(fd.as_fd().as_raw_fd(), to) };
    checked(libc::c_long::from(result))?;
    Ok(())
}

/// A copy of `fd` that is not one of the first three descriptors.
pub(super) fn above_standard(fd: impl AsFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// Lets every descriptor from 3 on close when the process executes another program.
pub(super) fn close_others_on_exec() {
    // SAFETY: changes a flag of descriptors, and nothing in memory.
    unsafe { close_range(3, libc::CLOSE_RANGE_CLOEXEC) }
}

/// close_range(2), or what comes to the same.
///
/// # Safety
/// Without `CLOSE_RANGE_CLOEXEC` in `flags` nobody may use or drop an owner of such a descriptor again.
pub(super) unsafe fn close_range(first: RawFd, flags: libc::c_uint) {
    // SAFETY: no memory is touched, and the descriptors are the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            flags,
        )
    };
    if done == 0 {
        return;
    }
    // Before Linux 5.9, with the flag 5.11, or not known to a container's filter. What is not open is not hurt.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let end = limit.current.map_or(1 << 16, |end| end.min(1 << 16));
    for fd in first..end as RawFd {
        // SAFETY: as above.
        unsafe {
            match flags & libc::CLOSE_RANGE_CLOEXEC {
                0 => libc::close(fd),
                _ => libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC),
            }
        };
    }
}

/// Default action for all signals, none blocked: execve(2) keeps what is ignored, and Rust's runtime ignores SIGPIPE.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours. It fails, without effect, for SIGKILL, SIGSTOP and the two signals
        // the C library keeps to itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: sigset_t is plain data that sigemptyset fills in.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Sets attributes of the mount that `path` below `at` is the root of (an empty path: `at` itself), and of the mounts
/// below it.
pub(super) fn set_mount_attributes(
    at: impl AsFd,
    path: &str,
    set: MountAttrFlags,
) -> io::Result<()> {
    let path = CString::new(path)?;
    let attributes = libc::mount_attr {
        attr_set: u64::from(set.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes outlive the call, and the size is that of the attributes.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Installs a seccomp filter without no_new_privs, which takes CAP_SYS_ADMIN in the user namespace.
pub(super) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which outlives the call, and does not write to it.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })?;
    Ok(())
}

/// Brings up the loopback device of the network namespace.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain data; zeroes are a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and this one outlives the call.
    checked(libc::c_long::from(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    }))?;
    Ok(())
}

/// Leaves the session keyring, with the keys the user has in it, for a new and empty one.
pub(super) fn new_session_keyring() -> io::Result<()> {
    // SAFETY: the null pointer stands for a name; no memory is touched.
    checked(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    })?;
    Ok(())
}

/// What a process is kept from that is not in the same scope (landlock(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope {
    /// Connecting to its abstract sockets.
    pub(super) sockets: bool,
    /// Sending it signals.
    pub(super) signals: bool,
}

/// Begins a scope of this process and its descendants (Linux 6.12). Without rules about files it leaves mounting as it is.
/// An older kernel is let be.
pub(super) fn begin_scope(scope: Scope) -> io::Result<()> {
    // LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL (linux/landlock.h).
    let scoped = u64::from(scope.sockets) | u64::from(scope.signals) << 1;
    if scoped == 0 {
        return Ok(());
    }
    // struct landlock_ruleset_attr: rights to files, rights to ports, what is scoped.
    let attributes = [0_u64, 0, scoped];
    // SAFETY: the attributes outlive the call, and the size is theirs.
    let ruleset = checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of_val(&attributes),
            0,
        )
    });
    let ruleset = match ruleset.map_err(|e| e.raw_os_error()) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as RawFd) },
        Err(Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::E2BIG | libc::EINVAL | libc::EPERM)) => {
            return Ok(());
        }
        Err(_) => return Err(io::Error::last_os_error()),
    };
    // SAFETY: takes a descriptor that is open, and no memory.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

/// Sets a resource limit, `resource` a `RLIMIT_…` number.
pub(super) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the limit outlives the call; a null pointer asks for no old value.
    checked(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data that sigemptyset fills in; a number that is no signal is refused without effect.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Keeps signals back until [`next_signal`] takes them.
pub(super) fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set outlives the call; a null pointer asks for no old mask.
    checked(libc::c_long::from(unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    }))?;
    Ok(())
}

/// Waits for one of `signals`, which are blocked.
pub(super) fn next_signal(signals: &[libc::c_int]) -> io::Result<libc::c_int> {
    let set = set_of(signals);
    loop {
        // SAFETY: the set outlives the call; a null pointer asks for nothing but the number.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        match checked(libc::c_long::from(signal)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(signal),
        }
    }
}

/// Closes every descriptor from 3 on, for a process that uses none from then on and ends by [`exit_child`].
pub(super) fn close_all_but_standard() {
    // SAFETY: their owners are never used again, nor dropped.
    unsafe { close_range(3, 0) }
}

/// What [`note_number`] writes to.
static NUMBERS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_number(signal: libc::c_int) {
    let number = signal as u8;
    // SAFETY: as in `note_signal`; the buffer has one byte.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(
            NUMBERS.load(Ordering::Relaxed),
            (&raw const number).cast(),
            1,
        );
        *errno = before;
    }
}

/// A pipe that the number of each of `signals` is written to, as a byte, when it comes.
pub(super) fn signal_numbers(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (numbers, note) = rustix::pipe::pipe_with(flags)?;
    // Never closed: a signal may come at any time.
    NUMBERS.store(std::os::fd::IntoRawFd::into_raw_fd(note), Ordering::Relaxed);
    for &signal in signals {
        handle(signal, note_number, libc::SA_RESTART)?;
    }
    Ok(numbers)
}

fn handle(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int),
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the handlers of this file only do what signal-safety(7) allows.
    checked(libc::c_long::from(unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    }))?;
    Ok(())
}

/// What the system does at these signals when nobody says anything.
pub(super) fn default_signals(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(_: libc::c_int) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe, the buffer has the eight bytes an eventfd takes. errno is left as it was
    // for the code that was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(
            SIGNALLED.load(Ordering::Relaxed),
            one.as_ptr().cast(),
            one.len(),
        );
        *errno = before;
    }
}

/// An eventfd that becomes readable when one of `signals` comes. If `once`, a signal that comes again has its default
/// action. Asked again, it leaves the old eventfd unused.
pub(super) fn signal_event(signals: &[libc::c_int], once: bool) -> io::Result<OwnedFd> {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    // The handler's copy is never closed: a signal may come at any time.
    let kept = rustix::io::fcntl_dupfd_cloexec(&event, 3)?;
    SIGNALLED.store(std::os::fd::IntoRawFd::into_raw_fd(kept), Ordering::Relaxed);
    for &signal in signals {
        let reset = if once { libc::SA_RESETHAND } else { 0 };
        handle(signal, note_signal, libc::SA_RESTART | reset)?;
    }
    Ok(event)
}
