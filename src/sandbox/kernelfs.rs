//! `/proc`, `/sys` and `/dev` of a step.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::child::Config;
use super::error::During;
use super::error::Failure;
use super::mounts;
use super::step::Network;
use super::step::Security;
use super::sys;

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
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("/proc/kcore", "core"),
    ("/proc/self/fd", "fd"),
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
];

const HARDENED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

const PLACES: [&str; 3] = ["proc", "sys", "dev"];

/// Mounts them in a new directory of the current one, `proc` from [`proc`].
pub(super) fn mount_all(
    network: Network,
    security: Security,
    proc: &OwnedFd,
) -> Result<OwnedFd, Failure> {
    let mask = security == Security::Sandbox;
    mounts::make_dirs(CWD, Path::new("void")).during("make an empty directory")?;
    let place = || {
        for path in PLACES {
            mounts::make_dirs(CWD, &Path::new("kernel").join(path))?;
        }
        mounts::open_dir_in(CWD, "kernel")
    };
    let root = place().during("make places for /proc, /sys and /dev")?;

    attach(root.as_fd(), "proc", proc)?;
    if mask {
        for path in MASKED_PROC {
            hide(proc.as_fd(), path).during(format_args!("mask `/proc/{path}`"))?;
        }
        for path in READONLY_PROC {
            protect(proc.as_fd(), path).during(format_args!("make `/proc/{path}` read-only"))?;
        }
    }

    let sys = sysfs(network).during("mount /sys")?;
    attach(root.as_fd(), "sys", &sys)?;
    if mask {
        sys::set_mount_attributes(&sys, HARDENED | MountAttrFlags::MOUNT_ATTR_RDONLY, true)
            .during("make `/sys` read-only")?;
        for path in MASKED_SYS {
            hide(sys.as_fd(), path).during(format_args!("mask `/sys/{path}`"))?;
        }
    }
    dev(root.as_fd())?;
    Ok(root)
}

/// Moves them, with all that is mounted on them, from the directory they were made in to where they belong.
pub(super) fn move_all(from: &OwnedFd, root: BorrowedFd<'_>) -> Result<(), Failure> {
    for path in PLACES {
        let mount = mounts::open_in(from, path).during(format_args!("find `/{path}`"))?;
        attach(root, path, &mount)?;
    }
    Ok(())
}

fn attach(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    mounts::open_in(root, path)
        .and_then(|at| mounts::attach(mount, at))
        .during(format_args!("mount `/{path}`"))
}

/// A `/proc`, mounted nowhere yet: the process' own, or where the kernel refuses that (in a container that masks parts of its own: the new one would
/// reveal them) the one that is there.
pub(super) fn proc(config: &Config) -> rustix::io::Result<OwnedFd> {
    match config.own_pids {
        true => mounts::new("proc", &[], HARDENED),
        false => mounts::copy(CWD, "/proc", true),
    }
}

/// A new sysfs shows the devices of the network namespace and can be had only with one's own.
fn sysfs(network: Network) -> rustix::io::Result<OwnedFd> {
    if network == Network::None {
        match mounts::new("sysfs", &[], HARDENED) {
            Err(Errno::PERM) => {}
            made => return made,
        }
    }
    // With all mounts below: the kernel does not let a user namespace look under them.
    mounts::copy(CWD, "/sys", true)
}

/// Hides a path below a mount behind an empty directory or `/dev/null`; one that is missing needs no hiding.
fn hide(mount: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    let Some(at) = there(mount, path)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&at)?;
    let cover = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let void = mounts::copy(CWD, "void", false)?;
            mounts::make_read_only(&void).map_err(to_errno)?;
            void
        }
        _ => mounts::copy(CWD, "/dev/null", false)?,
    };
    mounts::attach(cover, at)
}

/// Makes a path below a mount read-only.
fn protect(mount: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    let Some(at) = there(mount, path)? else {
        return Ok(());
    };
    let copy = mounts::copy(&at, "", true)?;
    mounts::make_read_only(&copy).map_err(to_errno)?;
    mounts::attach(copy, at)
}

fn there(mount: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match mounts::open_in(mount, path) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn to_errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

fn dev(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let dev = mounts::new(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536k")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    )
    .during("mount a tmpfs for /dev")?;
    attach(root, "dev", &dev)?;
    for name in DEVICES {
        let doing = format_args!("bind `/dev/{name}`");
        let device = match mounts::copy(CWD, Path::new("/dev").join(name), false) {
            // A container may lack one that few need.
            Err(Errno::NOENT) if name != "null" => continue,
            device => device.during(doing)?,
        };
        mounts::make_file(&dev, name)
            .and_then(|()| mounts::open_in(&dev, name))
            .and_then(|at| mounts::attach(device, at))
            .during(doing)?;
    }
    for (target, link) in DEVICE_LINKS {
        rustix::fs::symlinkat(target, &dev, link).during(format_args!("link `/dev/{link}`"))?;
    }
    let own = |kind: &str, name: &str, options: &[(&str, &str)], attributes| {
        mounts::new(kind, options, attributes)
            .and_then(|mount| {
                mounts::make_dirs(&dev, Path::new(name))?;
                mounts::attach(mount, mounts::open_in(&dev, name)?)
            })
            .during(format_args!("mount `/dev/{name}`"))
    };
    let no_suid_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = [("ptmxmode", "0666"), ("mode", "0620")];
    own("devpts", "pts", &pts, no_suid_exec)?;
    let shm = [("mode", "1777"), ("size", "65536k")];
    own("tmpfs", "shm", &shm, HARDENED)?;
    own("mqueue", "mqueue", &[], HARDENED)
}
