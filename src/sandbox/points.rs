//! Mount points in a root that is a plain directory.
//!
//! Without overlayfs there is no layer below for them: they are made before the step and removed when it has ended, each
//! time with the modification time of the directory around them kept.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::io::Errno;

use super::error::During;
use super::error::Failure;
use super::mounts;
use super::rootfs::TMPFS_MODE;
use super::step::MountSource;
use super::step::Step;

/// The mount points that were made for one step.
#[derive(Debug)]
pub(super) struct Points {
    root: OwnedFd,
    /// In the order in which they were made, relative to the root.
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    directory: bool,
}

impl Points {
    /// None yet, in the directory `root`.
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .during(format_args!("open `{}`", root.display()))?;
        Ok(Self {
            root,
            made: Vec::new(),
        })
    }

    /// Makes what `step` lacks in the directory `root`; `files` are mounted in every step.
    pub(super) fn make(root: &Path, step: &Step, files: &[&str]) -> Result<Self, Failure> {
        let mut points = Self::open(root)?;
        let fixed = ["/proc", "/sys", "/dev"].map(|path| (Path::new(path), Some(0o755)));
        let files = files.iter().map(|path| (Path::new(path), None));
        let mounts = step
            .mounts
            .iter()
            .map(|mount| Ok((mount.dest.as_path(), mode_for(&mount.source)?)));
        for wanted in fixed.into_iter().chain(files).map(Ok).chain(mounts) {
            let made = wanted.and_then(|(path, mode)| points.make_one(path, mode));
            if let Err(failure) = made {
                points.remove();
                return Err(failure);
            }
        }
        Ok(points)
    }

    /// Makes a directory of that mode, or a file, where nothing is.
    pub(super) fn make_one(&mut self, path: &Path, mode: Option<u32>) -> Result<(), Failure> {
        self.make_missing(path, mode)
            .during(format_args!("make a mount point for `{}`", path.display()))
    }

    fn make_missing(&mut self, path: &Path, mode: Option<u32>) -> rustix::io::Result<()> {
        match mounts::open_in(&self.root, path) {
            Err(Errno::NOENT) => {}
            found => return found.map(drop),
        }
        let real = self.real_path(path)?;
        let above: Vec<&Path> = real.ancestors().skip(1).collect();
        for dir in above.into_iter().rev().filter(|dir| *dir != Path::new("")) {
            if matches!(mounts::open_in(&self.root, dir), Err(Errno::NOENT)) {
                self.add(dir, Some(0o755))?;
            }
        }
        self.add(&real, mode)
    }

    /// Where a path leads in the root, relative to it.
    pub(super) fn real_path(&self, path: &Path) -> rustix::io::Result<PathBuf> {
        mounts::real_path(&self.root, path)
    }

    fn add(&mut self, path: &Path, mode: Option<u32>) -> rustix::io::Result<()> {
        let parent = self.parent(path)?;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let times = modified(&parent)?;
        match mode {
            Some(mode) => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                if mode != 0o755 {
                    rustix::fs::chmodat(
                        &parent,
                        name,
                        Mode::from_raw_mode(mode),
                        AtFlags::empty(),
                    )?;
                }
            }
            None => mounts::make_file(&parent, name)?,
        }
        self.made.push(Made {
            path: path.to_owned(),
            directory: mode.is_some(),
        });
        rustix::fs::futimens(&parent, &times)
    }

    fn parent(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        mounts::open_dir_in(&self.root, Path::new("/").join(parent))
    }

    /// Removes them. What the step left in one that is a directory stays, and that with it, as it would in the upper
    /// directory of an overlay.
    pub(super) fn remove(self) {
        for made in self.made.iter().rev() {
            // A step may have removed or replaced what is above: then there is nothing to be done here.
            _ = self.remove_one(made);
        }
    }

    fn remove_one(&self, made: &Made) -> rustix::io::Result<()> {
        let parent = self.parent(&made.path)?;
        let name = made.path.file_name().ok_or(Errno::INVAL)?;
        let times = modified(&parent)?;
        if made.directory {
            rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
        } else {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size > 0 {
                return Ok(());
            }
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        }
        rustix::fs::futimens(&parent, &times)
    }
}

/// The modification time of a directory, to be given back to it.
pub(super) fn modified(dir: &OwnedFd) -> rustix::io::Result<Timestamps> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    })
}

/// The mode of the directory that a mount wants to be on; `None` for a file.
pub(super) fn mode_for(source: &MountSource) -> Result<Option<u32>, Failure> {
    Ok(match source {
        MountSource::Tmpfs { .. } => Some(TMPFS_MODE),
        MountSource::File { .. } => None,
        MountSource::Bind { path, subpath, .. } => is_directory(path, subpath)?.then_some(0o755),
        MountSource::Overlay {
            lowers, subpath, ..
        } => {
            // What is on top hides what is below.
            let shown = lowers
                .iter()
                .rev()
                .find_map(|layer| is_directory(layer, subpath).ok());
            shown.unwrap_or(true).then_some(0o755)
        }
    })
}

fn is_directory(path: &Path, subpath: &Path) -> Result<bool, Failure> {
    let look = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let found = match subpath.as_os_str().is_empty() {
            true => root,
            false => mounts::open_in(root, subpath)?,
        };
        let mode = rustix::fs::fstat(&found)?.st_mode;
        Ok::<_, Errno>(FileType::from_raw_mode(mode) == FileType::Directory)
    };
    look().during(format_args!("look at `{}`", path.join(subpath).display()))
}
