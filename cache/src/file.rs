//! Files that appear whole or not at all.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

/// Writes a file aside and renames it into place; mode 0600. The directory is made if it is not there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let attempt = || -> io::Result<()> {
        let mut aside = tempfile::Builder::new()
            .prefix(".aside-")
            .tempfile_in(parent)?;
        aside.write_all(bytes)?;
        aside.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    let written = match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
            attempt()
        }
        written => written,
    };
    written.map_err(StoreError::io("write", path))
}

/// Writes a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    write(
        path,
        &serde_json::to_vec(value).expect("the store's own types can always be written as JSON"),
    )
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
        if !entry.file_name().as_encoded_bytes().starts_with(b".aside-") {
            list.push(entry.path());
        }
    }
    list.sort();
    Ok(list)
}
