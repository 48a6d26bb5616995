//! A root with files, a process in it that is the caller, and what is outside.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::mount::MountFlags;
use rustix::mount::MountPropagationFlags;
use rustix::thread::CapabilitySet;

use super::owners::Owners;
use crate::Owner;

/// Where all this is mounted.
const PLACE: &str = "/mnt";

/// Of the root: what ends in a slash is a directory, `NAME>TARGET` a link.
const FILES: [&str; 22] = [
    "d/",
    "d/e/",
    "d/e/f/",
    "dev/",
    "g/",
    "proc/",
    "a",
    "d/b",
    "d/e/f/c",
    "abs>/d/b",
    "chain>chain1",
    "chain1>chain2",
    "chain2>d/dir/../up",
    "d/dir>e",
    "d/up>../a",
    "dangling>nowhere",
    "dev/fd>/proc/self/fd",
    "l>a",
    "loop>loop",
    "out>../../outside/kept",
    "self>proc/self/cwd",
    "slash>d/e/",
];

/// The caller's descriptors, from 3 on, as paths below the root. The last is a link itself.
pub(super) const DESCRIPTORS: [&str; 5] = ["", "d", "a", "d/e/f", "l"];

/// The caller's working directory.
pub(super) const CURRENT: &str = "d/e";

/// What is there in all rounds.
pub(crate) struct World {
    /// The caller's root.
    pub(super) root: OwnedFd,
    pub(super) proc: OwnedFd,
    /// The caller.
    pub(super) tid: i32,
    /// A process of the builder's, whose root is the machine's.
    pub(super) other: i32,
    /// What must not change.
    outside: Vec<OwnedFd>,
    before: Vec<(i64, u64)>,
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(PLACE).join("root").join(name)
}

impl World {
    pub(crate) fn make() -> Self {
        enter();
        super::kernel::map_written();
        rustix::mount::mount("none", PLACE, "tmpfs", MountFlags::empty(), None)
            .expect("a tmpfs can be mounted in a user namespace");
        for name in FILES {
            match (name.split_once('>'), name.strip_suffix('/')) {
                (Some((name, target)), _) => symlink(target, path(name)),
                (None, Some(dir)) => fs::create_dir_all(path(dir)),
                (None, None) => fs::write(path(name), ""),
            }
            .expect("a tmpfs takes everything");
        }
        fs::set_permissions(path("g"), fs::Permissions::from_mode(0o2775)).expect("as above");
        rustix::fs::mknodat(CWD, path("p"), FileType::Fifo, Mode::RWXU, 0).expect("as above");
        let outside = Path::new(PLACE).join("outside");
        fs::create_dir(&outside).expect("as above");
        fs::write(outside.join("kept"), "kept").expect("as above");
        rustix::mount::mount_bind_recursive("/proc", path("proc")).expect("what is mounted");
        let (other, tid) = (child(|| {}), child(caller));
        // As rbuild's supervisor, which with more could enter the builder's own root.
        give_up_power(super::SPARE);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).expect("is there");
        let proc = open(Path::new("/proc"));
        let own = rustix::fs::openat(&proc, "self/fd", flags, Mode::empty()).expect("is there");
        // Owners are read by the numbers of descriptors.
        rustix::process::fchdir(own).expect("a directory");
        let kept = rustix::fs::open(outside.join("kept"), OFlags::PATH, Mode::empty());
        let mut world = Self {
            root: open(Path::new(&format!("/proc/{tid}/root"))),
            proc,
            tid,
            other,
            outside: vec![
                open(Path::new(PLACE)),
                open(&outside),
                kept.expect("is there"),
            ],
            before: Vec::new(),
        };
        world.before = world.changes();
        world.reset();
        world
    }

    /// When what is outside changed last.
    fn changes(&self) -> Vec<(i64, u64)> {
        let changed = |file: &OwnedFd| {
            let stat = rustix::fs::fstat(file).expect("an open file");
            (stat.st_ctime, stat.st_ctime_nsec)
        };
        self.outside.iter().map(changed).collect()
    }

    /// Nothing changed outside of the root.
    pub(super) fn check(&self) {
        assert_eq!(self.changes(), self.before, "something outside has changed");
    }

    /// Takes away what a round has made.
    pub(super) fn reset(&self) {
        let mut owners = Owners::default();
        let known: Vec<&str> = FILES
            .iter()
            .map(|name| name.trim_end_matches('/').split('>').next().unwrap_or(name))
            .chain(["p"])
            .collect();
        for dir in ["", "d", "d/e", "d/e/f", "dev", "g"] {
            for entry in fs::read_dir(path(dir)).expect("is there") {
                let entry = entry.expect("is there");
                let name = match dir {
                    "" => entry.file_name().into_string().unwrap_or_default(),
                    dir => format!("{dir}/{}", entry.file_name().display()),
                };
                if known.contains(&&*name) {
                    continue;
                }
                let made = entry.path();
                let gone = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    true => fs::remove_dir_all(made),
                    false => fs::remove_file(made),
                };
                gone.expect("what was made can be taken away");
            }
        }
        for name in known {
            let (file, mode) = opened(name);
            let owner = match name {
                "g" => Owner::of(5, 7),
                "d/e/f" | "d/up" => Owner::of(1000, 1000),
                _ => Owner::default(),
            };
            if name != "proc" {
                owners.set(&file, mode, owner).expect("attributes are kept");
            }
        }
    }
}

fn opened(name: &str) -> (OwnedFd, u32) {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path(name), flags, Mode::empty()).expect("is there");
    let mode = rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH).expect("is open");
    (file, mode.st_mode)
}

/// A user namespace of one id, which is 0 inside, and a mount namespace.
fn enter() {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: this process has one thread.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
    assert_eq!(entered, 0, "a user namespace can be made");
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).expect("a map of one id can be written");
    };
    write("setgroups", "deny".to_owned());
    write("uid_map", format!("0 {uid} 1"));
    write("gid_map", format!("0 {gid} 1"));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("a mount namespace of our own");
}

/// A process that waits for ever after it has done something; it ends with this one.
fn child(prepare: fn()) -> i32 {
    let (ready, say) = rustix::pipe::pipe().expect("a pipe");
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "a process can be made");
    if pid == 0 {
        drop(ready);
        // SAFETY: a number.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // What is prepared takes low numbers.
        let say = rustix::io::fcntl_dupfd_cloexec(&say, 200).expect("a descriptor");
        prepare();
        rustix::io::write(&say, b"!").expect("somebody reads");
        loop {
            // SAFETY: nothing is touched.
            unsafe { libc::pause() };
        }
    }
    drop(say);
    let read = rustix::io::read(&ready, &mut [0_u8]).expect("an open pipe");
    assert_eq!(read, 1, "the caller is ready");
    pid
}

/// The caller goes to its place, with mounts of its own.
fn caller() {
    // SAFETY: this process has one thread.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(alone, 0, "root of the namespace may");
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let files: Vec<OwnedFd> = DESCRIPTORS
        .iter()
        .map(|name| rustix::fs::open(path(name), flags, Mode::empty()).expect("is there"))
        .collect();
    // Out of the way first.
    let high: Vec<i32> = files
        .iter()
        // SAFETY: numbers.
        .map(|file| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 100) })
        .collect();
    for (number, high) in (3..).zip(high) {
        // SAFETY: numbers; who had the lower one does not use it again.
        unsafe { libc::dup2(high, number) };
    }
    let root = CString::new(path("").into_os_string().into_encoded_bytes()).expect("no zero");
    // SAFETY: a string that ends in a zero.
    let there = unsafe { libc::chroot(root.as_ptr()) };
    assert_eq!(there, 0, "root of the namespace may");
    std::env::set_current_dir(Path::new("/").join(CURRENT)).expect("is there");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    give_up_power(CapabilitySet::empty());
    // Of `files` and of what was there before, some numbers are others' by now.
    std::mem::forget(files);
}

/// Keeps docker's capabilities, and others that have no effect for now.
fn give_up_power(spare: CapabilitySet) {
    use CapabilitySet as Set;
    let kept = Set::CHOWN
        | Set::DAC_OVERRIDE
        | Set::FSETID
        | Set::FOWNER
        | Set::MKNOD
        | Set::NET_RAW
        | Set::SETGID
        | Set::SETUID
        | Set::SETFCAP
        | Set::SETPCAP
        | Set::NET_BIND_SERVICE
        | Set::SYS_CHROOT
        | Set::KILL
        | Set::AUDIT_WRITE;
    let sets = rustix::thread::CapabilitySets {
        effective: kept,
        permitted: kept | spare,
        inheritable: Set::empty(),
    };
    rustix::thread::set_capabilities(None, sets).expect("less can be had always");
}
