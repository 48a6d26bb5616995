//! After a build: what it published is made durable by a process nobody waits for (see `cache/src/journal.rs`).

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;

use rbuild_cache::Store;

/// The first argument of that process, which is this program again; the second is the root of the store.
pub const ARGUMENT: &str = "__sync-store";

/// Starts the process, if this build published anything.
///
/// It is not waited for and cannot fail the build: without it the next build of this boot finds the same journal, and
/// syncs that as well.
pub(super) fn sync_later(store: &Store, root: &Path) {
    if !store.has_published() {
        return;
    }
    let child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal is not meant for it.
        .process_group(0)
        .spawn();
    drop(child);
}

/// The whole life of that process.
pub fn sync(root: &Path) -> ExitCode {
    // A store that was removed meanwhile is not made again.
    if !root.join("v1").is_dir() {
        return ExitCode::SUCCESS;
    }
    match Store::open(root).and_then(|store| store.sync()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
