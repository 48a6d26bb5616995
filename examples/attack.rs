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
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr::null;
use std::ptr::null_mut;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (way, rest) = args.split_first().expect("a way out");
    let argument = rest.first().map_or("", String::as_str);
    let (way, argument, rest) = match (way.as_str(), rest.first()) {
        ("nested", Some(inner)) => {
            if let Err(error) = nest() {
                return println!("nested: {}", name(&error));
            }
            (inner, rest.get(1).map_or("", String::as_str), &rest[1..])
        }
        _ => (way, argument, rest),
    };
    match attack(way, argument, rest) {
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

/// Tries it on processes outside. Of their numbers some may be those of processes of the step, but not all.
fn each(pids: &str, attack: impl Fn(c_int) -> c_long) -> io::Result<()> {
    let pids = pids.split(',').map(|pid| pid.parse().unwrap_or(1));
    let answers: Vec<_> = pids.map(|pid| done(attack(pid))).collect();
    let is_missing = |answer: &io::Result<()>| {
        let error = answer.as_ref().err();
        error.and_then(Error::raw_os_error) == Some(libc::ESRCH)
    };
    let missing = answers.iter().position(is_missing);
    answers
        .into_iter()
        .nth(missing.unwrap_or_default())
        .expect("there is one")
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

/// Goes on as root, and process 1, of new namespaces, with all capabilities in them.
fn nest() -> io::Result<()> {
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let most = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET;
    let rest = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    done(unsafe { libc::unshare(libc::CLONE_NEWUSER | most | rest) })?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => Ok(()),
        child => {
            let mut status = 0;
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            unsafe { libc::_exit(status) }
        }
    }
}

/// Calls that older kernels do not have.
const NEW_CALLS: [(&str, c_long); 5] = [
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("fsopen", libc::SYS_fsopen),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("openat2", libc::SYS_openat2),
];

/// Has calls fail from now on as if the kernel did not know them; `addfd` is an ioctl(2) of seccomp's.
fn forget(calls: &str) -> io::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let ret = |value| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let fail = |errno| ret(libc::SECCOMP_RET_ERRNO | errno as u32);
    // Of `struct seccomp_data`: the number of the call, and the lower half of its second argument.
    let load = |at| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let (number, second) = (load(0), load(24));
    // Goes on if it is that, else after so many instructions.
    let equal = |value, skip| {
        let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        instruction(code, 0, skip, value)
    };
    let mut program = Vec::new();
    for call in calls.split(',') {
        if call == "addfd" {
            let ioctl = equal(libc::SYS_ioctl as u32, 3);
            let request = equal(libc::SECCOMP_IOCTL_NOTIF_ADDFD as u32, 1);
            program.extend([number, ioctl, second, request, fail(libc::EINVAL)]);
            continue;
        }
        let (_, new) = NEW_CALLS
            .iter()
            .find(|(name, _)| *name == call)
            .expect("a call of the table");
        program.extend([number, equal(*new as u32, 1), fail(libc::ENOSYS)]);
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    done(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
}

fn attack(way: &str, argument: &str, rest: &[String]) -> io::Result<()> {
    let path = text(argument);
    let path = path.as_ptr();
    match way {
        // Others then attack where the kernel has not all calls.
        "without" => {
            forget(argument)?;
            Err(Command::new(&rest[1]).args(&rest[2..]).exec())
        }
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
        // Whether something shows in `argument` that did not, if it is taken from under its cover.
        "reveal" => reveal(argument, rest.get(1).map_or("", String::as_str)),
        "writable" => writable(argument),
        "new" => new(argument),
        "umount" => done(unsafe { libc::umount2(path, libc::MNT_DETACH) }),
        "fsopen" => done(unsafe { libc::syscall(libc::SYS_fsopen, path, 0) }),
        "open_tree" => done(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path, 1) }),
        "pivot_root" => {
            done(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })
        }
        // Namespaces.
        "unshare" => done(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }),
        "unshare_cgroup" => done(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }),
        "clone_cgroup" => done(unsafe {
            let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP | libc::SIGCHLD;
            let made = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if made == 0 {
                libc::_exit(0);
            }
            made
        }),
        "map" => fs::write("/proc/self/uid_map", "1 1 65535"),
        "hostname" => done(unsafe { libc::sethostname(c"x".as_ptr(), 1) }),
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
        // Not PTRACE_ATTACH, which stops the process.
        "ptrace" => each(argument, |pid| unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0)
        }),
        "kill" => each(argument, |pid| unsafe { libc::kill(pid, 0).into() }),
        // Of processes that are not this step's.
        "others" => others(argument, rest.get(1).map_or("", String::as_str)),
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
            let terminal = File::options().read(true).write(true).open("/dev/tty");
            let terminal = terminal.iter().map(|file| file.as_raw_fd());
            for fd in (0..3).chain(terminal) {
                let byte = b'x';
                if unsafe { libc::isatty(fd) } == 1
                    || unsafe { libc::ioctl(fd, libc::TIOCSTI, &raw const byte) } == 0
                {
                    return Ok(());
                }
            }
            Err(Error::from_raw_os_error(libc::ENOTTY))
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

/// Does something to all processes that are not in this one's mount namespace, or do not tell which they are in, till it
/// works on one. `ESRCH` if none is to be seen.
fn others(what: &str, place: &str) -> io::Result<()> {
    let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    let own = mounts("self")?;
    let mut refused = Error::from_raw_os_error(libc::ESRCH);
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(Ok(pid)) = name.to_str().map(str::parse::<c_int>) else {
            continue;
        };
        if mounts(&pid.to_string()).is_ok_and(|theirs| theirs == own) {
            continue;
        }
        match other(pid, what, place) {
            Ok(()) => return Ok(()),
            // It has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Does something to a process, or to `place` as that names it.
fn other(pid: c_int, what: &str, place: &str) -> io::Result<()> {
    let at = |name: &str| format!("/proc/{pid}/{name}");
    let new = |name: &str| at(&format!("root{place}/{name}-{pid}"));
    let path = text(&new(what));
    match what {
        "ptrace" => done(unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0) }),
        "kill" => done(unsafe { libc::kill(pid, 0) }),
        "fds" => {
            for entry in fs::read_dir(at("fd"))? {
                File::open(entry?.path())?;
            }
            Ok(())
        }
        "setns" => {
            let file = File::open(at("ns/mnt"))?;
            done(unsafe { libc::setns(file.as_raw_fd(), 0) })
        }
        "memory" => {
            let mut remote = libc::iovec {
                iov_base: null_mut(),
                iov_len: 1,
            };
            let maps = fs::read_to_string(at("maps"))?;
            let start = maps.split('-').next().unwrap_or_default();
            remote.iov_base = usize::from_str_radix(start, 16).unwrap_or(0) as *mut _;
            let mut byte = 0_u8;
            let local = libc::iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            done(unsafe {
                libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0)
            } as c_long)
        }
        // Names that are made where the process has its root: by the kernel, and by whoever makes them for this process.
        "file" => File::create_new(new(what)).map(drop),
        "directory" => fs::create_dir(new(what)),
        "link" => std::os::unix::fs::symlink("x", new(what)),
        "fifo" => done(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }),
        "device" => {
            done(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) })
        }
        "owner" => std::os::unix::fs::chown(at(&format!("root{place}")), Some(5), Some(5)),
        // A file of the process' directory.
        file => match fs::read_dir(at(file)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                use std::io::Read as _;
                File::open(at(file))?.read(&mut [0]).map(drop)
            }
            Err(error) => Err(error),
        },
    }
}

/// What a directory or file shows: its names, or how much there is to be read.
fn shown(path: &str) -> usize {
    let names = fs::read_dir(path).map(Iterator::count);
    names.unwrap_or_else(|_| fs::read(path).map_or(0, |bytes| bytes.len()))
}

/// Tries every way to get a mount out of the way that lies on `above`/`name`. `EPERM` if none does.
fn reveal(above: &str, name: &str) -> io::Result<()> {
    let covered = format!("{above}/{name}");
    let [directory, path, mnt] = [above, covered.as_str(), "/mnt"].map(text);
    let [directory, path, mnt] = [&directory, &path, &mnt].map(|text| text.as_ptr());
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    let overlay = text(&format!("lowerdir={above}:/mnt,userxattr"));
    let ways: [(&str, &dyn Fn() -> c_long); 8] = unsafe {
        [
            ("umount", &|| libc::umount2(path, 0).into()),
            ("detach", &|| libc::umount2(path, libc::MNT_DETACH).into()),
            ("expire", &|| libc::umount2(path, libc::MNT_EXPIRE).into()),
            ("move", &|| {
                libc::mount(path, mnt, null(), libc::MS_MOVE, null()).into()
            }),
            // Without what is mounted on it.
            ("bind", &|| {
                libc::mount(directory, mnt, null(), libc::MS_BIND, null()).into()
            }),
            ("overlay", &|| {
                let kind = c"overlay".as_ptr();
                libc::mount(kind, mnt, kind, 0, overlay.as_ptr().cast()).into()
            }),
            ("open_tree", &|| {
                libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, directory, flags)
            }),
            // Taken along, then dropped: in the copy nothing may come off either.
            ("detached", &|| {
                let recursive = flags | libc::AT_RECURSIVE as u32;
                let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, directory, recursive);
                let inside = text(&format!("/proc/self/fd/{tree}/{name}"));
                libc::umount2(inside.as_ptr(), libc::MNT_DETACH).into()
            }),
        ]
    };
    let before = shown(&covered);
    for (way, attempt) in ways {
        let result = attempt();
        if shown(&covered) != before || shown(&format!("/mnt/{name}")) > 0 {
            return Err(Error::other(format!("{way} shows it")));
        }
        if result != -1 {
            return Err(Error::other(format!("{way} works")));
        }
    }
    Err(Error::from_raw_os_error(libc::EPERM))
}

/// Tries every way to make the mount at `path` one that can be written to. `EPERM` if none does.
fn writable(path: &str) -> io::Result<()> {
    let place = text(path);
    let place = place.as_ptr();
    // struct mount_attr: set, clear, propagation, user namespace.
    let clear = [0_u64, libc::MOUNT_ATTR_RDONLY, 0, 0];
    let (at, size) = (libc::AT_FDCWD, size_of_val(&clear));
    unsafe {
        let remount = |flags| libc::mount(null(), place, null(), libc::MS_REMOUNT | flags, null());
        let ways = [
            ("remount", remount(0)),
            ("remount bind", remount(libc::MS_BIND)),
            (
                "attributes",
                libc::syscall(libc::SYS_mount_setattr, at, place, 0, clear.as_ptr(), size) as c_int,
            ),
        ];
        if let Some((way, _)) = ways.iter().find(|(_, result)| *result != -1) {
            return Err(Error::other(format!("{way} works")));
        }
        // A copy with everything below it has the same attributes, also where it is put elsewhere.
        let flags = libc::MS_BIND | libc::MS_REC;
        if libc::mount(place, c"/mnt".as_ptr(), null(), flags, null()) == 0 {
            let flags = libc::MS_REMOUNT | libc::MS_BIND;
            if libc::mount(null(), c"/mnt".as_ptr(), null(), flags, null()) == 0 {
                return Err(Error::other("a copy is made writable"));
            }
        }
    }
    Err(Error::from_raw_os_error(libc::EPERM))
}

/// A new file system, by the calls that do one thing each, and by the one that does all.
fn new(kind: &str) -> io::Result<()> {
    const CREATE: c_int = 6;
    let kind = text(kind);
    unsafe {
        let fs = libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 0);
        let none = null::<u8>();
        if fs != -1
            && libc::syscall(libc::SYS_fsconfig, fs, CREATE, none, none, 0) == 0
            && libc::syscall(libc::SYS_fsmount, fs, 0, 0) != -1
        {
            return Ok(());
        }
        done(libc::mount(
            kind.as_ptr(),
            c"/mnt".as_ptr(),
            kind.as_ptr(),
            0,
            null(),
        ))
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
