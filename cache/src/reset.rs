//! Removing a whole store. Only what is one is removed, and only while nobody works with it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::containers::CONTAINERS;
use crate::file;
use crate::lease::Locked;
use crate::store::PARTS;
use crate::store::StoreError;

/// What a store that is being removed is called.
const DOOMED: &str = ".v1-removed-";

/// Why a store is not removed.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// What is there is not a store.
    #[error("`{}` is no store of rbuild: {problem}", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
        /// What about it.
        problem: String,
    },
    /// Somebody works with it.
    #[error("the store `{}` is in use by another build", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether there is a store below `root` that may be removed; `None` if there is nothing. Changes nothing.
///
/// # Errors
/// If what is there is no store of this user's, or is in use.
pub fn removable(root: &Path) -> Result<Option<PathBuf>, ResetError> {
    let path = root.join("v1");
    let found = match fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", &path)(error).into()),
    };
    let no = |problem: String| ResetError::NoStore {
        path: path.clone(),
        problem,
    };
    if !found.is_dir() {
        return Err(no("it is not a directory".to_owned()));
    }
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(StoreError::Owner {
            path,
            owner: found.uid(),
            user,
        }
        .into());
    }
    let mut missing = Vec::new();
    for name in PARTS {
        match fs::symlink_metadata(path.join(name)) {
            Ok(part) if part.is_dir() && part.uid() == user => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(name),
            Ok(_) => return Err(no(format!("its `{name}` is no directory of this user's"))),
            Err(error) => return Err(StoreError::io("open", &path.join(name))(error).into()),
        }
    }
    // Whoever tidied up in a store must be able to remove what is left of it; with most of their names gone, these
    // could be anybody's directories.
    if let [first, ..] = missing[..]
        && missing.len() > PARTS.len() / 2
    {
        return Err(no(format!("it has no directory `{first}`")));
    }
    if in_use(&path)? {
        return Err(ResetError::InUse { path });
    }
    Ok(Some(path))
}

/// Takes the store below `root` out of use and gives what is to be removed: it, and what interrupted removals left.
/// A build that begins from now on makes a new store.
///
/// # Errors
/// As [`removable`].
pub fn take_away(root: &Path) -> Result<Vec<PathBuf>, ResetError> {
    if let Some(path) = removable(root)? {
        let aside = tempfile::Builder::new()
            .prefix(DOOMED)
            .tempdir_in(root)
            .map_err(StoreError::io("create a directory in", root))?
            .keep();
        let to = aside.join("v1");
        fs::rename(&path, &to).map_err(StoreError::io("rename", &path))?;
        // One that began between the look and the renaming has its lease in here.
        if in_use(&to)? {
            fs::rename(&to, &path).map_err(StoreError::io("rename", &to))?;
            drop(fs::remove_dir(&aside));
            return Err(ResetError::InUse { path });
        }
        // One that runs has a lease.
        let containers = root.join(CONTAINERS);
        match fs::rename(&containers, aside.join(CONTAINERS)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            moved => moved.map_err(StoreError::io("rename", &containers))?,
        }
    }
    let mut doomed = file::list(root)?;
    doomed.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(DOOMED.as_bytes())
    });
    Ok(doomed)
}

/// Removes what [`take_away`] gave; called where files of all owners can be removed.
///
/// # Errors
/// If something cannot be removed.
pub fn remove(doomed: &[PathBuf]) -> Result<(), StoreError> {
    for path in doomed {
        file::remove(path).map_err(StoreError::io("remove", path))?;
    }
    Ok(())
}

fn in_use(store: &Path) -> Result<bool, StoreError> {
    let mut leases = file::list(&store.join("leases"))?;
    leases.retain(|lease| Locked::is_held(lease));
    Ok(!leases.is_empty())
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::store::Store;

    #[test]
    fn only_a_store_that_nobody_uses_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(removable(root).unwrap(), None);
        assert_eq!(take_away(root).unwrap(), Vec::<PathBuf>::new());

        let store = Store::open(root).unwrap();
        let lease = store.lease().unwrap();
        fs::write(root.join("mine"), "").unwrap();
        assert!(matches!(take_away(root), Err(ResetError::InUse { .. })));
        assert!(root.join("v1/leases").is_dir());

        drop(lease);
        let doomed = take_away(root).unwrap();
        assert_eq!(doomed.len(), 1);
        assert!(!root.join("v1").exists());
        remove(&doomed).unwrap();
        assert_eq!(file::list(root).unwrap(), [root.join("mine")]);
    }

    #[test]
    fn a_store_that_has_lost_something_is_removed() {
        for lost in PARTS {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            drop(Store::open(root).unwrap());
            fs::remove_dir(root.join("v1").join(lost)).unwrap();
            remove(&take_away(root).unwrap()).unwrap();
            assert!(!root.join("v1").exists(), "{lost}");

            drop(Store::open(root).unwrap());
            fs::remove_dir(root.join("v1").join(lost)).unwrap();
            std::os::unix::fs::symlink("/", root.join("v1").join(lost)).unwrap();
            assert!(matches!(take_away(root), Err(ResetError::NoStore { .. })));
        }
    }

    #[test]
    fn what_is_no_store_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let theirs = root.join("v1/images/precious");
        fs::create_dir_all(&theirs).unwrap();
        assert!(matches!(take_away(root), Err(ResetError::NoStore { .. })));
        assert!(theirs.is_dir());

        let real = tempfile::tempdir().unwrap();
        Store::open(real.path()).unwrap();
        let linked = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(real.path().join("v1"), linked.path().join("v1")).unwrap();
        let error = take_away(linked.path());
        assert!(matches!(error, Err(ResetError::NoStore { .. })));
        assert!(real.path().join("v1/leases").is_dir());
    }
}
