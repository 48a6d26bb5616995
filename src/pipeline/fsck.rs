//! `rbuild debug fsck`: looks the store through.

use rbuild_cache::FsckOptions;
use rbuild_cache::Fscked;

use super::failure;
use crate::outcome::BuildError;
use crate::request::Settings;
use crate::sandbox;

/// Looks the store through, and takes out what is damaged if that is asked for; nothing if there is no store.
///
/// # Errors
/// If the store cannot be read.
pub fn fsck(settings: &Settings, options: FsckOptions) -> Result<Option<Fscked>, BuildError> {
    if !settings.root.join("v1").exists() {
        return Ok(None);
    }
    let store = super::open_store(settings)?;
    // Directories of layers have files of subordinate ids. Where there is no user namespace, those that are closed are
    // told of.
    if store.has_forms().map_err(failure::store)? {
        drop(sandbox::enter(&super::sandbox_settings(settings, &store)));
    }
    store.fsck(options).map(Some).map_err(failure::store)
}
