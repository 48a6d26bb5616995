//! What the file system that the store is on takes: overlayfs, files of other ids, owners as attributes. What its kind does not
//! say is tried out there.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::Gid;
use rustix::fs::Uid;

use super::mounts;
use super::probe::alone;
use super::probe::kernel_version;
use super::userns;
use super::userns::Ids;
use super::userns::Plan;
use super::userns::Range;

/// statfs(2): ext2 to ext4, XFS, Btrfs, F2FS.
const LOCAL: [i128; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];
const TMPFS: i128 = 0x0102_1994;
/// Containers have their root on it.
const OVERLAYFS: i128 = 0x794C_7630;

/// Linux that has overlayfs for user namespaces.
pub(super) const OVERLAY_SINCE: (u32, u32) = (5, 11);
/// Linux whose tmpfs has attributes of users, which overlayfs marks directories with.
const TMPFS_XATTRS_SINCE: (u32, u32) = (6, 6);

/// What is said of a file system on which all files are one user's.
pub(super) const GIVES_NOTHING_AWAY: &str = "gives files to no other user";

fn kind(place: &Path) -> Option<i128> {
    let found = rustix::fs::statfs(place).ok()?;
    Some(i128::from(found.f_type))
}

/// Whether files surely can have attributes of users.
fn has_xattrs(kind: Option<i128>) -> bool {
    kind.is_some_and(|kind| match kind {
        TMPFS => kernel_version() >= TMPFS_XATTRS_SINCE,
        kind => LOCAL.contains(&kind),
    })
}

/// Whether overlayfs stacks layers there, with whiteouts and user xattrs; tried out where the kind of file system does not
/// say it. The process must have one thread.
///
/// Even so a mount may be refused, by a security module or a mount option: the first step tries that.
pub(super) fn stacks(place: &Path) -> bool {
    (kernel_version() >= OVERLAY_SINCE && has_xattrs(kind(place)))
        || trial(place).is_ok_and(|dir| overlay(dir.path()).is_ok())
}

/// The ids to ask for where the store is at `place`: those of others are of no use where no file can be theirs, as on NFS,
/// whose server knows nothing of a namespace's root. The process must have one thread.
pub(super) fn plan(place: &Path) -> Result<Plan, String> {
    let plan = userns::plan()?;
    let kind = kind(place);
    let local =
        kind.is_some_and(|kind| LOCAL.contains(&kind) || [TMPFS, OVERLAYFS].contains(&kind));
    match local || gives(&plan, place) {
        true => Ok(plan),
        false => Err(format!(
            "the file system of `{}` {GIVES_NOTHING_AWAY}",
            place.display()
        )),
    }
}

/// Whether a file can be given to another id of the plan. Where that cannot be tried, who enters says why.
fn gives(plan: &Plan, place: &Path) -> bool {
    let (Some(uid), Some(gid)) = (other(&plan.uids), other(&plan.gids)) else {
        return true;
    };
    let tried = alone(0, || {
        let Ok(Ids::Full) = userns::enter(Ok(plan.clone())) else {
            return Ok(());
        };
        let dir = trial(place);
        let Some(dir) = dir
            .ok()
            .filter(|dir| fs::write(dir.path().join("f"), "").is_ok())
        else {
            return Ok(());
        };
        let file = dir.path().join("f");
        Ok(rustix::fs::chown(
            &file,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )?)
    });
    tried.is_ok()
}

/// An id besides root's.
fn other(ranges: &[Range]) -> Option<u32> {
    ranges.iter().find_map(|range| match range.inside {
        0 => (range.count > 1).then_some(1),
        inside => Some(inside),
    })
}

/// Whether the owners of files can be recorded there.
///
/// # Errors
/// What the file system says.
pub(super) fn keeps_owners(place: &Path) -> io::Result<()> {
    match has_xattrs(kind(place)) {
        true => Ok(()),
        false => records(trial(place)?.path()),
    }
}

/// Records an owner there.
pub(super) fn records(dir: &Path) -> io::Result<()> {
    Ok(rbuild_cache::Owner::of(1, 1).record(dir)?)
}

/// A directory to try things in. Left over it would be garbage in the store and nothing worse.
pub(super) fn trial(place: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("probe-").tempdir_in(place)
}

/// Replaces a directory of a lower layer, which takes an upper, a whiteout and an xattr.
pub(super) fn overlay(dir: &Path) -> io::Result<()> {
    for name in ["l/d", "u", "w"] {
        fs::create_dir_all(dir.join(name))?;
    }
    // A child of its own has no other use for its working directory.
    let tried = alone(0, || {
        std::env::set_current_dir(dir)?;
        let mount = mounts::overlay(&["l".to_owned()], Some(["u", "w"]))?;
        rustix::fs::unlinkat(&mount, "d", rustix::fs::AtFlags::REMOVEDIR)?;
        Ok(mounts::make_dirs(&mount, Path::new("d"))?)
    });
    // It is made without any permission, and the server of a network's file system asks for them of a namespace's root as well.
    let _ = rustix::fs::chmod(dir.join("w/work"), rustix::fs::Mode::RWXU);
    tried
}
