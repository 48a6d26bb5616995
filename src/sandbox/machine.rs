//! What `rbuild doctor` looks at without trying it: programs, devices, files of the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::cgroup;
use super::foreign::Survey;
use super::probe::Finding;
use super::probe::State;
use super::probe::finding;
use super::probe::sysctl;
use super::userns;

/// Below this, in bytes, a disk is told of.
const LITTLE: u64 = 1 << 30;

/// Ubuntu's switch.
const APPARMOR: &str = "kernel/apparmor_restrict_unprivileged_userns";

/// What it is. Where a profile lets rbuild pass, that is tried.
pub(super) fn apparmor() -> Option<Finding> {
    let restricts = sysctl(APPARMOR)?;
    Some(finding(
        format!("kernel.apparmor_restrict_unprivileged_userns is {restricts}"),
        State::Good,
        None,
    ))
}

/// Whether AppArmor takes the power of namespaces that programs without a profile make (Ubuntu).
pub(super) fn restricted() -> bool {
    sysctl(APPARMOR).as_deref() == Some("1")
}

/// Whether a seccomp filter was there before rbuild: that of a container, mostly.
pub(super) fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line == "Seccomp:\t2")
}

/// What has it let rbuild pass: for all programs, or for this file.
pub(super) fn unrestrict() -> String {
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    unrestrict_for(&program)
}

fn unrestrict_for(program: &Path) -> String {
    const ALL: &str = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0";
    // Others mean something to the shell, or in a pattern of apparmor.d(5).
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+ ".contains(c);
    match program.to_str() {
        Some(path) if path.starts_with('/') && path.chars().all(is_plain) => format!(
            "{ALL}, or for rbuild alone:\n\
             echo 'abi <abi/4.0>, profile rbuild \"{path}\" flags=(unconfined) {{ userns, }}' | \
             sudo tee /etc/apparmor.d/rbuild && sudo apparmor_parser -r /etc/apparmor.d/rbuild"
        ),
        _ => format!("{ALL}, or an AppArmor profile with `userns,` for rbuild"),
    }
}

/// The programs that write id maps for others than root.
pub(super) const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// What is to be said of them.
pub(super) fn helpers(user: u32) -> Vec<Finding> {
    let look = |name: &str| {
        let path = userns::helper(name).ok()?;
        let name = path.display();
        Some(match powerless(&path) {
            None => finding(format!("{name}"), State::Good, None),
            Some(Powerless { why, fix }) => {
                finding(format!("{name} {why}"), State::Limited, Some(&fix))
            }
        })
    };
    match user {
        0 => Vec::new(),
        _ => HELPERS.into_iter().filter_map(look).collect(),
    }
}

/// Why a program has no other rights than who executes it, and what would give it them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Powerless {
    why: &'static str,
    pub(super) fix: String,
}

/// Whether a program is neither setuid root nor has capabilities, or the kernel looks at neither. Inside a user namespace of
/// ours, where others' files are nobody's, too.
pub(super) fn powerless(path: &Path) -> Option<Powerless> {
    /// The owner of files whose owner has no id here (linux/highuid.h).
    const OVERFLOW: u32 = 65534;
    let setuid = fs::metadata(path)
        .is_ok_and(|found| found.mode() & 0o4000 != 0 && [0, OVERFLOW].contains(&found.uid()));
    // EOVERFLOW: capabilities that count in another namespace.
    let capable = !matches!(
        rustix::fs::getxattr(path, "security.capability", &mut [0; 64][..]),
        Err(errno) if errno != rustix::io::Errno::OVERFLOW
    );
    let path = path.display();
    if !setuid && !capable {
        return Some(Powerless {
            why: "has no privileges",
            fix: format!("sudo chmod u+s {path}"),
        });
    }
    let nosuid = rustix::fs::statvfs(&*path.to_string())
        .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    nosuid.then(|| Powerless {
        why: "gets no privileges: its file system is mounted with `nosuid`",
        fix: format!("mount the file system of {path} without `nosuid`"),
    })
}

/// Programs of other architectures, as they were tried.
pub(super) fn foreign(survey: &Survey) -> Vec<Finding> {
    let tell = |architectures: &[String], how: &str| {
        let names = architectures.join(", ");
        (!names.is_empty())
            .then(|| finding(format!("programs for {names}, {how}"), State::Good, None))
    };
    let mut findings: Vec<Finding> = [
        tell(&survey.native, "which this machine executes as well"),
        tell(&survey.own, "emulated, with nothing to set up"),
        tell(
            &survey.registered,
            "emulated by what is registered on this machine",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if survey.own.is_empty() && survey.registered.is_empty() {
        let (why, fix) = &survey.lack;
        findings.push(finding(
            format!("programs of other architectures cannot be executed: {why}"),
            State::Limited,
            Some(fix),
        ));
    }
    findings
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

/// The space for the store, where its file system counts that.
pub(super) fn disk(store: &Path) -> Option<Finding> {
    let found = rustix::fs::statvfs(store).ok()?;
    let found = Some(found).filter(|found| found.f_blocks > 0)?;
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

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_profile_is_shown_for_plain_paths() {
        assert_eq!(
            unrestrict_for(Path::new("/home/me/my bin/rbuild")),
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or for rbuild alone:\n\
             echo 'abi <abi/4.0>, profile rbuild \"/home/me/my bin/rbuild\" flags=(unconfined) { userns, }' | \
             sudo tee /etc/apparmor.d/rbuild && sudo apparmor_parser -r /etc/apparmor.d/rbuild"
        );
        for path in ["", "/it's/rbuild", "/a*/rbuild", "/a{b}/rbuild"] {
            assert!(
                !unrestrict_for(Path::new(path)).contains("profile rbuild"),
                "{path}"
            );
        }
    }
}
