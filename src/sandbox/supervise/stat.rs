//! What stat(2) and statx(2) answer, as bytes with another owner in them. Pure.

use rbuild_cache::Device;
use rbuild_cache::Owner;

/// Bytes of this machine's `struct stat`, as the kernel fills it in.
pub(super) const STAT: usize = size_of::<libc::stat>();
/// Bytes of `struct statx`, on all machines.
pub(super) const STATX: usize = size_of::<libc::statx>();

/// Puts an owner, and the device that the file stands for, into a `struct stat`.
pub(super) fn patch_stat(bytes: &mut [u8; STAT], owner: Owner) {
    put(bytes, std::mem::offset_of!(libc::stat, st_uid), owner.uid);
    put(bytes, std::mem::offset_of!(libc::stat, st_gid), owner.gid);
    let Some(device) = owner.device else {
        return;
    };
    let at = std::mem::offset_of!(libc::stat, st_mode);
    let mode = u32::from_ne_bytes(*bytes[at..].first_chunk().expect("st_mode has four bytes"));
    put(bytes, at, device_mode(mode, device));
    let at = std::mem::offset_of!(libc::stat, st_rdev);
    bytes[at..at + 8].copy_from_slice(&number(device).to_ne_bytes());
}

/// The same for a `struct statx`.
pub(super) fn patch_statx(bytes: &mut [u8; STATX], owner: Owner) {
    put(bytes, std::mem::offset_of!(libc::statx, stx_uid), owner.uid);
    put(bytes, std::mem::offset_of!(libc::statx, stx_gid), owner.gid);
    let Some(device) = owner.device else {
        return;
    };
    let at = std::mem::offset_of!(libc::statx, stx_mode);
    let mode = u16::from_ne_bytes(*bytes[at..].first_chunk().expect("stx_mode has two bytes"));
    let mode = device_mode(mode.into(), device) as u16;
    bytes[at..at + 2].copy_from_slice(&mode.to_ne_bytes());
    let (major, minor) = (
        std::mem::offset_of!(libc::statx, stx_rdev_major),
        std::mem::offset_of!(libc::statx, stx_rdev_minor),
    );
    put(bytes, major, device.major);
    put(bytes, minor, device.minor);
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn device_mode(mode: u32, device: Device) -> u32 {
    let kind = match device.block {
        true => libc::S_IFBLK,
        false => libc::S_IFCHR,
    };
    mode & !libc::S_IFMT | kind
}

/// As linux/kdev_t.h puts a number together for `struct stat` (`new_encode_dev`).
fn number(device: Device) -> u64 {
    let Device { major, minor, .. } = device;
    u64::from((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod t {
    use super::*;

    const DISK: Device = Device {
        block: true,
        major: 259,
        minor: 300,
    };

    /// What the kernel says of a file, and what it would say if that were the device and of that owner.
    #[test]
    fn the_owner_and_the_device_change_and_nothing_else() {
        let plain = rustix::fs::stat("/dev/null").unwrap();
        let mut bytes = [0x5a; STAT];
        let at = std::mem::offset_of!(libc::stat, st_mode);
        put(&mut bytes, at, libc::S_IFREG | 0o640);
        let before = bytes;
        patch_stat(&mut bytes, Owner::of(1000, 42));
        let changed: Vec<usize> = (0..STAT).filter(|&i| bytes[i] != before[i]).collect();
        let uid = std::mem::offset_of!(libc::stat, st_uid);
        assert_eq!(changed, (uid..uid + 8).collect::<Vec<_>>());

        let owner = Owner {
            device: Some(DISK),
            ..Owner::of(1, 2)
        };
        patch_stat(&mut bytes, owner);
        let word = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(word(at), libc::S_IFBLK | 0o640);
        let at = std::mem::offset_of!(libc::stat, st_rdev);
        let rdev = u64::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!((libc::major(rdev), libc::minor(rdev)), (259, 300));
        // The kernel's own encoding of /dev/null's number.
        let null = Device {
            block: false,
            major: 1,
            minor: 3,
        };
        assert_eq!(number(null), plain.st_rdev);
    }

    #[test]
    fn statx_has_the_device_in_two_words() {
        let mut bytes = [0; STATX];
        let at = std::mem::offset_of!(libc::statx, stx_mode);
        bytes[at..at + 2].copy_from_slice(&0o100_640_u16.to_ne_bytes());
        let owner = Owner {
            device: Some(DISK),
            ..Owner::of(1, 2)
        };
        patch_statx(&mut bytes, owner);
        // Offsets of linux/stat.h.
        let word = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!((word(20), word(24)), (1, 2));
        assert_eq!(bytes[28..30], 0o060_640_u16.to_ne_bytes());
        assert_eq!((word(128), word(132)), (259, 300));
    }
}
