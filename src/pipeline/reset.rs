//! `rbuild reset`: the end of a store.
//!
//! Directories of layers have files of subordinate ids, which only the user namespace they were made in can remove. What
//! else is in the directory of the store is not ours, and stays.

use std::path::Path;

use rbuild_cache::ResetError;
use rbuild_cache::reset;

use super::failure;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::Settings;
use crate::sandbox;

/// What a reset did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// There was nothing.
    Nothing,
    /// The store is gone, and its directory.
    Gone,
    /// The store is gone; its directory has other things, and stays.
    OthersStay,
}

/// How many names of images the store has that a reset would remove; `None` if there is no store.
///
/// # Errors
/// If what is there is no store of this user's, or is in use.
pub fn look(settings: &Settings) -> Result<Option<usize>, BuildError> {
    if reset::removable(&settings.root).map_err(refused)?.is_none() {
        return Ok(None);
    }
    let images = super::open_store(settings)?.images().list();
    Ok(Some(images.map_err(failure::store)?.len()))
}

/// Removes the store.
///
/// # Errors
/// As [`look`], and if something cannot be removed.
pub fn carry_out(settings: &Settings) -> Result<Reset, BuildError> {
    let root = &settings.root;
    let doomed = reset::take_away(root).map_err(refused)?;
    if doomed.is_empty() {
        return Ok(Reset::Nothing);
    }
    if reset::remove(&doomed).is_err() {
        let settings = sandbox::Settings::without_steps(root, &settings.temp_dir);
        let _inside = sandbox::enter(&settings).map_err(failure::sandbox)?;
        reset::remove(&doomed).map_err(failure::store)?;
    }
    Ok(match remove_empty(root) {
        true => Reset::Gone,
        false => Reset::OthersStay,
    })
}

fn remove_empty(root: &Path) -> bool {
    std::fs::remove_dir(root).is_ok()
}

fn refused(error: ResetError) -> BuildError {
    match error {
        ResetError::Store(error) => failure::store(error),
        error @ ResetError::InUse { .. } => BuildError::new(ErrorKind::Environment, error)
            .hint("wait for it to end, or interrupt it"),
        error @ ResetError::NoStore { .. } => BuildError::new(ErrorKind::Request, error)
            .hint("name the directory of a store with `--root`"),
    }
}
