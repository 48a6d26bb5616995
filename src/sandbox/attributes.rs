//! Attributes of mounts, being read-only first of all, whatever their file systems are.
//!
//! mount_setattr(2) gives them to a mount and all below it at once, mounted or not. Where it is missing (before Linux 5.12)
//! mount(2) does, one mount at a time and by its path: a mount without a place gets one in the current directory, which is
//! the [scratch](super::rootfs), and mountinfo tells what is below it. Nobody else is in the mount namespace and the step
//! does not run yet, so nothing can be written in between.

use std::io;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::mount::MountFlags;

use super::kernelfs::VOID;
use super::mounts;
use super::sys;

/// Makes a mount and the mounts below it read-only. `proc` is a `/proc` of this process.
pub(super) fn make_read_only(mount: impl AsFd, proc: impl AsFd) -> io::Result<()> {
    match mounts::make_read_only(&mount) {
        Err(error) if is_missing(&error) => {
            let place = place(mount.as_fd())?;
            remount(&place, MountAttrFlags::MOUNT_ATTR_RDONLY, proc.as_fd())
        }
        made => made,
    }
}

/// Gives attributes to the mount at `path` and to the mounts below it. `proc` is a `/proc` of this process.
pub(super) fn set(path: &str, attributes: MountAttrFlags, proc: impl AsFd) -> io::Result<()> {
    match sys::set_mount_attributes(CWD, path, attributes) {
        Err(error) if is_missing(&error) => remount(path, attributes, proc.as_fd()),
        set => set,
    }
}

fn is_missing(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(mounts::is_unknown)
}

/// Mounts what is mounted nowhere yet on a new name, from where it can be moved.
fn place(mount: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let stat = rustix::fs::fstat(mount)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileType::Directory,
        // It would be followed.
        FileType::Symlink => return Err(Errno::LOOP),
        _ => FileType::RegularFile,
    };
    let make = |name: &str| match kind {
        FileType::Directory => rustix::fs::mkdir(name, Mode::RWXU),
        _ => rustix::fs::mknodat(CWD, name, kind, Mode::RUSR, 0),
    };
    for number in 0_u64.. {
        let name = format!("p{number}");
        match make(&name) {
            Err(Errno::EXIST) => continue,
            made => made?,
        }
        let at = rustix::fs::open(&name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mounts::attach(mount, at)?;
        return Ok(name);
    }
    unreachable!("there are more numbers than files")
}

/// What [`set`] does, mount by mount.
fn remount(path: &str, attributes: MountAttrFlags, proc: BorrowedFd<'_>) -> io::Result<()> {
    let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let id = mount_id(&top, proc)?;
    drop(top);
    let mut hidden: Vec<PathBuf> = Vec::new();
    let found = reachable(&read(proc, "self/mountinfo")?, id);
    if found.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for mount in found {
        let wanted = flags(attributes);
        let hidden_already = hidden.iter().any(|dir| mount.below.starts_with(dir));
        if hidden_already || mount.flags.contains(wanted) {
            continue;
        }
        let at = |below: &Path| -> PathBuf { Path::new(path).iter().chain(below).collect() };
        // What there is already must stay: a user namespace may not take away what was locked outside of it.
        let flags = MountFlags::BIND | mount.flags | wanted;
        match rustix::mount::mount_remount(at(&mount.below), flags, "") {
            // It lies in a directory that is closed to us. It is now to whoever is in the step's groups as well.
            Err(Errno::ACCESS) => hidden.push(hide(&mount.below, at)?),
            remounted => remounted?,
        }
    }
    Ok(())
}

/// Covers the lowest directory above `below` that can be.
fn hide(below: &Path, at: impl Fn(&Path) -> PathBuf) -> rustix::io::Result<PathBuf> {
    for dir in below.ancestors().skip(1) {
        match rustix::mount::mount_bind(VOID, at(dir)) {
            Err(Errno::ACCESS) => {}
            covered => return covered.map(|()| dir.to_owned()),
        }
    }
    Err(Errno::ACCESS)
}

/// As mount(2) and mountinfo have them. Without any of when files were read, a remount leaves that as it is.
const FLAGS: [(MountAttrFlags, MountFlags, &[u8]); 5] = [
    (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY, b"ro"),
    (
        MountAttrFlags::MOUNT_ATTR_NOSUID,
        MountFlags::NOSUID,
        b"nosuid",
    ),
    (
        MountAttrFlags::MOUNT_ATTR_NODEV,
        MountFlags::NODEV,
        b"nodev",
    ),
    (
        MountAttrFlags::MOUNT_ATTR_NOEXEC,
        MountFlags::NOEXEC,
        b"noexec",
    ),
    (
        MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        MountFlags::NOSYMFOLLOW,
        b"nosymfollow",
    ),
];

/// The flags of mount(2) that come to the same.
pub(super) fn flags(attributes: MountAttrFlags) -> MountFlags {
    let has = FLAGS.iter().filter(|flag| attributes.contains(flag.0));
    has.map(|flag| flag.1).collect()
}

fn read(proc: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The number that a mount has in mountinfo; statx(2) tells it since Linux 5.8 only.
fn mount_id(file: &OwnedFd, proc: BorrowedFd<'_>) -> io::Result<u64> {
    let info = read(proc, &format!("self/fdinfo/{}", file.as_raw_fd()))?;
    let mut lines = info.split(|&byte| byte == b'\n');
    let id = lines.find_map(|line| number(line.strip_prefix(b"mnt_id:")?.trim_ascii()));
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// A line of mountinfo (proc(5)).
struct Line {
    id: u64,
    parent: u64,
    point: PathBuf,
    flags: MountFlags,
}

impl Line {
    fn read(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let point = unescaped(fields.nth(2)?);
        let options = fields.next()?;
        let has = |word: &[u8]| options.split(|&byte| byte == b',').any(|o| o == word);
        let flags = FLAGS.iter().filter(|flag| has(flag.2)).map(|flag| flag.1);
        Some(Self {
            id,
            parent,
            point,
            flags: flags.collect(),
        })
    }
}

/// Space, tab, newline and backslash are there as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = rest.get(1..4).filter(|_| byte == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = match code {
            Some(_) => &rest[4..],
            None => after,
        };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// A mount that a path leads to.
#[derive(Debug, PartialEq)]
struct Found {
    /// From the one that was asked for.
    below: PathBuf,
    flags: MountFlags,
}

/// The mount `top` and those below it, parents first, less what others are mounted over: no path leads there.
fn reachable(mountinfo: &[u8], top: u64) -> Vec<Found> {
    let lines = mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(Line::read);
    let lines: Vec<Line> = lines.collect();
    let line = |id| lines.iter().find(|line| line.id == id);
    let Some(root) = line(top) else {
        return Vec::new();
    };
    let lines: Vec<&Line> = lines
        .iter()
        .filter(|line| line.point.starts_with(&root.point))
        .collect();
    let line = |id| lines.iter().copied().find(|line| line.id == id);
    let mut found = Vec::new();
    for &mount in &lines {
        // From it up to the top.
        let mut way = vec![mount];
        while let Some(last) = way.last().filter(|last| last.id != top)
            && let Some(parent) = line(last.parent).filter(|parent| parent.id != last.id)
        {
            way.push(parent);
        }
        if way.last().is_none_or(|last| last.id != top) {
            continue;
        }
        // Something else on a mount of the way, at or above where the way leaves it.
        let covers = |other: &Line| {
            let from = way.iter().position(|line| line.id == other.parent);
            from.is_some_and(|from| {
                let next = way[from.saturating_sub(1)];
                next.id != other.id && next.point.starts_with(&other.point)
            })
        };
        let below = mount.point.strip_prefix(&root.point);
        if let Some(below) = below.ok().filter(|_| !lines.iter().copied().any(covers)) {
            found.push(Found {
                below: below.to_owned(),
                flags: mount.flags,
            });
        }
    }
    found
}

#[cfg(test)]
mod t {
    use super::*;

    /// As the kernel writes it of a tree in which one mount covers another, once at the same place and once above it.
    const TREE: &[u8] = br"24 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
30 24 0:22 / /tree rw,nosuid,nodev - tmpfs a rw
31 30 0:23 / /tree/a\040b\134c ro,noexec,relatime shared:1 - tmpfs b rw
32 30 0:24 / /tree/over/in rw - tmpfs c rw
33 30 0:25 / /tree/over rw,nosymfollow - tmpfs d rw
34 30 0:26 / /tree/twice rw - tmpfs e rw
35 34 0:27 / /tree/twice rw,nosuid - tmpfs f rw
36 24 0:28 / /trees rw - tmpfs g rw
37 33 0:29 / /tree/over/in rw,nodev - tmpfs h rw
";

    #[test]
    fn mounts_that_others_cover_are_left_out() {
        let found = reachable(TREE, 30);
        let found: Vec<_> = found
            .iter()
            .map(|found| (found.below.to_str().unwrap(), found.flags))
            .collect();
        use MountFlags as F;
        assert_eq!(
            found,
            [
                ("", F::NOSUID | F::NODEV),
                (r"a b\c", F::RDONLY | F::NOEXEC),
                ("over", F::NOSYMFOLLOW),
                ("twice", F::NOSUID),
                ("over/in", F::NODEV),
            ]
        );
        assert_eq!(reachable(TREE, 36).len(), 1);
        assert_eq!(reachable(TREE, 99), []);
    }

    #[test]
    fn a_line_that_is_cut_off_is_nothing() {
        for end in 0..TREE.len() {
            reachable(&TREE[..end], 30);
        }
        assert_eq!(unescaped(br"\1"), Path::new(r"\1"));
        assert_eq!(unescaped(br"\999"), Path::new(r"\999"));
    }
}
