//! Where links lead.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// The file that is written to where `path` is opened, though there be none yet. Who replaces a file by another must do
/// that to this one, or a link is gone.
///
/// # Errors
/// If a directory on the way cannot be looked into, or links lead round in a circle.
pub fn behind(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => behind(&path.parent().unwrap_or(Path::new("")).join(target)),
            Err(_) => Ok(path.to_owned()),
        },
        found => found,
    }
}
