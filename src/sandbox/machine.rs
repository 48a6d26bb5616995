//! What `rbuild doctor` looks at without trying it: programs, devices, files of the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::cgroup;
use super::probe::Finding;
use super::probe::State;
use super::probe::finding;
use super::probe::sysctl;
use super::userns;

/// Below this, in bytes, a disk is told of.
const LITTLE: u64 = 1 << 30;

/// Ubuntu's switch. Where a profile lets rbuild pass, that is tried.
pub(super) fn apparmor() -> Option<Finding> {
    let restricts = sysctl("kernel/apparmor_restrict_unprivileged_userns")?;
    Some(finding(
        format!("kernel.apparmor_restrict_unprivileged_userns is {restricts}"),
        State::Good,
        None,
    ))
}

/// The programs that write id maps for others than root.
pub(super) fn helpers(user: u32) -> Vec<Finding> {
    let look = |name: &str| {
        let path = userns::helper(name).ok()?;
        let path = path.display();
        Some(match has_power(&path.to_string()) {
            true => finding(format!("{path}"), State::Good, None),
            false => finding(
                format!("{path} has no privileges"),
                State::Limited,
                Some(&format!("sudo chmod u+s {path}")),
            ),
        })
    };
    match user {
        0 => Vec::new(),
        _ => ["newuidmap", "newgidmap"]
            .into_iter()
            .filter_map(look)
            .collect(),
    }
}

/// Whether a program is setuid root or has capabilities.
fn has_power(path: &str) -> bool {
    let setuid =
        fs::metadata(path).is_ok_and(|found| found.mode() & 0o4000 != 0 && found.uid() == 0);
    setuid || rustix::fs::getxattr(path, "security.capability", &mut [0; 64][..]).is_ok()
}

/// Interpreters for programs of other architectures.
pub(super) fn emulation() -> Finding {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc")
        .into_iter()
        .flatten();
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut qemu: Vec<String> = names
        .filter_map(|name| Some(name.strip_prefix("qemu-")?.to_owned()))
        .collect();
    qemu.sort();
    match qemu.as_slice() {
        [] => finding(
            "programs of other architectures cannot be executed: binfmt_misc has no qemu",
            State::Limited,
            Some(
                "install qemu-user-static (Debian, Fedora), or `docker run --privileged tonistiigi/binfmt --install all`",
            ),
        ),
        some => finding(
            format!("programs for {}, emulated", some.join(", ")),
            State::Good,
            None,
        ),
    }
}

/// Whether steps can be given limits.
pub(super) fn cgroup() -> Finding {
    match cgroup::look() {
        Ok((dir, controllers)) => finding(
            format!(
                "limits for steps (`--resource`): {}, in the cgroup {}",
                controllers.join(", "),
                dir.display()
            ),
            State::Good,
            None,
        ),
        Err(refusal) => finding(
            format!(
                "steps cannot be given limits (`--resource`): {}",
                refusal.why
            ),
            State::Limited,
            refusal.fix.as_deref(),
        ),
    }
}

/// The space for the store.
pub(super) fn disk(store: &Path) -> Option<Finding> {
    let found = rustix::fs::statvfs(store).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let what = format!("{} MiB free in `{}`", free >> 20, store.display());
    Some(match free < LITTLE {
        true => finding(
            what,
            State::Limited,
            Some("`rbuild prune`, or another place with `--root`"),
        ),
        false => finding(what, State::Good, None),
    })
}
