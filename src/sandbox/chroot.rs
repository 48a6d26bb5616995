//! Steps without namespaces, for root in a container that refuses them: chroot(2) and nothing else.
//!
//! Nothing can be mounted, so what other steps have mounted is moved to its place before the step and back when it has
//! ended, and what the image has there is laid aside meanwhile. There is no `/proc` and no `/sys`; `/dev` has nodes as far
//! as the container may make them. A step runs as the container's root, and chroot(2) is no wall for root: what the
//! container holds, a step can reach. So this is chosen by whoever runs the build, and never by rbuild.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::child::HOSTNAME;
use super::error::During;
use super::error::Failure;
use super::kernelfs;
use super::mounts;
use super::points::Points;
use super::points::mode_for;
use super::points::modified;
use super::rootfs;
use super::step::MountSource;
use super::step::Network;
use super::step::Root;
use super::step::Step;

/// Name, major and minor number (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] = [
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];

/// Moves this process into the step's root.
pub(super) fn enter(step: &Step) -> Result<(), Failure> {
    let Root::Directory { path } = &step.root else {
        return Err(rustix::io::Errno::INVAL).during("stack layers without mounts");
    };
    rustix::process::chroot(path)
        .and_then(|()| rustix::process::chdir("/"))
        .during(format_args!("change the root to `{}`", path.display()))
}

/// What every step is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Content of `/etc/resolv.conf`.
    pub(super) resolv_conf: Vec<u8>,
    /// The CA bundle, on the host.
    pub(super) ca: Option<PathBuf>,
    /// What may be moved into a step, since whoever loses it can make it again: all that is below.
    pub(super) store: PathBuf,
}

/// A root with what a step finds in it.
#[derive(Debug)]
pub(super) struct Furnished {
    root: PathBuf,
    points: Points,
    /// In the order in which they were put there.
    placed: Vec<Placed>,
}

#[derive(Debug)]
struct Placed {
    /// On the host.
    at: PathBuf,
    /// Where it goes back to; `None` if it was made for the step.
    home: Option<Home>,
    /// What the root has there itself.
    aside: PathBuf,
}

#[derive(Debug)]
enum Home {
    /// Of a directory, which the store knows to be away.
    Lent(PathBuf),
    /// Of anything else. It is in both places, if it can be.
    Linked(PathBuf),
}

impl Furnished {
    /// Gives a root what `step` is to find in it.
    pub(super) fn make(root: &Path, step: &Step, given: &Given) -> Result<Self, Failure> {
        if step.network == Network::None {
            return Err(Failure::Setup {
                doing: "take the network from a step that has no namespaces".to_owned(),
                hint: Some("`--isolation=chroot` gives steps the container's network".to_owned()),
                errno: libc::ENOSYS,
            });
        }
        if step.readonly {
            return Err(Failure::Setup {
                doing: "keep a step that has no mounts from writing to its root".to_owned(),
                hint: None,
                errno: libc::ENOSYS,
            });
        }
        let mut furnished = Self {
            root: root.to_owned(),
            points: Points::open(root)?,
            placed: Vec::new(),
        };
        let made = furnished.fill(step, given);
        if let Err(failure) = made {
            furnished.clear()?;
            return Err(failure);
        }
        Ok(furnished)
    }

    fn fill(&mut self, step: &Step, given: &Given) -> Result<(), Failure> {
        for dir in ["/proc", "/sys"] {
            self.points.make_one(Path::new(dir), Some(0o755))?;
        }
        self.put(Path::new("/dev"), Some(0o755), devices)?;
        let hostname = match step.hostname.as_str() {
            "" => HOSTNAME,
            name => name,
        };
        let hosts = rootfs::hosts(hostname, &step.hosts, "127.0.0.1");
        for (path, text) in [
            ("/etc/hosts", hosts.as_bytes()),
            ("/etc/resolv.conf", &given.resolv_conf),
        ] {
            self.put(Path::new(path), None, |at| fs::write(at, text))?;
        }
        if let Some(ca) = &given.ca {
            self.put(Path::new(rootfs::CA_PATH), None, |at| {
                fs::copy(ca, at).map(drop)
            })?;
        }
        let mut mounts: Vec<_> = step.mounts.iter().collect();
        mounts.sort_by_key(|mount| mount.dest.components().count());
        for mount in mounts {
            let mode = mode_for(&mount.source)?;
            match &mount.source {
                MountSource::Bind { path, subpath, .. } => {
                    let home = inside(path, subpath)
                        .during(format_args!("look at `{}`", path.display()))?;
                    if !home.starts_with(&given.store) {
                        return Err(Failure::Setup {
                            doing: format!("give a step `{}` without mounts", path.display()),
                            hint: Some("copy it into the image, or into a cache mount".to_owned()),
                            errno: libc::ENOSYS,
                        });
                    }
                    self.put_home(&mount.dest, mode, home, &given.store)?;
                }
                MountSource::Tmpfs { .. } => {
                    self.put(&mount.dest, mode, |at| {
                        fs::create_dir(at)?;
                        fs::set_permissions(at, fs::Permissions::from_mode(rootfs::TMPFS_MODE))
                    })?;
                }
                MountSource::File { .. } => {
                    return Err(Failure::Setup {
                        doing: format!("give a step the secret `{}`", mount.dest.display()),
                        hint: Some(
                            "without mounts it would have to be written to the disk: ask for it as a variable, with \
                             `env=NAME`"
                                .to_owned(),
                        ),
                        errno: libc::ENOSYS,
                    });
                }
                MountSource::Overlay { .. } => {
                    return Err(rustix::io::Errno::INVAL).during("stack layers without mounts");
                }
            }
        }
        Ok(())
    }

    /// Makes something at `dest`.
    fn put(
        &mut self,
        dest: &Path,
        mode: Option<u32>,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let at = self.clear_place(dest, mode)?;
        keeping_time(&at, || make(&at)).during(format_args!("make `{}` for a step", dest.display()))
    }

    /// Moves something of the store to `dest`.
    fn put_home(
        &mut self,
        dest: &Path,
        mode: Option<u32>,
        home: PathBuf,
        store: &Path,
    ) -> Result<(), Failure> {
        let at = self.clear_place(dest, mode)?;
        let moved = keeping_time(&at, || match home.is_dir() {
            true => rbuild_cache::lend(store, &home, &at),
            false => fs::hard_link(&home, &at).or_else(|_| fs::rename(&home, &at)),
        });
        moved.map_err(|error| Failure::Setup {
            doing: format!("move `{}` to `{}`", home.display(), dest.display()),
            hint: Some(
                "without mounts a step can be given what is on the store's file system, once"
                    .to_owned(),
            ),
            errno: error.raw_os_error().unwrap_or(0),
        })?;
        if let Some(placed) = self.placed.last_mut() {
            placed.home = Some(match at.is_dir() {
                true => Home::Lent(home),
                false => Home::Linked(home),
            });
        }
        Ok(())
    }

    /// Lays aside what is at `dest`, and gives its place on the host.
    fn clear_place(&mut self, dest: &Path, mode: Option<u32>) -> Result<PathBuf, Failure> {
        self.points.make_one(dest, mode)?;
        let doing = format_args!("lay aside `{}`", dest.display());
        let real = self.points.real_path(dest).during(doing)?;
        let at = self.root.join(real);
        let aside = self
            .root
            .with_extension(format!("aside{}", self.placed.len()));
        keeping_time(&at, || fs::rename(&at, &aside)).during(doing)?;
        self.placed.push(Placed {
            at: at.clone(),
            home: None,
            aside,
        });
        Ok(at)
    }

    /// Puts everything back. What a step wrote where something was put for it is gone with that.
    ///
    /// # Errors
    /// The first thing that could not be put back; the others are.
    pub(super) fn clear(self) -> Result<(), Failure> {
        let mut all = Ok(());
        for placed in self.placed.iter().rev() {
            let put_back = || {
                match &placed.home {
                    Some(Home::Lent(home)) => rbuild_cache::take_back(home, &placed.at)?,
                    Some(Home::Linked(home)) => match fs::rename(&placed.at, home) {
                        // The step has removed it.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        moved => moved?,
                    },
                    None => {}
                }
                match fs::symlink_metadata(&placed.at) {
                    Ok(found) if found.is_dir() => fs::remove_dir_all(&placed.at)?,
                    Ok(_) => fs::remove_file(&placed.at)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                fs::rename(&placed.aside, &placed.at)
            };
            let done = keeping_time(&placed.at, put_back)
                .during(format_args!("put back `{}`", placed.at.display()));
            all = all.and(done);
        }
        self.points.remove();
        all
    }
}

/// Does something to a name, of which the directory that it is in shows nothing.
fn keeping_time(at: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let parent = at.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    let times = modified(&parent)?;
    work()?;
    Ok(rustix::fs::futimens(&parent, &times)?)
}

/// The path of `subpath` in `path`, where no link leads out.
fn inside(path: &Path, subpath: &Path) -> io::Result<PathBuf> {
    if subpath.as_os_str().is_empty() {
        return Ok(path.to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    Ok(path.join(mounts::real_path(&root, subpath)?))
}

fn devices(dev: &Path) -> io::Result<()> {
    fs::create_dir(dev)?;
    for (name, major, minor) in DEVICES {
        let at = dev.join(name);
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::mknodat(CWD, &at, FileType::CharacterDevice, mode, number) {
            // Root of a user namespace, or without CAP_MKNOD: a file takes what is written, which is what `null` is for.
            Err(rustix::io::Errno::PERM) if name == "null" => fs::write(&at, "")?,
            Err(rustix::io::Errno::PERM) => continue,
            made => made?,
        }
        rustix::fs::chmod(&at, mode)?;
    }
    for (name, mode) in [("shm", 0o1777), ("pts", 0o755)] {
        let at = dev.join(name);
        fs::create_dir(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    for (target, link) in kernelfs::DEVICE_LINKS {
        symlink(target, dev.join(link))?;
    }
    Ok(())
}
