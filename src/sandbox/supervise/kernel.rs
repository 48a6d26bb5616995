//! The system calls of a supervisor that rustix does not have; with [`super::super::sys`] the only `unsafe` code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;

use super::super::sys;
use super::stat::STAT;
use super::stat::STATX;

/// Has the kernel wake the supervisor on the caller's processor: a question takes 6 µs then, and up to 66 µs otherwise
/// (linux/seccomp.h, since 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// A call that waits for an answer.
pub(super) struct Question {
    pub(super) id: u64,
    /// The thread that made it, as this process' pid namespace numbers it.
    pub(super) tid: i32,
    pub(super) number: i32,
    pub(super) args: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel carries it out.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
}

/// The supervisor's end of a seccomp filter.
pub(super) struct Listener(OwnedFd);

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Listener {
    pub(super) fn new(fd: OwnedFd) -> Self {
        // SAFETY: the flags are a number, no memory is touched. An older kernel refuses, and is slower.
        unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _,
                SYNC_WAKE_UP,
            );
        }
        Self(fd)
    }

    /// The next question; nothing if whoever asked it is gone.
    pub(super) fn next(&self) -> io::Result<Option<Question>> {
        // SAFETY: plain data, and the kernel wants zeroes.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a `seccomp_notif`, whose size is in the request's number.
        let received = checked(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV as _,
                &raw mut asked,
            )
        });
        match received {
            Ok(_) => Ok(Some(Question {
                id: asked.id,
                tid: asked.pid as i32,
                number: asked.data.nr,
                args: asked.data.args,
            })),
            Err(e) => match e.raw_os_error() {
                // ENOENT: its thread was killed between the wake-up and now.
                Some(libc::EINTR | libc::ENOENT) => Ok(None),
                _ => Err(e),
            },
        }
    }

    /// Whether the call still waits, so that its thread's number is not somebody else's by now.
    pub(super) fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads an id.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _,
                &raw const id,
            )
        };
        result == 0
    }

    /// Answers. It is nobody's loss if the caller is gone.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        let (val, error, flags) = match answer {
            Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -errno, 0),
        };
        let response = libc::seccomp_notif_resp {
            id,
            val,
            error,
            flags,
        };
        // SAFETY: the kernel reads a `seccomp_notif_resp`, whose size is in the request's number.
        unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND as _,
                &raw const response,
            );
        }
    }

    /// Gives the caller a descriptor of what `fd` is; its number there.
    pub(super) fn give(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> io::Result<i32> {
        let given = libc::seccomp_notif_addfd {
            id,
            flags: 0,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the kernel reads a `seccomp_notif_addfd`, whose size is in the request's number.
        checked(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD as _,
                &raw const given,
            )
        })
    }
}

/// Installs a filter whose questions come to the descriptor that is returned. It takes CAP_SYS_ADMIN in the user
/// namespace.
pub(in crate::sandbox) fn install_listener(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel copies the program, which outlives the call, and does not write to it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        match fd {
            // SAFETY: the kernel has just made this descriptor for us.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Without it (before Linux 5.19) a signal that is caught has a call made anew that was carried out already.
    let installed = match install(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => install(listener),
        installed => installed,
    };
    let listener = Listener(installed?);
    // The last to come of what a supervisor needs. Before, the kernel does not let calls go on either (Linux 5.5), and
    // whoever made one waits for ever. Nobody has asked anything yet.
    match listener.give(0, listener.0.as_fd(), true) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ => Ok(listener.0),
    }
}

/// Reads memory of another process from `address` on; how many bytes could be read.
pub(super) fn read_memory(tid: i32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: into.len(),
    };
    // SAFETY: the kernel writes to `into` alone, and checks the other process' addresses itself.
    let len = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// What fstat(2) fills in.
pub(super) fn stat(fd: BorrowedFd<'_>) -> io::Result<[u8; STAT]> {
    let mut bytes = [0; STAT];
    // SAFETY: the kernel writes a `struct stat`, of which this has the size; the path is empty.
    checked(unsafe {
        libc::syscall(
            libc::SYS_newfstatat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            bytes.as_mut_ptr(),
            libc::AT_EMPTY_PATH,
        )
    } as libc::c_int)?;
    Ok(bytes)
}

/// What statx(2) fills in.
pub(super) fn statx(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> io::Result<[u8; STATX]> {
    let mut bytes = [0; STATX];
    // SAFETY: the kernel writes a `struct statx`, of which this has the size; the path is empty.
    checked(unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            mask,
            bytes.as_mut_ptr(),
        )
    } as libc::c_int)?;
    Ok(bytes)
}

/// The soft limit `RLIMIT_RTTIME` of another process.
pub(super) fn mark(tid: i32) -> io::Result<u64> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes a `struct rlimit64`; a null pointer sets nothing.
    checked(unsafe {
        libc::prlimit64(tid, libc::RLIMIT_RTTIME, std::ptr::null(), &raw mut limit)
    })?;
    Ok(limit.rlim_cur)
}

/// Sets it, and leaves the hard limit.
pub(super) fn set_mark(tid: i32, mark: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes a `struct rlimit64` in the first call and reads it in the second.
    unsafe {
        checked(libc::prlimit64(
            tid,
            libc::RLIMIT_RTTIME,
            std::ptr::null(),
            &raw mut limit,
        ))?;
        limit.rlim_cur = mark;
        checked(libc::prlimit64(
            tid,
            libc::RLIMIT_RTTIME,
            &raw const limit,
            std::ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// Closes all descriptors from 3 on but `fds`, which get the numbers from 3 on. For a process that has just been forked
/// and returns to nobody: those who own the others never close them.
pub(in super::super) fn keep_only<const N: usize>(fds: [OwnedFd; N]) -> io::Result<[OwnedFd; N]> {
    let above = 3 + N as i32;
    // Out of the way first, so that none is overwritten before it is moved.
    let mut moved = Vec::with_capacity(N);
    for fd in &fds {
        moved.push(rustix::io::fcntl_dupfd_cloexec(fd, above)?);
    }
    let mut kept = Vec::with_capacity(N);
    for (number, fd) in (3..).zip(&moved) {
        // SAFETY: nobody who owns what had that number runs again.
        let fd = checked(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
        // SAFETY: the kernel has just made it what it is.
        kept.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    std::mem::forget(moved);
    std::mem::forget(fds);
    // SAFETY: as above.
    unsafe { sys::close_range(above, 0) };
    Ok(kept.try_into().expect("as many as came"))
}
