//! Capabilities of a step, and of what acts for it.

use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

use super::step::Security;
use super::sys;

/// Docker's default set (moby, daemon/pkg/oci/caps/defaults.go).
pub(super) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What the program of a step begins with.
pub(super) fn of(security: Security, uid: u32) -> CapabilitySet {
    match (security, uid) {
        (_, 1..) => CapabilitySet::empty(),
        (Security::Sandbox, 0) => DEFAULT,
        (Security::Insecure, 0) => CapabilitySet::all(),
    }
}

/// Takes everything but `keep` out of the bounding set: a program executed by uid 0 gets what is left of it
/// (capabilities(7), "Capabilities and execution of programs by root").
pub(super) fn bound(keep: CapabilitySet) -> rustix::io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The number after the kernel's last one.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Limits this process to `keep`. Nothing is inheritable, or the ambient and file capabilities of any program could
/// pick it up (CVE-2022-24769).
pub(super) fn limit(keep: CapabilitySet) -> rustix::io::Result<()> {
    limit_with_spare(keep, CapabilitySet::empty())
}

/// The same, with others kept that have no effect but in [`with`].
pub(super) fn limit_with_spare(
    keep: CapabilitySet,
    spare: CapabilitySet,
) -> rustix::io::Result<()> {
    let now = rustix::thread::capabilities(None)?.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: now & keep,
            permitted: now & (keep | spare),
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Does something with a spare capability in effect.
pub(super) fn with<T>(spare: CapabilitySet, act: impl FnOnce() -> T) -> rustix::io::Result<T> {
    let usual = rustix::thread::capabilities(None)?;
    let more = CapabilitySets {
        effective: usual.effective | spare & usual.permitted,
        ..usual
    };
    rustix::thread::set_capabilities(None, more)?;
    let done = act();
    match rustix::thread::set_capabilities(None, usual) {
        Ok(()) => Ok(done),
        // The kernel refuses nobody less than he has; who has too much must not go on.
        Err(_) => sys::exit_child(1),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn the_set_is_the_one_docker_shows_in_proc() {
        assert_eq!(DEFAULT.bits(), 0xa804_25fb);
    }
}
