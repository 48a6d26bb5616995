//! The process that made a call: its memory, its ids, and files as it names them.
//!
//! Paths are resolved from the caller's root and working directory, with its links of proc(5), and never above that root. (A
//! chroot(2) of the supervisor would do the same; container engines forbid it to whom they give no capabilities.) A file is
//! opened once, with `O_PATH`, and everything is done to what was opened.
//!
//! Links of proc(5) to what a process has (its root, its working directory, its descriptors) are followed where it is in the
//! caller's mount namespace, so in its step: of others the kernel alone knows what the caller may have.

use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::TO_LOOK;
use super::calls::At;
use super::insist;
use super::kernel;
use super::memory;
use super::memory::split;

type Result<T> = std::result::Result<T, Errno>;

/// The kernel's limit of links in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Of a proc file system (linux/magic.h).
pub(super) const PROC_SUPER_MAGIC: u32 = 0x9fa0;
/// Of the root directory of a proc file system (fs/proc/root.c, `PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;

/// A thread that waits for an answer.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// A proc file system that numbers processes as `tid` does.
    pub(super) proc: BorrowedFd<'a>,
    pub(super) tid: i32,
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Target<'_> {
    fn read(&self) -> impl memory::Read + '_ {
        |address, into: &mut [u8]| self.read_memory(address, into)
    }

    fn read_memory(&self, address: u64, into: &mut [u8]) -> Result<usize> {
        insist(TO_LOOK, || {
            kernel::read_memory(self.tid, address, into).map_err(errno)
        })
    }

    /// A path in the caller's memory.
    pub(super) fn path(&self, address: u64) -> Result<Vec<u8>> {
        memory::path(address, self.read())
    }

    /// `count` words in the caller's memory.
    pub(super) fn words(&self, address: u64, count: usize) -> Result<Vec<u32>> {
        memory::words(address, count, self.read())
    }

    /// Bytes in the caller's memory.
    pub(super) fn bytes<const N: usize>(&self, address: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.read_memory(address, &mut bytes)? {
            len if len == N => Ok(bytes),
            _ => Err(Errno::FAULT),
        }
    }

    /// The caller's memory, to be [written](write_memory) to: of that thread also when its number is another's.
    pub(super) fn memory(&self) -> Result<OwnedFd> {
        let path = format!("{}/mem", self.tid);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        insist(TO_LOOK, || {
            rustix::fs::openat(self.proc, &*path, flags, Mode::empty())
        })
    }

    /// What a link in the caller's directory of proc(5) leads to.
    pub(super) fn link(&self, name: &str) -> Result<OwnedFd> {
        let path = format!("{}/{name}", self.tid);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        insist(TO_LOOK, || {
            rustix::fs::openat(self.proc, &*path, flags, Mode::empty())
        })
    }

    /// The caller's file mode creation mask.
    pub(super) fn umask(&self) -> Result<u32> {
        let path = format!("{}/status", self.tid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.proc, path, flags, Mode::empty())?;
        // The mask is in the second line.
        let mut buffer = [0; 256];
        let len = rustix::io::read(file, &mut buffer)?;
        let mask = buffer[..len].split(|&byte| byte == b'\n').find_map(|line| {
            let mask = str::from_utf8(line.strip_prefix(b"Umask:")?).ok()?;
            u32::from_str_radix(mask.trim(), 8).ok()
        });
        mask.ok_or(Errno::INVAL)
    }

    /// Opens a file as the caller, whose root is `root`, names it.
    pub(super) fn open(&self, root: &OwnedFd, at: &At) -> Result<OwnedFd> {
        let path = match at.path {
            0 => Vec::new(),
            address => self.path(address)?,
        };
        if path.is_empty() {
            return match at.empty {
                true => self.directory(at.dir),
                false => Err(Errno::NOENT),
            };
        }
        self.open_path(root, at.dir, &path, at.follow)
    }

    /// The directory in which a new name is wanted, and the name; nothing if the path ends in no name. That of a directory
    /// may end in slashes (path_resolution(7)).
    pub(super) fn parent(
        &self,
        root: &OwnedFd,
        at: &At,
        directory: bool,
    ) -> Result<Option<(OwnedFd, Vec<u8>)>> {
        let path = self.path(at.path)?;
        let end = match directory {
            true => path
                .iter()
                .rposition(|byte| *byte != b'/')
                .map_or(0, |at| at + 1),
            false => path.len(),
        };
        let Some((dir, name)) = split(&path[..end]) else {
            return Ok(None);
        };
        let dir = self.open_path(root, at.dir, dir, true)?;
        Ok(Some((dir, name.to_vec())))
    }

    fn directory(&self, dir: i32) -> Result<OwnedFd> {
        match dir {
            libc::AT_FDCWD => self.link("cwd"),
            fd => self.link(&format!("fd/{fd}")),
        }
    }

    fn open_path(&self, root: &OwnedFd, dir: i32, path: &[u8], follow: bool) -> Result<OwnedFd> {
        let below = match path.first() {
            Some(b'/') => None,
            _ => Some(self.directory(dir)?),
        };
        let opened = match &below {
            None => open_plain(root, path, follow, ResolveFlags::IN_ROOT),
            Some(base) => open_plain(base, path, follow, ResolveFlags::BENEATH),
        };
        match opened {
            // A link of proc(5), or a loop; a way out of where the path began; a kernel before Linux 5.6.
            Err(Errno::LOOP | Errno::XDEV | Errno::NOSYS) => {}
            // `/proc/self` leads nowhere for who is not in the step's pid namespace; of what is in /dev some does that, too.
            Err(Errno::NOENT) if names_proc(path) => {}
            opened => return opened,
        }
        self.walk(
            root,
            below.unwrap_or(root.try_clone().map_err(errno)?),
            path,
            follow,
        )
    }

    /// Name by name from `here` on, with the caller's `/proc/self` in the place of the supervisor's.
    fn walk(
        &self,
        root: &OwnedFd,
        mut here: OwnedFd,
        path: &[u8],
        follow: bool,
    ) -> Result<OwnedFd> {
        let root_id = identity(root)?;
        let mut todo = names(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." && identity(&here)? == root_id {
                continue;
            }
            let next = open_name(&here, &name)?;
            let stat = rustix::fs::fstat(&next)?;
            let followed = follow || !todo.is_empty();
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || !followed {
                here = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            if rustix::fs::fstatfs(&here)?.f_type as u32 == PROC_SUPER_MAGIC {
                let at_root = rustix::fs::fstat(&here)?.st_ino == PROC_ROOT;
                match (at_root, name.as_slice()) {
                    (true, b"self" | b"thread-self") => here = self.link("")?,
                    // A plain link to a place below `self`.
                    (true, _) => todo.extend(names(&target_of(&next)?)),
                    (false, _) => {
                        if mounts_of(&here)? != identity(&self.link("ns/mnt")?)? {
                            return Err(Errno::ACCESS);
                        }
                        let flags = OFlags::PATH | OFlags::CLOEXEC;
                        here = rustix::fs::openat(&here, name, flags, Mode::empty())?;
                    }
                }
                continue;
            }
            let target = target_of(&next)?;
            if target.first() == Some(&b'/') {
                here = root.try_clone().map_err(errno)?;
            }
            todo.extend(names(&target));
        }
        Ok(here)
    }
}

/// Writes to a process' memory.
pub(super) fn write_memory(memory: &OwnedFd, address: u64, bytes: &[u8]) -> Result<()> {
    match rustix::io::pwrite(memory, bytes, address)? {
        len if len == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// What tells a directory from others.
fn identity(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What tells the mount namespace of a process from others. `dir` is its directory of proc(5), or one in that.
fn mounts_of(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = match rustix::fs::statat(dir, "ns/mnt", AtFlags::empty()) {
        Err(Errno::NOENT) => rustix::fs::statat(dir, "../ns/mnt", AtFlags::empty()),
        stat => stat,
    };
    let stat = stat?;
    Ok((stat.st_dev, stat.st_ino))
}

fn target_of(link: &OwnedFd) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes())
}

fn names_proc(path: &[u8]) -> bool {
    let names = path.split(|&byte| byte == b'/').take(4);
    names
        .into_iter()
        .any(|name| matches!(name, b"proc" | b"dev"))
}

/// One name, which is not followed if it is a link.
fn open_name(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// The names of a path, the first one last. What ends in a slash or a dot names a directory, also behind a link: there `.` is
/// a name as well.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = path.split(|&byte| byte == b'/').rev();
    let last = pieces.next().map(|last| match last {
        b"" => b".",
        last => last,
    });
    let others = pieces.filter(|name| !matches!(*name, b"" | b"."));
    last.into_iter().chain(others).map(<[u8]>::to_vec).collect()
}

/// Several names at once. `ELOOP` at a link of proc(5), which leads somewhere else for the supervisor than for the caller.
fn open_plain(base: &OwnedFd, path: &[u8], follow: bool, within: ResolveFlags) -> Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let resolve = ResolveFlags::NO_MAGICLINKS | within;
    match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
        // A rename somewhere on the system raced with `..` (openat2(2)): name by name there is no such race.
        Err(Errno::INTR | Errno::AGAIN) => Err(Errno::XDEV),
        opened => opened,
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    /// A way out of the directory that a path is relative to is gone name by name; with the root as a chroot(2), it leads
    /// where it leads for the kernel (`RESOLVE_IN_ROOT`, openat2(2)).
    #[test]
    fn name_by_name_a_path_leads_where_the_kernel_leads() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        for (name, target) in [
            ("l", "a"),
            ("to-dir", "d/e"),
            ("slash", "d/e/"),
            ("file-slash", "a/"),
            ("dangling", "nowhere"),
            ("loop", "loop"),
            ("above", "../../d"),
        ] {
            symlink(target, dir.path().join(name)).unwrap();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &std::path::Path| rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let (root, base, proc) = (
            open(dir.path()),
            open(&dir.path().join("d/e")),
            open("/proc".as_ref()),
        );
        let target = Target {
            proc: proc.as_fd(),
            tid: std::process::id() as i32,
        };
        for path in [
            "a",
            "a/",
            "a/.",
            "a//",
            "a/..",
            "d",
            "d/",
            "d/.",
            "d/e/..",
            "l",
            "l/",
            "l/.",
            "to-dir",
            "to-dir/",
            "to-dir/.",
            "slash",
            "slash/..",
            "file-slash",
            "dangling",
            "dangling/",
            "loop",
            "loop/",
            "above",
            "above/e",
            "nowhere/",
            ".",
            "",
        ] {
            for follow in [true, false] {
                let named = format!("../../../{path}");
                let found = target.open_path(&root, base.as_raw_fd(), named.as_bytes(), follow);
                let from_root = format!("d/e/{named}");
                let wanted = open_plain(&root, from_root.as_bytes(), follow, ResolveFlags::IN_ROOT);
                let which = |opened: Result<OwnedFd>| opened.and_then(|file| identity(&file));
                assert_eq!(which(found), which(wanted), "{path} {follow}");
            }
        }
    }
}
