//! `rbuild du` and `rbuild prune`: what the store takes, and taking less.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::Collected;
use rbuild_cache::Policy;
use rbuild_cache::Space;
use rbuild_cache::Store;
use rbuild_cache::StoreUsage;

use super::failure;
use crate::outcome::BuildError;
use crate::request::Settings;
use crate::sandbox;

/// What the store takes.
///
/// # Errors
/// If it cannot be read.
pub fn usage(store: &Store) -> Result<StoreUsage, BuildError> {
    store.usage().map_err(failure::store)
}

/// The space on its disk.
///
/// # Errors
/// If the file system does not say.
pub fn space(store: &Store) -> Result<Space, BuildError> {
    store.space().map_err(failure::store)
}

/// Collects garbage. What belongs to subordinate ids is deleted inside the user namespace, which this process is in
/// afterwards.
///
/// # Errors
/// If the store cannot be read or written. What could not be deleted is in the report.
pub fn collect(
    store: &Store,
    policy: &Policy<'_>,
    settings: &Settings,
) -> Result<Collected, BuildError> {
    let mut collected = store.collect(policy).map_err(failure::store)?;
    if !collected.failed.is_empty() {
        collected.failed = empty_trash(store, &settings.temp_dir).unwrap_or(collected.failed);
    }
    Ok(collected)
}

/// Deletes what is in the trash, inside the user namespace; nothing where there is none.
pub(super) fn empty_trash(store: &Store, temp_dir: &Path) -> Option<Vec<(PathBuf, io::Error)>> {
    let settings = sandbox::Settings::without_steps(store.path(), temp_dir);
    let _inside = sandbox::enter(&settings).ok()?;
    store.empty_trash().ok()
}
