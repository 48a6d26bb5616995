//! After a build: what it published is made durable (see `cache/src/journal.rs`), and what nothing needs any more is
//! removed, by a process nobody waits for.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;

use rbuild_cache::Policy;
use rbuild_cache::Select;
use rbuild_cache::Store;
use rbuild_cache::StoreError;

use super::prune;
use crate::request::GcSettings;
use crate::request::Settings;
use crate::request::Space;

/// The first argument of that process, which is this program again; the second is the root of the store, the third what
/// is removed, as JSON.
pub const ARGUMENT: &str = "__sync-store";

/// The store is not collected again so soon.
const EVERY: Duration = Duration::from_secs(3600);
/// Nor, where its disk has less free than it should.
const EVERY_IF_SHORT: Duration = Duration::from_secs(300);

/// BuildKit's defaults (cmd/buildkitd/config/gcpolicy_unix.go), but that a fifth of the disk need not be free: the disk is
/// the user's, not a daemon's.
const RESERVED: Space = Space::Percent(10);
const RESERVED_AT_MOST: u64 = 10_000_000_000;
const MAX_USED: Space = Space::Percent(80);
const MAX_USED_AT_MOST: u64 = 100_000_000_000;
const MIN_FREE: Space = Space::Percent(10);
const KEEP: Duration = Duration::from_secs(60 * 24 * 3600);

/// Starts the process, if this build published anything.
///
/// It is not waited for and cannot fail the build: without it the next build of this boot finds the same journal, and
/// syncs that as well.
pub(super) fn sync_later(store: &Store, settings: &Settings) {
    if !store.has_published() {
        return;
    }
    let gc = serde_json::to_string(&settings.gc).expect("settings can always be written as JSON");
    let child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .arg(&settings.root)
        .arg(gc)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal is not meant for it.
        .process_group(0)
        .spawn();
    drop(child);
}

/// The whole life of that process.
pub fn sync(root: &Path, gc: &str) -> ExitCode {
    let Ok(gc) = serde_json::from_str::<GcSettings>(gc) else {
        return ExitCode::FAILURE;
    };
    let done = Store::open_existing(root).and_then(|store| {
        // One that was removed meanwhile is not made again.
        let Some(store) = store else { return Ok(()) };
        store.sync()?;
        // The roots of steps that ran where there is no overlayfs. What cannot be removed from here a collector finds.
        drop(store.empty_trash());
        match gc.enabled {
            true => collect(&store, &gc),
            false => Ok(()),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Removes what nothing needs any more, if it is time to.
fn collect(store: &Store, gc: &GcSettings) -> Result<(), StoreError> {
    let disk = store.space()?;
    let policy = policy(gc, disk.total);
    let short = policy.min_free.is_some_and(|wanted| disk.free < wanted);
    let Some(_turn) = store.turn_to_collect(if short { EVERY_IF_SHORT } else { EVERY })? else {
        return Ok(());
    };
    // Nobody waits for it, and somebody may be building.
    let _ = rustix::process::nice(10);
    let collected = store.collect(&policy)?;
    if !collected.failed.is_empty() {
        // Where there is no user namespace, a build that is in one finds it in the trash.
        drop(prune::empty_trash(store, store.path()));
    }
    Ok(())
}

/// What stays by itself on a disk of so many bytes.
pub(super) fn policy(gc: &GcSettings, disk: u64) -> Policy<'static> {
    let reserved = match gc.reserved_space {
        Some(reserved) => reserved.of(disk),
        None => RESERVED.of(disk).min(RESERVED_AT_MOST),
    };
    let max_used = match gc.max_used_space {
        Some(max_used) => max_used.of(disk),
        None => MAX_USED.of(disk).min(MAX_USED_AT_MOST),
    };
    Policy {
        select: Select {
            all: true,
            mounts: true,
            ..Select::default()
        },
        keep_duration: Some(gc.keep_duration.map_or(KEEP, Duration::from_secs)),
        reserved: Some(reserved),
        max_used: Some(max_used),
        min_free: Some(gc.min_free_space.unwrap_or(MIN_FREE).of(disk)),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn defaults_are_parts_of_the_disk() {
        const GB: u64 = 1_000_000_000;
        let gc = GcSettings::default();
        let of = |disk| {
            let policy = policy(&gc, disk);
            [policy.reserved, policy.max_used, policy.min_free].map(|space| space.unwrap() / GB)
        };
        assert_eq!(of(50 * GB), [5, 40, 5]);
        assert_eq!(of(1000 * GB), [10, 100, 100]);
    }
}
