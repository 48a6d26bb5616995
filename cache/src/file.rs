//! Files that appear whole or not at all.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::store::StoreError;

/// What went wrong, without the random name that the library for temporary files tells with it.
pub(crate) fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::from(error.kind()),
    }
}

/// How the names of files begin that are still being written.
pub(crate) const ASIDE: &str = ".aside-";

/// A file that is to be renamed into `dir`, which is made if it is not there; mode 0600. Its name begins with
/// [`ASIDE`].
pub(crate) fn aside(dir: &Path) -> Result<NamedTempFile, StoreError> {
    let create = || tempfile::Builder::new().prefix(ASIDE).tempfile_in(dir);
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
            create()
        }
        file => file,
    };
    file.map_err(StoreError::io("create a file in", dir))
}

/// Opens a file to be read without that being a use of it: its time of access stays. Who does not own the file may not
/// ask for that (open(2), O_NOATIME), and just reads it.
pub(crate) fn open_to_peek(path: &Path) -> io::Result<File> {
    open_to_peek_at(CWD, path.as_os_str().as_bytes())
}

/// The same of a path from an open directory on.
pub(crate) fn open_to_peek_at(dir: impl AsFd, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&dir, path, flags, Mode::empty()),
        file => file,
    };
    Ok(file?.into())
}

/// The bytes of a file, as [`open_to_peek`] lets them be read.
pub(crate) fn peek(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_to_peek(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of a file, or `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    if_there(path, fs::read(path))
}

/// What came of reading the file `path`, or `None` if there is none.
pub(crate) fn if_there(
    path: &Path,
    read: io::Result<Vec<u8>>,
) -> Result<Option<Vec<u8>>, StoreError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// A value from a JSON file, or `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    from_json(path, read(path)?)
}

/// The same, which is no use of the file: see [`peek`].
pub(crate) fn peek_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    from_json(path, if_there(path, peek(path))?)
}

fn from_json<T: DeserializeOwned>(
    path: &Path,
    bytes: Option<Vec<u8>>,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            source,
        })
}

/// A value from a JSON file that can be had again: one that is damaged is removed, and as good as none.
pub(crate) fn read_cached<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read_json(path) {
        Err(StoreError::Damaged { .. }) => {
            remove(path).map_err(StoreError::io("remove", path))?;
            Ok(None)
        }
        read => read,
    }
}

/// The names in a directory, sorted; none if there is no directory. Files being written are left out.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    list_if(path, |name| !name.starts_with(ASIDE.as_bytes()))
}

/// The files in a directory that are being written, or were.
pub(crate) fn list_aside(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    list_if(path, |name| name.starts_with(ASIDE.as_bytes()))
}

fn list_if(path: &Path, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", path)(error)),
    };
    let mut list = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", path))?;
        if wanted(entry.file_name().as_encoded_bytes()) {
            list.push(entry.path());
        }
    }
    list.sort();
    Ok(list)
}

/// What is `depth` levels below `dir`, files being written left out.
pub(crate) fn below(dir: &Path, depth: usize) -> Result<Vec<PathBuf>, StoreError> {
    let mut level = vec![dir.to_owned()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for path in level {
            if path.is_dir() {
                next.append(&mut list(&path)?);
            }
        }
        level = next;
    }
    Ok(level)
}

/// Removes whatever is at `path`. Directories nothing can be removed from (mode 0555, as in Go's module cache) are made
/// writable first.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let attempt = || match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    attempt().or_else(|_| {
        make_writable(path);
        attempt()
    })
}

fn make_writable(path: &Path) {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return;
    }
    // That it fails is found out when something in it cannot be removed.
    drop(fs::set_permissions(path, fs::Permissions::from_mode(0o700)));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}
