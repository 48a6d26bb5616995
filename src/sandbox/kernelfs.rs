//! `/proc`, `/sys` and `/dev` of a step.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::mount::MountFlags;

use super::attributes;
use super::child::Config;
use super::error::During;
use super::error::Failure;
use super::mounts;
use super::step::Reach;
use super::step::Security;

/// Docker's masked paths (moby, daemon/pkg/oci/defaults.go).
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Docker's read-only paths.
const READONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
pub(super) const DEVICE_LINKS: [(&str, &str); 6] = [
    ("/proc/kcore", "core"),
    ("/proc/self/fd", "fd"),
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
];

const HARDENED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Of the files devices are bound over.
const DEVICE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Where they are made, in the current directory.
const STAGING: &str = "kernel";
pub(super) const PLACES: [&str; 3] = ["proc", "sys", "dev"];
/// An empty directory that is mounted read-only on itself.
pub(super) const VOID: &str = "void";

/// `/proc`, `/sys` and `/dev` of a step that has no root yet.
pub(super) struct KernelFs([OwnedFd; PLACES.len()]);

impl KernelFs {
    /// The `/proc`.
    pub(super) fn proc(&self) -> &OwnedFd {
        let [proc, ..] = &self.0;
        proc
    }

    /// Moves them, with all that is mounted on them, from the directory they were made in to where they belong.
    pub(super) fn move_to(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        for (path, mount) in PLACES.into_iter().zip(&self.0) {
            attach(root, path, mount)?;
        }
        Ok(())
    }
}

/// Makes them in a new directory of the current one, `proc` from [`proc`].
///
/// Names in a fresh `/proc` and in a directory of our own lead nowhere else, so mount(2) can be given paths: a third
/// of the system calls that descriptors take, in what every step waits for.
pub(super) fn mount_all(
    reach: Reach,
    security: Security,
    proc: &OwnedFd,
) -> Result<KernelFs, Failure> {
    let mask = security == Security::Sandbox;
    let place = || {
        for path in PLACES {
            mounts::make_dirs(CWD, &Path::new(STAGING).join(path))?;
        }
        mounts::make_dirs(CWD, Path::new(VOID))?;
        rustix::mount::mount_bind(VOID, VOID)?;
        mounts::open_dir_in(CWD, STAGING)
    };
    let staging = place().during("make places for /proc, /sys and /dev")?;
    protect(VOID, proc).during("make an empty directory read-only")?;

    attach(staging.as_fd(), "proc", proc)?;
    if mask {
        for path in MASKED_PROC {
            hide(&format!("{STAGING}/proc/{path}")).during(format_args!("mask `/proc/{path}`"))?;
        }
        for path in READONLY_PROC {
            let inside = format!("{STAGING}/proc/{path}");
            let bound = rustix::mount::mount_bind_recursive(&inside, &inside);
            if absent(bound).during(format_args!("bind `/proc/{path}`"))? {
                continue;
            }
            protect(&inside, proc).during(format_args!("make `/proc/{path}` read-only"))?;
        }
    }

    let sys = format!("{STAGING}/sys");
    sysfs(reach, &sys).during("mount /sys")?;
    if mask {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_RDONLY;
        attributes::set(&sys, attributes, proc).during("make `/sys` read-only")?;
        for path in MASKED_SYS {
            hide(&format!("{sys}/{path}")).during(format_args!("mask `/sys/{path}`"))?;
        }
    }
    dev(&format!("{STAGING}/dev"))?;
    let find = |path| mounts::open_in(&staging, path).during(format_args!("find `/{path}`"));
    let [proc, sys, dev] = PLACES;
    Ok(KernelFs([find(proc)?, find(sys)?, find(dev)?]))
}

fn attach(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    mounts::open_in(root, path)
        .and_then(|at| mounts::attach(mount, at))
        .during(format_args!("mount `/{path}`"))
}

/// A `/proc`, mounted nowhere yet: the process' own, or where the kernel refuses that (in a container that masks parts
/// of its own: the new one would reveal them) the one that is there.
pub(super) fn proc(config: &Config) -> rustix::io::Result<OwnedFd> {
    match config.own_pids {
        true => mounts::new(
            "proc",
            &[],
            MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        ),
        false => mounts::copy(CWD, "/proc", true),
    }
}

/// A new sysfs shows the devices of the network namespace and can be had only with one's own.
fn sysfs(reach: Reach, at: &str) -> rustix::io::Result<()> {
    if reach.is_own() {
        match fresh("sysfs", at, HARDENED, c"") {
            Err(Errno::PERM) => {}
            made => return made,
        }
    }
    // With all mounts below: the kernel does not let a user namespace look under them.
    rustix::mount::mount_bind_recursive("/sys", at)
}

fn fresh(kind: &str, at: &str, flags: MountFlags, options: &CStr) -> rustix::io::Result<()> {
    rustix::mount::mount(kind, at, kind, flags, options)
}

/// Hides a path behind an empty directory or `/dev/null`; one that is missing needs no hiding.
fn hide(path: &str) -> rustix::io::Result<()> {
    let stat = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    let cover = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => VOID,
        _ => "/dev/null",
    };
    rustix::mount::mount_bind(cover, path)
}

/// Makes the mount at `path` and those below read-only, whatever is done to the file system elsewhere.
fn protect(path: &str, proc: &OwnedFd) -> std::io::Result<()> {
    attributes::set(path, MountAttrFlags::MOUNT_ATTR_RDONLY, proc)
}

/// Whether something failed since it is not there.
fn absent(result: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match result {
        Err(Errno::NOENT) => Ok(true),
        other => other.map(|()| false),
    }
}

fn dev(dev: &str) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    fresh("tmpfs", dev, flags, c"mode=0755,size=65536k").during("mount a tmpfs for /dev")?;
    for name in DEVICES {
        let (host, inside) = (format!("/dev/{name}"), format!("{dev}/{name}"));
        let bind = || {
            rustix::fs::mknodat(CWD, &inside, FileType::RegularFile, DEVICE_MODE, 0)?;
            match absent(rustix::mount::mount_bind(&host, &inside))? {
                // A container may lack one that few need.
                true if name != "null" => rustix::fs::unlink(&inside),
                true => Err(Errno::NOENT),
                false => Ok(()),
            }
        };
        bind().during(format_args!("bind `{host}`"))?;
    }
    for (target, link) in DEVICE_LINKS {
        rustix::fs::symlink(target, format!("{dev}/{link}"))
            .during(format_args!("link `/dev/{link}`"))?;
    }
    let own = |kind: &str, name: &str, flags, options: &CStr| {
        let inside = format!("{dev}/{name}");
        mounts::make_dirs(CWD, Path::new(&inside))
            .and_then(|()| fresh(kind, &inside, flags, options))
            .during(format_args!("mount `/dev/{name}`"))
    };
    let no_suid_exec = MountFlags::NOSUID | MountFlags::NOEXEC;
    own("devpts", "pts", no_suid_exec, c"ptmxmode=0666,mode=0620")?;
    own("tmpfs", "shm", HARDENED, c"mode=1777,size=65536k")?;
    own("mqueue", "mqueue", HARDENED, c"")
}
