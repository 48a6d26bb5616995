//! Tries to get out of a step, one way a call: the escape suite (`tests/sandbox/escape.rs`) runs it in one.
//!
//! `attack WAY [ARGUMENT…]` prints `WAY: done`, or the name of the error.
#![allow(unsafe_code, reason = "attackers use system calls as they are")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "arguments are constants and live long enough"
)]
#![allow(clippy::print_stdout, reason = "an example is its own user interface")]
#![allow(clippy::disallowed_methods, reason = "there is no `cli` here")]

use std::ffi::CString;
use std::ffi::c_int;
use std::ffi::c_long;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Error;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::ptr::null;
use std::ptr::null_mut;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (way, rest) = args.split_first().expect("a way out");
    let argument = rest.first().map_or("", String::as_str);
    match attack(way, argument) {
        Ok(()) => println!("{way}: done"),
        Err(error) => println!("{way}: {}", name(&error)),
    }
}

fn name(error: &Error) -> String {
    let known = [
        (libc::EACCES, "EACCES"),
        (libc::EBADF, "EBADF"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EINVAL, "EINVAL"),
        (libc::EIO, "EIO"),
        (libc::ENOENT, "ENOENT"),
        (libc::ENOKEY, "ENOKEY"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ENXIO, "ENXIO"),
        (libc::EPERM, "EPERM"),
        (libc::EROFS, "EROFS"),
        (libc::ESRCH, "ESRCH"),
        (libc::EXDEV, "EXDEV"),
    ];
    let errno = error.raw_os_error();
    let found = known.iter().find(|(number, _)| errno == Some(*number));
    found.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

fn done(result: impl Into<c_long>) -> io::Result<()> {
    match result.into() {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn attack(way: &str, argument: &str) -> io::Result<()> {
    let path = text(argument);
    let path = path.as_ptr();
    match way {
        // Mounts.
        "mount" => done(unsafe {
            let kind = text(argument);
            libc::mount(c"x".as_ptr(), c"/mnt".as_ptr(), kind.as_ptr(), 0, null())
        }),
        "bind" => done(unsafe {
            libc::mount(
                path,
                c"/mnt".as_ptr(),
                null(),
                libc::MS_BIND | libc::MS_REC,
                null(),
            )
        }),
        "remount" => done(unsafe {
            libc::mount(
                null(),
                path,
                null(),
                libc::MS_REMOUNT | libc::MS_BIND,
                null(),
            )
        }),
        "umount" => done(unsafe { libc::umount2(path, libc::MNT_DETACH) }),
        "fsopen" => done(unsafe { libc::syscall(libc::SYS_fsopen, path, 0) }),
        "open_tree" => done(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path, 1) }),
        "pivot_root" => {
            done(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })
        }
        // Namespaces.
        "unshare" => done(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }),
        "clone3" => done(unsafe { libc::syscall(libc::SYS_clone3, null::<u8>(), 88) }),
        "setns" => {
            let file = File::open(argument)?;
            done(unsafe { libc::setns(file.as_raw_fd(), 0) })
        }
        // Files of the host.
        "read" => File::open(argument).map(drop),
        "write" => File::options().append(true).open(argument).map(drop),
        "chroot" => chroot(),
        "handle" => done(unsafe {
            let mut handle = [0_u32; 4];
            handle[0] = 8;
            libc::syscall(
                libc::SYS_open_by_handle_at,
                libc::AT_FDCWD,
                handle.as_mut_ptr(),
                0,
            )
        }),
        "mknod" => done(unsafe { libc::mknod(path, libc::S_IFCHR | 0o600, libc::makedev(1, 1)) }),
        // Other processes, and what they have.
        "ptrace" => done(unsafe {
            libc::ptrace(
                libc::PTRACE_ATTACH,
                argument.parse::<c_int>().unwrap_or(1),
                0,
                0,
            )
        }),
        "kill" => done(unsafe { libc::kill(argument.parse().unwrap_or(1), 0) }),
        "abstract" => {
            let address = SocketAddr::from_abstract_name(argument)?;
            UnixStream::connect_addr(&address).map(drop)
        }
        "key" => done(unsafe {
            // KEYCTL_SEARCH in the session's keyring, then in the user's.
            let search = |keyring: c_int| {
                libc::syscall(libc::SYS_keyctl, 10, keyring, c"user".as_ptr(), path, 0)
            };
            match search(-3) {
                -1 => search(-4),
                found => found,
            }
        }),
        "addkey" => done(unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                path,
                c"x".as_ptr(),
                1,
                -4,
            )
        }),
        "tiocsti" => {
            for fd in 0..3 {
                let byte = b'x';
                if unsafe { libc::ioctl(fd, libc::TIOCSTI, &raw const byte) } == 0 {
                    return Ok(());
                }
            }
            Err(Error::last_os_error())
        }
        "fds" => fds(),
        // The kernel.
        "bpf" => done(unsafe { libc::syscall(libc::SYS_bpf, 0, null::<u8>(), 0) }),
        "perf" => {
            done(unsafe { libc::syscall(libc::SYS_perf_event_open, null::<u8>(), 0, -1, -1, 0) })
        }
        "io_uring" => done(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, null_mut::<u8>()) }),
        "userfaultfd" => done(unsafe { libc::syscall(libc::SYS_userfaultfd, 0) }),
        "module" => done(unsafe { libc::syscall(libc::SYS_init_module, null::<u8>(), 0, path) }),
        "kexec" => done(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, null::<u8>(), 0) }),
        "clock" => done(unsafe {
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            libc::clock_settime(libc::CLOCK_REALTIME, &raw const time)
        }),
        "swapon" => done(unsafe { libc::swapon(path, 0) }),
        "reboot" => done(unsafe { libc::reboot(libc::RB_DISABLE_CAD) }),
        "syslog" => done(unsafe { libc::klogctl(10, null_mut(), 0) }),
        // Whether the file of the process `argument` may be written where it lies.
        "exe" => done(unsafe {
            let mut found: libc::statvfs = std::mem::zeroed();
            let exe = text(&format!("/proc/{argument}/exe"));
            let result = libc::statvfs(exe.as_ptr(), &raw mut found);
            match result == 0 && found.f_flag & libc::ST_RDONLY != 0 {
                true => return Err(Error::from_raw_os_error(libc::EROFS)),
                false => result,
            }
        }),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Out of a chroot by a descriptor of what is above it, to a root that has other things than this one.
fn chroot() -> io::Result<()> {
    let names = |path: &str| -> io::Result<Vec<_>> {
        let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
        let mut names = entries.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let before = names("/")?;
    let above = File::open("/")?;
    done(unsafe { libc::chroot(c"/dev".as_ptr()) })?;
    done(unsafe { libc::fchdir(above.as_raw_fd()) })?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    done(unsafe { libc::chroot(c".".as_ptr()) })?;
    match names("/")? == before {
        true => Err(Error::from_raw_os_error(libc::EPERM)),
        false => Ok(()),
    }
}

/// Descriptors besides the standard streams.
fn fds() -> io::Result<()> {
    let mut open = Vec::new();
    let own = std::path::PathBuf::from(format!("/proc/{}/fd", std::process::id()));
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let to = fs::read_link(entry.path())?;
        let number = entry.file_name();
        // The last is the directory that is being read.
        if !["0", "1", "2"].iter().any(|n| number == *n) && to != own {
            open.push(to);
        }
    }
    match open.is_empty() {
        true => Err(Error::from_raw_os_error(libc::EBADF)),
        false => Ok(()),
    }
}
