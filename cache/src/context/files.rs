//! Opening what is in a context, never outside it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::ContextError;

/// Handle to the root of a context. Paths are relative to it, and no symbolic link in them is followed.
#[derive(Debug)]
pub struct ContextFiles {
    root: OwnedFd,
    path: PathBuf,
}

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// A rename somewhere on the way makes the kernel give up with EAGAIN (openat2(2), RESOLVE_BENEATH), which on a busy machine
/// happens more than once.
const ATTEMPTS: u32 = 64;

impl ContextFiles {
    /// Opens the directory of a context.
    ///
    /// # Errors
    /// If it is not there, no directory or not readable.
    pub fn open_root(path: &Path) -> Result<Self, ContextError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(root) => Ok(Self {
                root,
                path: path.to_owned(),
            }),
            Err(error) => Err(ContextError::Root {
                path: path.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// If it is not there, not readable or something else.
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        // Without O_NONBLOCK, opening a pipe that took the file's place would wait for a writer.
        let file = self.below(path, FLAGS | OFlags::NONBLOCK)?;
        let mode = rustix::fs::fstat(&file)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(io::Error::other("it is no longer a regular file")),
        }
    }

    /// Opens a directory; the empty path is the root.
    pub(super) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match path {
            b"" => self.below(b".", FLAGS | OFlags::DIRECTORY),
            _ => self.below(path, FLAGS | OFlags::DIRECTORY),
        }
    }

    /// Where a path of the context is, for people.
    pub fn display(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    fn below(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                // No openat2 (Linux before 5.6; seccomp filters that do not know it say EPERM), or a path that is longer than one
                // system call takes.
                Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => {
                    return name_by_name(self.root.as_fd(), path, flags);
                }
                result => return result,
            }
        }
        name_by_name(self.root.as_fd(), path, flags)
    }
}

/// What openat2(2) does without following links, for kernels and seccomp filters that do not know it.
pub(crate) fn name_by_name(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut dir: Option<OwnedFd> = None;
    let mut names = path.split(|b| *b == b'/').peekable();
    while let Some(name) = names.next() {
        if name == b".." || name.is_empty() {
            return Err(Errno::INVAL);
        }
        let flags = match names.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            None => flags,
        };
        let above = dir.as_ref().map_or(root, OwnedFd::as_fd);
        let flags = flags | OFlags::NOFOLLOW;
        dir = Some(rustix::fs::openat(above, name, flags, Mode::empty())?);
    }
    dir.ok_or(Errno::INVAL)
}

#[cfg(test)]
mod t {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        std::fs::write(dir.path().join("outside"), "y").unwrap();
        symlink("a", root.join("link")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        rustix::fs::mkfifoat(CWD, root.join("pipe"), Mode::RWXU).unwrap();
        let files = ContextFiles::open_root(&root).unwrap();
        for path in [
            "a/b/file",
            "link/b/file",
            "out",
            "../outside",
            "",
            "/etc/passwd",
            "none",
        ] {
            let good = path == "a/b/file";
            assert_eq!(files.open(path.as_bytes()).is_ok(), good, "{path}");
            assert_eq!(
                name_by_name(files.root.as_fd(), path.as_bytes(), FLAGS).is_ok(),
                good,
                "{path}"
            );
        }
        assert!(files.open(b"pipe").is_err() && files.open(b"a").is_err());
    }

    #[test]
    fn paths_may_be_longer_than_a_system_call_takes() {
        let dir = tempfile::tempdir().unwrap();
        let files = ContextFiles::open_root(dir.path()).unwrap();
        let name = "n".repeat(200);
        let mut above = files.open_dir(b"").unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            rustix::fs::mkdirat(&above, &name, Mode::RWXU).unwrap();
            above = rustix::fs::openat(&above, &name, FLAGS | OFlags::DIRECTORY, Mode::empty())
                .unwrap();
            path.extend_from_slice(name.as_bytes());
            path.push(b'/');
        }
        path.pop();
        assert!(path.len() > 4096);
        files.open_dir(&path).unwrap();
    }
}
