//! Where files of a step come down before they get their places: only when they are here is it known whether a path is a file
//! or a directory.

use std::fs;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::exporter::ExportError;

/// A directory on the disk of what is to be written.
pub(super) struct Landing(TempDir);

impl Drop for Landing {
    /// What is left goes, also out of directories that nobody may write to.
    fn drop(&mut self) {
        open_all(self.path());
    }
}

impl Landing {
    pub(super) fn beside(to: &Path) -> Result<Self, ExportError> {
        let parent = parent(to);
        let made = fs::create_dir_all(parent).and_then(|()| {
            let mut builder = tempfile::Builder::new();
            builder.prefix(".rbuild-").tempdir_in(parent)
        });
        made.map(Self).map_err(|source| ExportError::Write {
            path: parent.to_owned(),
            source,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives all that came its place in `to`: what is there already stays, unless something of the same name comes.
    pub(super) fn pour(self, to: &Path) -> Result<(), ExportError> {
        merge(self.path(), to).map_err(|source| ExportError::Write {
            path: to.to_owned(),
            source,
        })
    }

    /// Gives what came of `path` its place: a file that of `to`, or its own name in it if `to` is a directory or ends with a
    /// slash; of a directory what it holds, in `to`.
    pub(super) fn place(self, path: &str, to: &Path) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write {
            path: to.to_owned(),
            source,
        };
        let name = path.trim_end_matches('/').rsplit('/').next();
        let came = self.path().join(name.unwrap_or_default());
        let is_dir = fs::symlink_metadata(&came).map_err(failed)?.is_dir();
        let into = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
        let target: PathBuf = match (is_dir, name) {
            (false, Some(name)) if into => to.join(name),
            _ => to.to_owned(),
        };
        let placed = match is_dir {
            true => merge(&came, &target),
            false => fs::create_dir_all(parent(&target)).and_then(|()| fs::rename(&came, &target)),
        };
        placed.map_err(failed)
    }
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Lets what is in directories be removed.
fn open_all(dir: &Path) {
    drop(fs::set_permissions(dir, Permissions::from_mode(0o700)));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_all(&entry.path());
        }
    }
}

/// Does what its owner must be able to write to a directory for; `then` is where the directory is afterwards, with its mode.
fn opened(dir: &Path, then: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mode = fs::metadata(dir)?.permissions();
    if mode.mode() & 0o700 == 0o700 {
        return act();
    }
    fs::set_permissions(dir, Permissions::from_mode(mode.mode() | 0o700))?;
    act()?;
    fs::set_permissions(then, mode)
}

/// Moves what a directory holds into another: what is there already stays, unless something of the same name comes.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    // It is emptied, and then removed.
    fs::set_permissions(from, Permissions::from_mode(0o700))?;
    opened(to, to, || {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            let there = fs::symlink_metadata(&target).map(|there| there.is_dir());
            match (entry.file_type()?.is_dir(), there) {
                (true, Ok(true)) => merge(&entry.path(), &target)?,
                (true, there) => {
                    if there.is_ok() {
                        fs::remove_file(&target)?;
                    }
                    // To move it is to write to it: it gets another parent.
                    let moved = || fs::rename(entry.path(), &target);
                    opened(&entry.path(), &target, moved)?;
                }
                (false, Ok(true)) => {
                    fs::remove_dir_all(&target)?;
                    fs::rename(entry.path(), target)?;
                }
                (false, _) => fs::rename(entry.path(), target)?,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn files_and_directories_get_their_places() {
        for (path, is_dir, there, to, want) in [
            ("/bin/tool", false, "", "tool", "tool"),
            ("/bin/tool", false, "", "out/", "out/tool"),
            ("/bin/tool", false, "out/x", "out", "out/tool"),
            ("/bin/tool", false, "", "a/b", "a/b"),
            ("/dist", true, "", "out", "out/f"),
            ("/dist/", true, "out/f", "out", "out/f"),
            ("/dist", true, "out/f/in-the-way", "out", "out/f"),
            ("/", true, "", "out", "out/f"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join(to);
            if !there.is_empty() {
                let there = dir.path().join(there);
                fs::create_dir_all(parent(&there)).unwrap();
                fs::write(there, "old").unwrap();
            }
            let landing = Landing::beside(&to).unwrap();
            let name = path.trim_matches('/').rsplit('/').next().unwrap();
            let came = landing.path().join(name);
            let file = match is_dir {
                true => came.join("f"),
                false => came,
            };
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "new").unwrap();
            landing.place(path, &to).unwrap();
            let got = fs::read_to_string(dir.path().join(want));
            assert_eq!(got.unwrap(), "new", "{path} to {}", to.display());
        }
    }

    /// As root this cannot fail.
    #[test]
    fn directories_that_nobody_may_write_to_get_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let close = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        for file in ["f", "g"] {
            let landing = Landing::beside(&to).unwrap();
            let came = landing.path().join("a/b");
            fs::create_dir_all(&came).unwrap();
            fs::write(came.join(file), "new").unwrap();
            close(&came);
            close(came.parent().unwrap());
            landing.pour(&to).unwrap();
            assert_eq!(
                fs::read_to_string(to.join("a/b").join(file)).unwrap(),
                "new"
            );
            assert_eq!([mode(&to.join("a")), mode(&to.join("a/b"))], [0o555; 2]);
        }
        // One that is not wanted.
        let landing = Landing::beside(&to).unwrap();
        let came = landing.path().join("a");
        fs::create_dir(&came).unwrap();
        fs::write(came.join("f"), "").unwrap();
        close(&came);
        drop(landing);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        open_all(&to);
    }
}
