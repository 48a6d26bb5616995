//! The file system of a step.
//!
//! Everything is put together in the step's own mount namespace and vanishes with it. Names are made in one small
//! memory file system, the *scratch*, mounted over the host's `/proc` there:
//!
//! ```text
//! l0 l1 …  links to layers whose paths are too long for a mount option
//! u w      links to upper and work directory, if theirs are
//! stub     the lowest layer: mount points that no layer has
//! top      a layer above all, made only when a mount point cannot come from below
//! root     where the overlay is mounted
//! hosts own-hosts resolv f0 f1 …  files in memory
//! p0 p1 …  where mounts are meanwhile that can be made read-only only while they are mounted
//! kernel   /proc, /sys and /dev, until there is a root to move them to
//! ```
//!
//! Mount points come from the stub and so never show in the upper directory, nor does a change of their parents'
//! times. A stub is of no use below a layer that deletes the name or has a symbolic link on the way; what is still
//! missing once the layers are stacked is put into `top`, with its parents' metadata copied there, and the layers are
//! stacked again.
//!
//! All that is the overlay stacker. Where the root is a [directory](Root::Directory), its mount points are made in it
//! before the step and removed afterwards, by the [builder](super::points).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::Owner;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::Uid;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::mount::UnmountFlags;

use super::attributes;
use super::child::Config;
use super::child::HOSTNAME;
use super::error::During;
use super::error::Failure;
use super::kernelfs;
use super::kernelfs::KernelFs;
use super::kernelfs::PLACES;
use super::mounts;
use super::probe::OVERLAY_FIX;
use super::step::HOST_GATEWAY;
use super::step::Mount;
use super::step::MountSource;
use super::step::Reach;
use super::step::Root;
use super::step::Security;
use super::step::Step;

/// Where the CA bundle is in a step.
pub(super) const CA_PATH: &str = "/run/rbuild/ca.pem";

/// overlayfs' limit of 500 (fs/overlayfs/params.h, OVL_MAX_STACK) less `stub` and `top`.
pub(crate) const MAX_LOWERS: usize = 498;

/// Something to be mounted.
struct ToMount {
    dest: PathBuf,
    mount: OwnedFd,
    directory: bool,
    /// Whether it takes over the mode of the directory it is mounted on.
    tmpfs: Option<Tmpfs>,
    named: String,
}

impl ToMount {
    /// The mode of a directory that is a mount point for it; none if that is a file.
    fn point(&self) -> Option<u32> {
        match (self.directory, self.tmpfs) {
            (_, Some(_)) => Some(TMPFS_MODE),
            (true, None) => Some(DIRECTORY_MODE),
            (false, None) => None,
        }
    }
}

/// Of mount points that are directories.
const DIRECTORY_MODE: u32 = 0o755;

/// As runc has it, a tmpfs gets the mode of the directory it is mounted on, if the image has one there.
#[derive(Clone, Copy)]
struct Tmpfs {
    readonly: bool,
}

/// The mode of a tmpfs that is mounted where the image has nothing.
pub(super) const TMPFS_MODE: u32 = 0o1777;

/// What of a step's file system does not depend on the step. The stub has mount points for all of it.
pub(super) struct Prepared {
    kernel: KernelFs,
    /// `/etc/hosts`, `/etc/resolv.conf` and the CA bundle.
    files: Vec<ToMount>,
    /// What [`HOST_GATEWAY`] stands for.
    host: String,
}

impl Prepared {
    /// A file of the step's `/proc`, which lies in the scratch.
    pub(super) fn open_proc(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(self.kernel.proc(), path, flags, Mode::empty())
    }
}

/// Makes the scratch the current directory, and in it what every step gets, `proc` as its `/proc`.
pub(super) fn prepare(
    config: &Config,
    reach: Reach,
    security: Security,
    proc: &OwnedFd,
) -> Result<Prepared, Failure> {
    let scratch = mounts::new(
        "tmpfs",
        &[("mode", "0755")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .during("mount a tmpfs")?;
    // It has to be somewhere, and the host's `/proc` is there everywhere and needed no more.
    rustix::fs::openat(CWD, "/proc", path_flags(), Mode::empty())
        .and_then(|at| mounts::attach(&scratch, at))
        .and_then(|()| rustix::process::fchdir(&scratch))
        .during("mount a tmpfs in the step's namespace")?;
    let kernel = kernelfs::mount_all(reach, security, proc)?;
    let host = config.host_address(reach);
    let files = etc_files(config, reach, &host, proc)?;
    for path in PLACES {
        make_mount_point("stub", Path::new(path), Some(DIRECTORY_MODE))
            .during(format_args!("make a mount point for `/{path}`"))?;
    }
    make_stub(&files)?;
    mounts::make_dirs(CWD, Path::new("root")).during("make the root's mount point")?;
    Ok(Prepared {
        kernel,
        files,
        host,
    })
}

/// Makes the step's file system and moves the process into it. Afterwards `/` is the step's and nothing of the
/// host's can be reached by a path.
pub(super) fn enter(config: &Config, step: &Step, prepared: Prepared) -> Result<(), Failure> {
    let mut all = prepared.files;
    let proc = prepared.kernel.proc();
    if (step.hostname.as_str(), step.hosts.as_slice()) != (HOSTNAME, &[]) {
        let hosts = hosts(&step.hostname, &step.hosts, &prepared.host);
        all[0] = memory_file(HOSTS, hosts.as_bytes(), "own-hosts", proc)?;
    }
    let files = all.len();
    for mount in &step.mounts {
        all.push(prepare_mount(mount, all.len(), config.single, proc)?);
    }
    // As BuildKit does: what is mounted on `/etc` hides the files there; parents come before children.
    all[files..].sort_by_key(|p| p.dest.components().count());
    make_stub(&all[files..])?;

    let root = match &step.root {
        Root::Overlay {
            lowers,
            upper,
            work,
        } => stack_with_mount_points(
            &Layers {
                lowers,
                upper: upper.as_deref(),
                work,
            },
            &all,
        )?,
        Root::Directory { path } => directory(path)?,
    };
    if step.readonly {
        // What is mounted in it comes after.
        attributes::set("root", MountAttrFlags::MOUNT_ATTR_RDONLY, proc)
            .during("make the root read-only")?;
    }
    prepared.kernel.move_to(root.as_fd())?;
    for p in &all {
        let doing = format_args!("mount {} on `{}`", p.named, p.dest.display());
        attach(root.as_fd(), p, proc).during(doing)?;
    }
    pivot(root.as_fd())
}

fn attach(root: BorrowedFd<'_>, mount: &ToMount, proc: &OwnedFd) -> std::io::Result<()> {
    let at = place(root, mount)?;
    if let Some(tmpfs) = mount.tmpfs {
        let mode = rustix::fs::fstat(&at)?.st_mode & 0o7777;
        rustix::fs::chmodat(
            &mount.mount,
            ".",
            Mode::from_raw_mode(mode),
            AtFlags::empty(),
        )?;
        if tmpfs.readonly {
            attributes::make_read_only(&mount.mount, proc)?;
        }
    }
    Ok(mounts::attach(&mount.mount, at)?)
}

/// Where a mount goes. All mount points were there before anything was mounted; one that is missing now lies in
/// another mount, and is made there, as docker does.
fn place(root: BorrowedFd<'_>, mount: &ToMount) -> rustix::io::Result<OwnedFd> {
    match mounts::open_in(root, &mount.dest) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let real = mounts::real_path(root, &mount.dest)?;
    // Another step may be changing what is there, a cache mount that both have.
    match (mount.directory, real.parent(), real.file_name()) {
        (false, Some(parent), Some(name)) => {
            let parent = mounts::make_dirs_in(root, parent)?;
            mounts::make_file(&parent, name)?;
        }
        _ => {
            let made = mounts::make_dirs_in(root, &real)?;
            if mount.tmpfs.is_some() {
                let mode = Mode::from_raw_mode(TMPFS_MODE);
                rustix::fs::chmodat(&made, ".", mode, AtFlags::empty())?;
            }
        }
    }
    mounts::open_in(root, &mount.dest)
}

fn path_flags() -> rustix::fs::OFlags {
    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC
}

const HOSTS: &str = "/etc/hosts";

/// `/etc/hosts`, `/etc/resolv.conf` and the CA bundle.
fn etc_files(
    config: &Config,
    reach: Reach,
    host: &str,
    proc: &OwnedFd,
) -> Result<Vec<ToMount>, Failure> {
    let hosts = hosts(HOSTNAME, &[], host);
    let mut files = vec![
        memory_file(HOSTS, hosts.as_bytes(), "hosts", proc)?,
        memory_file(
            "/etc/resolv.conf",
            &config.resolv_conf(reach),
            "resolv",
            proc,
        )?,
    ];
    if let Some(ca) = &config.ca {
        let bind = Mount {
            dest: CA_PATH.into(),
            source: MountSource::Bind {
                path: ca.clone(),
                subpath: PathBuf::new(),
                readonly: true,
            },
        };
        files.push(prepare_mount(&bind, files.len(), config.single, proc)?);
    }
    Ok(files)
}

/// The lines BuildKit writes, then the extra ones.
pub(super) fn hosts(hostname: &str, extra: &[(String, String)], host: &str) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let address = match address.as_str() {
            HOST_GATEWAY => host,
            address => address,
        };
        writeln!(text, "{address}\t{name}").expect("a string takes everything");
    }
    text
}

fn memory_file(dest: &str, data: &[u8], name: &str, proc: &OwnedFd) -> Result<ToMount, Failure> {
    let make = || {
        mounts::write_file(CWD, name, data)?;
        mounts::copy(CWD, name, false)
    };
    let mount = make().during(format_args!("make `{dest}`"))?;
    attributes::make_read_only(&mount, proc).during(format_args!("make `{dest}` read-only"))?;
    Ok(ToMount {
        dest: dest.into(),
        mount,
        directory: false,
        tmpfs: None,
        named: "a file".to_owned(),
    })
}

fn prepare_mount(
    mount: &Mount,
    number: usize,
    single: bool,
    proc: &OwnedFd,
) -> Result<ToMount, Failure> {
    let dest = &mount.dest;
    let (tree, named) = match &mount.source {
        MountSource::Bind {
            path,
            subpath,
            readonly,
        } => {
            let named = format!("`{}`", path.join(subpath).display());
            let doing = format_args!("bind {named} for `{}`", dest.display());
            let tree = match subpath.as_os_str().is_empty() {
                true => mounts::copy(CWD, path, true),
                false => rustix::fs::openat(CWD, path, path_flags(), Mode::empty())
                    .and_then(|root| mounts::open_in(root, subpath))
                    .and_then(|inside| mounts::copy(inside, "", true)),
            }
            .during(doing)?;
            if *readonly {
                attributes::make_read_only(&tree, proc).during(doing)?;
            }
            (tree, named)
        }
        MountSource::Overlay {
            lowers,
            upper,
            work,
            subpath,
        } => {
            let doing = format_args!("stack the layers for `{}`", dest.display());
            let tree = layers(&format!("m{number}"), lowers, upper.as_ref(), work, subpath)
                .map_err(|refusal| refusal.errno)
                .during(doing)?;
            if upper.is_none() {
                attributes::make_read_only(&tree, proc).during(doing)?;
            }
            (tree, "layers".to_owned())
        }
        MountSource::Tmpfs { size, readonly } => {
            let size = size.to_string();
            let options = [("size", size.as_str())];
            let doing = format_args!("make a tmpfs for `{}`", dest.display());
            let tree = mounts::new(
                "tmpfs",
                &options[..usize::from(size != "0")],
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
            )
            .during(doing)?;
            return Ok(ToMount {
                dest: dest.clone(),
                mount: tree,
                directory: true,
                tmpfs: Some(Tmpfs {
                    readonly: *readonly,
                }),
                named: "a tmpfs".to_owned(),
            });
        }
        MountSource::File {
            data,
            mode,
            uid,
            gid,
        } => {
            let display = dest.display().to_string();
            let name = format!("f{number}");
            let file = memory_file(&display, data, &name, proc)?;
            give(&name, (*uid, *gid), single)
                .and_then(|()| Ok(rustix::fs::chmod(&name, Mode::from_raw_mode(*mode))?))
                .during(format_args!("give `{display}` to {uid}:{gid}"))?;
            return Ok(ToMount {
                dest: dest.clone(),
                ..file
            });
        }
    };
    let stat = rustix::fs::fstat(&tree).during(format_args!("look at {named}"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return Err(Errno::LOOP).during(format_args!("bind {named}, a symbolic link"));
    }
    Ok(ToMount {
        dest: dest.clone(),
        mount: tree,
        directory: kind == FileType::Directory,
        tmpfs: None,
        named,
    })
}

/// Gives a file of ours to somebody. Where there is one id, that is recorded for the supervisor to show; a tmpfs that keeps
/// no such attributes (before Linux 6.6) leaves it root's.
fn give(name: &str, (uid, gid): (u32, u32), single: bool) -> std::io::Result<()> {
    if single {
        return match Owner::of(uid, gid).record(name) {
            Err(Errno::OPNOTSUPP) => Ok(()),
            recorded => recorded.map_err(Into::into),
        };
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chown(name, Some(uid), Some(gid))?)
}

/// The overlay of a mount, or a path inside it.
fn layers(
    prefix: &str,
    lowers: &[PathBuf],
    upper: Option<&PathBuf>,
    work: &Path,
    subpath: &Path,
) -> Result<OwnedFd, mounts::Refusal> {
    let mut names = link_all(prefix, lowers)?;
    if names.is_empty() {
        // Overlay wants a layer, also of a file system without any.
        let void = format!("{prefix}v");
        mounts::make_dirs(CWD, Path::new(&void))?;
        names.push(void);
    }
    let (u, w, place) = (
        format!("{prefix}u"),
        format!("{prefix}w"),
        format!("{prefix}r"),
    );
    match upper {
        Some(upper) => {
            rustix::fs::symlink(upper, &u)?;
            rustix::fs::symlink(work, &w)?;
        }
        None => {
            mounts::make_dirs(CWD, Path::new(&u))?;
            mounts::make_dirs(CWD, Path::new(&w))?;
        }
    }
    let mount = mounts::overlay(&names, Some([&u, &w]))?;
    if subpath.as_os_str().is_empty() {
        return Ok(mount);
    }
    // A part can be copied out of a mount that is mounted somewhere only.
    mounts::make_dirs(CWD, Path::new(&place))?;
    let at = rustix::fs::openat(CWD, &place, path_flags(), Mode::empty())?;
    mounts::attach(&mount, at)?;
    Ok(mounts::copy(mounts::open_in(&mount, subpath)?, "", true)?)
}

/// Names for `paths` that a mount option can hold: the path itself, or a link named `prefix` and a number.
fn link_all(prefix: &str, paths: &[PathBuf]) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::with_capacity(paths.len() + 2);
    for (number, path) in paths.iter().enumerate() {
        names.push(link(&format_args!("{prefix}{number}"), path)?);
    }
    Ok(names)
}

/// The same for one path, with the link's whole name.
fn link(name: &impl Display, path: &Path) -> rustix::io::Result<String> {
    if let Some(option) = mounts::as_option(path) {
        return Ok(option.to_owned());
    }
    let name = name.to_string();
    rustix::fs::symlink(path, &name)?;
    Ok(name)
}

/// A directory as the root. Its mount points are there ([`points`](super::points)).
fn directory(path: &Path) -> Result<OwnedFd, Failure> {
    let bind = || {
        let root = mounts::copy(CWD, path, false)?;
        let at = rustix::fs::openat(CWD, "root", path_flags(), Mode::empty())?;
        mounts::attach(&root, at)?;
        Ok::<_, Errno>(root)
    };
    bind().during(format_args!("bind `{}` as the root", path.display()))
}

/// The layers of a root.
struct Layers<'a> {
    lowers: &'a [PathBuf],
    upper: Option<&'a Path>,
    work: &'a Path,
}

/// Makes mount points in the stub.
fn make_stub(mounts: &[ToMount]) -> Result<(), Failure> {
    for mount in mounts {
        make_mount_point("stub", relative(&mount.dest), mount.point()).during(format_args!(
            "make a mount point for `{}`",
            mount.dest.display()
        ))?;
    }
    Ok(())
}

/// The root with a place for every mount, for all of which the stub has one.
fn stack_with_mount_points(root: &Layers<'_>, prepared: &[ToMount]) -> Result<OwnedFd, Failure> {
    let fixed = PLACES.map(|name| (Path::new(name), Some(DIRECTORY_MODE)));
    let prepared = prepared.iter().map(|p| (p.dest.as_path(), p.point()));
    let wanted = fixed.into_iter().chain(prepared);
    let mut names = vec!["stub".to_owned()];
    names.extend(link_all("l", root.lowers).during("name the layers")?);
    let upper = match root.upper {
        Some(upper) => Some([
            link(&"u", upper).during("name the layers")?,
            link(&"w", root.work).during("name the layers")?,
        ]),
        None => None,
    };
    let stacked = stack(&names, root, upper.as_ref())?;

    let mut missing = Vec::new();
    for (path, mode) in wanted {
        match mounts::open_in(&stacked, path) {
            Ok(_) => {}
            // ENOTDIR: a link to what is a file in the stub.
            Err(Errno::NOENT | Errno::NOTDIR) => missing.push((path, mode)),
            Err(e) => {
                return Err(e).during(format_args!("find the mount point `{}`", path.display()));
            }
        }
    }
    if missing.is_empty() {
        return Ok(stacked);
    }
    for (path, mode) in missing {
        let doing = format_args!("make a mount point for `{}`", path.display());
        let real = mounts::real_path(&stacked, path).during(doing)?;
        make_mount_point("top", &real, mode).during(doing)?;
        copy_parents(stacked.as_fd(), &real).during(doing)?;
    }
    drop(stacked);
    rustix::mount::unmount("root", UnmountFlags::DETACH).during("unmount the first root")?;
    if let Some([_, work]) = &upper {
        // Overlay refuses a work directory that a volatile mount has left its mark in (overlayfs.rst, "Volatile
        // mount"), since the upper directory may have lost writes. This one has seen none.
        std::fs::remove_dir_all(Path::new(work).join("work").join("incompat"))
            .during("stack the layers again")?;
    }
    names.push("top".to_owned());
    stack(&names, root, upper.as_ref())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A directory of that mode, or a file.
fn make_mount_point(layer: &str, path: &Path, mode: Option<u32>) -> rustix::io::Result<()> {
    let path = Path::new(layer).join(path);
    if let Some(mode) = mode {
        mounts::make_dirs(CWD, &path)?;
        return match mode {
            // As it is made.
            DIRECTORY_MODE => Ok(()),
            mode => rustix::fs::chmod(&path, Mode::from_raw_mode(mode)),
        };
    }
    if let Some(parent) = path.parent() {
        mounts::make_dirs(CWD, parent)?;
    }
    mounts::make_file(CWD, &path)
}

/// Mounts the layers on `root`; `upper` are the names of upper and work directory.
fn stack(
    names: &[String],
    root: &Layers<'_>,
    upper: Option<&[String; 2]>,
) -> Result<OwnedFd, Failure> {
    let upper = upper.map(|names| names.each_ref().map(String::as_str));
    let mut names = names.to_vec();
    if upper.is_none() && names.len() < 2 {
        // Without an upper directory overlay wants two layers.
        mounts::make_dirs(CWD, Path::new("void")).during("make an empty layer")?;
        names.insert(0, "void".to_owned());
    }
    let mounted = mounts::overlay(&names, upper).and_then(|mount| {
        let at = rustix::fs::openat(CWD, "root", path_flags(), Mode::empty())?;
        mounts::attach(&mount, at)?;
        Ok(mount)
    });
    mounted.map_err(|refusal| refused(refusal, root))
}

fn refused(refusal: mounts::Refusal, root: &Layers<'_>) -> Failure {
    let mut doing = format!("stack {} layers with overlayfs", root.lowers.len());
    let lowers = root.lowers.iter().map(PathBuf::as_path);
    let mut paths = lowers
        .chain(root.upper.map(|_| root.work))
        .chain(root.upper);
    if let Some(missing) = paths.find(|path| !path.is_dir()) {
        doing += &format!(", `{}` among them", missing.display());
    } else if let Some(upper) = root.upper {
        doing += &format!(", writing to `{}`", upper.display());
    }
    if !refusal.said.is_empty() {
        doing += &format!(" ({})", refusal.said);
    }
    let hint = match refusal.errno {
        Errno::INVAL if root.lowers.len() > MAX_LOWERS => {
            Some(format!("overlayfs takes {MAX_LOWERS} layers: squash some"))
        }
        Errno::INVAL | Errno::OPNOTSUPP | Errno::STALE => Some(OVERLAY_FIX.to_owned()),
        Errno::PERM | Errno::NODEV => {
            Some("overlayfs in a user namespace takes Linux 5.11; see `rbuild doctor`".to_owned())
        }
        _ => None,
    };
    Failure::Overlay {
        doing,
        hint,
        errno: refusal.errno.raw_os_error(),
    }
}

/// Gives the directories above `path` in `top` what they have in the merged tree, since they hide it.
fn copy_parents(merged: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    for dir in path.ancestors().skip(1) {
        let top = Path::new("top").join(dir);
        let original = match mounts::open_dir_in(merged, Path::new("/").join(dir)) {
            Err(Errno::NOENT) => continue,
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&original)?;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chown(&top, Some(owner.0), Some(owner.1))?;
        rustix::fs::chmod(&top, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        copy_xattrs(&original, &top)?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: stat.st_atime,
                tv_nsec: stat.st_atime_nsec as i64,
            },
            last_modification: Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec as i64,
            },
        };
        rustix::fs::utimensat(CWD, &top, &times, AtFlags::empty())?;
    }
    Ok(())
}

fn copy_xattrs(from: &OwnedFd, to: &Path) -> rustix::io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        len => len?,
    };
    let mut value = vec![0; 64 << 10];
    let names: BTreeSet<&[u8]> = names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .collect();
    for name in names {
        let len = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::setxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty()) {
            // tmpfs has no user xattrs before Linux 6.6, and no file system sets a label without being asked by the
            // security module that owns it.
            Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Makes `root` the process' root. pivot_root(2), "pivot_root(".", ".")": the old root comes to lie over the new one,
/// and is unmounted with all that is below it.
fn pivot(root: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::pivot_root(".", "."))
        .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"))
        .during("make the step's root the root")
}

/// The resolver configuration for steps: the host's, unless it names systemd's stub on a loopback address and the
/// file behind that is there.
pub(super) fn resolv_conf(read: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let text = read("/etc/resolv.conf").unwrap_or_default();
    let only_loopback = {
        let mut servers = text
            .split(|&b| b == b'\n')
            .filter_map(|line| line.trim_ascii().strip_prefix(b"nameserver"))
            .map(<[u8]>::trim_ascii)
            .peekable();
        servers.peek().is_some() && servers.all(|s| s.starts_with(b"127.") || s == b"::1")
    };
    if only_loopback && let Some(real) = read("/run/systemd/resolve/resolv.conf") {
        return real;
    }
    text
}
