//! Files that appear whole or not at all.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::store::StoreError;

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

/// The bytes of a file, or `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// A value from a JSON file, or `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            source,
        })
}

/// The names in a directory, sorted; none if there is no directory. Files being written are left out.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", path)(error)),
    };
    let mut list = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", path))?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(ASIDE.as_bytes())
        {
            list.push(entry.path());
        }
    }
    list.sort();
    Ok(list)
}
