//! Mounts by descriptor (fsopen(2) and its family), and paths resolved inside a root.

use std::ffi::CStr;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::MountAttrFlags;
use rustix::mount::MountFlags;
use rustix::mount::MountPropagationFlags;
use rustix::mount::MoveMountFlags;
use rustix::mount::OpenTreeFlags;

use super::attributes;
use super::sys;

type Result<T> = rustix::io::Result<T>;

/// The kernel's own limit (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// A file system that is mounted nowhere yet.
pub(super) fn new(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let fs = match rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(error) if is_unknown(error) => return new_by_string(kind, options, attributes),
        opened => opened?,
    };
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", kind)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(fs.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Whether a call failed since the kernel, or a container's seccomp filter, does not know it. Filters say EPERM, too, which
/// what stands in for the call then says as well, if it was meant.
pub(super) fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

/// [`new`] without fsopen(2). mount(2) needs a place, and `/proc` is there everywhere: it is covered for a moment, in a
/// mount namespace that nobody else is in.
fn new_by_string(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let pairs = options.iter().map(|(key, value)| format!("{key}={value}"));
    let text = pairs.collect::<Vec<_>>().join(",");
    let text = std::ffi::CString::new(text).map_err(|_| Errno::INVAL)?;
    mount_for_a_moment("/proc", kind, attributes::flags(attributes), &text)
}

/// Mounts a file system on `place`, and keeps it without its place.
fn mount_for_a_moment(
    place: &str,
    kind: &str,
    flags: MountFlags,
    options: &std::ffi::CStr,
) -> Result<OwnedFd> {
    rustix::mount::mount(kind, place, kind, flags, Some(options))?;
    let mount = copy(CWD, place, false);
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH)?;
    mount
}

/// Keeps what is mounted in this namespace from the others that `/` is in.
pub(super) fn make_private() -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
}

/// Whether there are mounts, and the calls that make them by descriptor. It does what [`make_private`] does.
pub(super) fn may_mount() -> Result<()> {
    make_private()?;
    match copy(CWD, "/", true) {
        Err(Errno::NOSYS) => Err(Errno::NOSYS),
        // Whatever else is to be said of it a step says better.
        _ => Ok(()),
    }
}

/// Whether pivot_root(2) is allowed. Docker's seccomp profile refuses it even where it allows mounts (`--cap-add=SYS_ADMIN`).
/// In a mount namespace of our own a call without a path does nothing but say so.
pub(super) fn may_pivot() -> Result<()> {
    match rustix::process::pivot_root("", "") {
        Err(Errno::NOENT) => Ok(()),
        refused => refused,
    }
}

/// Another mount of what `path` below `at` is, mounted nowhere yet; with the mounts below it if `recursive`. A
/// symbolic link at the end is not followed.
pub(super) fn copy(at: impl AsFd, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(at, path.as_ref(), flags)
}

/// Mounts `mount` on what `at` is open on.
pub(super) fn attach(mount: impl AsFd, at: impl AsFd) -> Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        at,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Makes a mount and the mounts below it read-only, whatever is done to the file system elsewhere (Linux 5.12; for steps it
/// is [`attributes::make_read_only`]).
pub(super) fn make_read_only(mount: impl AsFd) -> std::io::Result<()> {
    sys::set_mount_attributes(mount, "", MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Opens `path` (`O_PATH`) as a process whose root is `root` would, links followed.
pub(super) fn open_in(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    open_in_with(root, path, OFlags::PATH)
}

/// As [`open_in`], a directory, for calls that take no `O_PATH` descriptor.
pub(super) fn open_dir_in(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    open_in_with(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn open_in_with(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    loop {
        let opened = rustix::fs::openat2(
            root.as_fd(),
            path.as_ref(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        );
        match opened {
            // A rename somewhere on the system raced with `..` (openat2(2)).
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) if is_unknown(error) => {
                return walk_in(root.as_fd(), path.as_ref(), flags);
            }
            opened => return opened,
        }
    }
}

/// [`open_in_with`] without openat2(2), name by name. Nobody may be changing the tree.
fn walk_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let open = |dir: BorrowedFd<'_>, name: &OsStr| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty())
    };
    let mut names = Names::of(path);
    let mut way = vec![open(root, OsStr::new("."))?];
    while let Some(name) = names.todo.pop() {
        let dir = way.last().expect("the root stays").as_fd();
        if name == ".." {
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        let found = open(dir, &name)?;
        let mode = rustix::fs::fstat(&found)?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::Symlink {
            way.push(found);
            continue;
        }
        let target = rustix::fs::readlinkat(dir, name.as_os_str(), Vec::new())?;
        if names.follow(&target)? {
            way.truncate(1);
        }
    }
    let found = way.pop().expect("the root stays");
    match flags.contains(OFlags::PATH) {
        true => Ok(found),
        false => rustix::fs::openat(&found, ".", flags | OFlags::CLOEXEC, Mode::empty()),
    }
}

/// The path of `path` inside `root` with all links followed, whether it exists or not; relative to `root`, without
/// `..`. Nobody may be changing the tree.
pub(super) fn real_path(root: impl AsFd, path: &Path) -> Result<PathBuf> {
    let mut names = Names::of(path);
    let mut real = PathBuf::new();
    while let Some(name) = names.todo.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let link = open_in_with(&root, Path::new("/").join(&real), OFlags::PATH)
            .and_then(|dir| rustix::fs::readlinkat(dir, name.as_os_str(), Vec::new()));
        match link {
            Ok(target) => {
                if names.follow(&target)? {
                    real.clear();
                }
            }
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => real.push(name),
            Err(e) => return Err(e),
        }
    }
    Ok(real)
}

/// The names of a path that are still to be looked at.
struct Names {
    /// The next one last.
    todo: Vec<OsString>,
    /// How many links were followed.
    links: u32,
}

impl Names {
    fn of(path: &Path) -> Self {
        Self {
            todo: components(path).rev().collect(),
            links: 0,
        }
    }

    /// Puts the names of a link's target in front; says whether they begin at the root.
    fn follow(&mut self, target: &CStr) -> Result<bool> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = Path::new(OsStr::from_bytes(target.to_bytes()));
        self.todo.extend(components(target).rev());
        Ok(target.is_absolute())
    }
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// Makes the directory `path` below `at`, and those above it.
pub(super) fn make_dirs(at: impl AsFd, path: &Path) -> Result<()> {
    let at = at.as_fd();
    match rustix::fs::mkdirat(at, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::NOENT) => {
            if let Some(parent) = path.parent() {
                make_dirs(at, parent)?;
            }
            rustix::fs::mkdirat(at, path, Mode::from_raw_mode(0o755))
        }
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Makes the directory `real` in `root`, and those above it; `real` has no links in it. Should somebody put one there
/// meanwhile, it is not followed.
pub(super) fn make_dirs_in(root: impl AsFd, real: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for name in components(real) {
        match rustix::fs::mkdirat(&dir, name.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        dir = rustix::fs::openat(&dir, name.as_os_str(), flags, Mode::empty())?;
    }
    Ok(dir)
}

/// Of the files that are made here.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Makes an empty file below `at` where nothing is. A link that is there is not followed.
pub(super) fn make_file(at: impl AsFd, path: impl AsRef<Path>) -> Result<()> {
    match rustix::fs::mknodat(at, path.as_ref(), FileType::RegularFile, FILE_MODE, 0) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Makes a file with `data` below `at`, where nothing may be yet.
pub(super) fn write_file(at: impl AsFd, path: impl AsRef<Path>, mut data: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(at, path.as_ref(), flags, FILE_MODE)?;
    while !data.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, data))?;
        data = &data[written..];
    }
    Ok(())
}

/// Why overlayfs refused a mount.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The error.
    pub(super) errno: Errno,
    /// What the kernel says of it; empty if nothing.
    pub(super) said: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        let said = String::new();
        Self { errno, said }
    }
}

impl From<Refusal> for std::io::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.errno.into()
    }
}

/// The path as it can stand in an option of overlayfs: 255 bytes, and nothing with a meaning of its own there.
pub(super) fn as_option(path: &Path) -> Option<&str> {
    let plain = |path: &&str| path.len() < 256 && !path.contains(['\\', ':', ',']);
    path.to_str().filter(plain)
}

/// An overlay of `layers` (bottom first), mounted nowhere yet. The layers, `upper` and `work` are paths as
/// [`as_option`] lets them pass.
///
/// `userxattr` is what makes opaque directories possible in a user namespace; `volatile` leaves out the sync of the
/// whole file system that an unmount does otherwise.
pub(super) fn overlay(
    layers: &[String],
    upper: Option<[&str; 2]>,
) -> std::result::Result<OwnedFd, Refusal> {
    let fs = match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(error) if is_unknown(error) => return Ok(overlay_by_string(layers, upper)?),
        opened => opened?,
    };
    let set = |key: &str, value: &str| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value);
    let configure = || {
        set("source", "overlay")?;
        // The topmost lower comes first.
        for layer in layers.iter().rev() {
            set("lowerdir+", layer)?;
        }
        if let Some([upper, work]) = upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")?;
        }
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr")?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        rustix::mount::fsmount(
            fs.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
    };
    configure().or_else(|errno| {
        let said = messages(&fs);
        if errno == Errno::INVAL && wants_a_string(&said) {
            return Ok(overlay_by_string(layers, upper)?);
        }
        Err(Refusal { errno, said })
    })
}

/// Whether it may be that overlayfs takes options as one string alone, from what it says when it refuses them. Before Linux 6.5
/// it did, had nothing to say of its own, and refused what it did not know only at the end; but the kernel, which puts
/// the string together for it, takes no more than a page of it, some 30 layers by their paths.
fn wants_a_string(said: &str) -> bool {
    said.is_empty() || said.contains("Unknown parameter") || said.contains("VFS: Legacy: ")
}

/// What a file system in the making has to say: one message a read, each with a letter for its severity in front.
fn messages(fs: &OwnedFd) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = rustix::io::read(fs, &mut buffer[..]) {
        let text = String::from_utf8_lossy(&buffer[..len]);
        let message = text
            .trim_end()
            .trim_start_matches(|c: char| "eiw".contains(c));
        said.push(message.trim_start().to_owned());
    }
    said.join("; ")
}

fn overlay_by_string(layers: &[String], upper: Option<[&str; 2]>) -> Result<OwnedFd> {
    // All options together fit on a page only if the names are short.
    let mut topmost_first = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate().rev() {
        let name = format!("s{number}");
        match rustix::fs::symlink(layer, &name) {
            // Stacked once more, with another layer on top.
            Err(Errno::EXIST) => {
                rustix::fs::unlink(&name).and_then(|()| rustix::fs::symlink(layer, &name))?
            }
            made => made?,
        }
        topmost_first.push(name);
    }
    let mut options = format!("userxattr,lowerdir={}", topmost_first.join(":"));
    if let Some([upper, work]) = upper {
        options += &format!(",volatile,upperdir={upper},workdir={work}");
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    // mount(2) needs a place; the copy is what is kept.
    let place = "overlay";
    make_dirs(CWD, Path::new(place))?;
    mount_for_a_moment(place, "overlay", MountFlags::empty(), &options)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn what_old_kernels_say_of_options_is_known() {
        // Linux 6.1, of 498 layers, and 6.18, of 601, which no string would mend.
        assert!(wants_a_string("VFS: Legacy: Cumulative options too large"));
        assert!(!wants_a_string(
            "overlay: too many lower directories, limit is 500"
        ));
    }

    /// As a step leaves one in a cache that another has, just before that one's mount point is made.
    #[test]
    fn a_mount_point_is_not_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let at = rustix::fs::openat(CWD, &inside, flags, Mode::empty()).unwrap();
        make_file(&at, "link").unwrap();
        assert!(!outside.exists());
        assert_eq!(write_file(&at, "link", b"x"), Err(Errno::EXIST));
        assert!(!outside.exists());
        assert_eq!(
            make_dirs_in(&at, Path::new("link/sub")).unwrap_err(),
            Errno::NOTDIR
        );

        make_file(&at, "file").unwrap();
        std::fs::write(inside.join("file"), "kept").unwrap();
        make_file(&at, "file").unwrap();
        assert_eq!(std::fs::read(inside.join("file")).unwrap(), b"kept");
    }
}
