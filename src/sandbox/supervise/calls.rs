//! Which system calls the supervisor is asked about, and what their arguments say. Pure.

use rbuild_cache::Device;

/// Number of a call on x86_64 and aarch64.
type Numbers = [Option<u16>; 2];

/// What a call is, before its arguments are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Name {
    Chown,
    Chroot,
    Creat,
    Fchown,
    Fchownat,
    Flistxattr,
    Fstat,
    Getegid,
    Geteuid,
    Getgid,
    Getgroups,
    Getresgid,
    Getresuid,
    Getrlimit,
    Getuid,
    Lchown,
    Listxattr,
    Llistxattr,
    Lstat,
    Mkdir,
    Mkdirat,
    Mknod,
    Mknodat,
    Newfstatat,
    Open,
    Openat,
    Openat2,
    Prctl,
    Prlimit64,
    Setfsgid,
    Setfsuid,
    Setgid,
    Setgroups,
    Setregid,
    Setresgid,
    Setresuid,
    Setreuid,
    Setrlimit,
    Setuid,
    Stat,
    Statx,
    Symlink,
    Symlinkat,
}

/// The calls, sorted by their numbers on x86_64.
#[rustfmt::skip]
pub(in crate::sandbox) const CALLS: &[(Name, Numbers)] = &[
    (Name::Open, [Some(2), None]),
    (Name::Stat, [Some(4), None]),
    (Name::Fstat, [Some(5), Some(80)]),
    (Name::Lstat, [Some(6), None]),
    (Name::Mkdir, [Some(83), None]),
    (Name::Creat, [Some(85), None]),
    (Name::Symlink, [Some(88), None]),
    (Name::Chown, [Some(92), None]),
    (Name::Fchown, [Some(93), Some(55)]),
    (Name::Lchown, [Some(94), None]),
    (Name::Getrlimit, [Some(97), Some(163)]),
    (Name::Getuid, [Some(102), Some(174)]),
    (Name::Getgid, [Some(104), Some(176)]),
    (Name::Setuid, [Some(105), Some(146)]),
    (Name::Setgid, [Some(106), Some(144)]),
    (Name::Geteuid, [Some(107), Some(175)]),
    (Name::Getegid, [Some(108), Some(177)]),
    (Name::Setreuid, [Some(113), Some(145)]),
    (Name::Setregid, [Some(114), Some(143)]),
    (Name::Getgroups, [Some(115), Some(158)]),
    (Name::Setgroups, [Some(116), Some(159)]),
    (Name::Setresuid, [Some(117), Some(147)]),
    (Name::Getresuid, [Some(118), Some(148)]),
    (Name::Setresgid, [Some(119), Some(149)]),
    (Name::Getresgid, [Some(120), Some(150)]),
    (Name::Setfsuid, [Some(122), Some(151)]),
    (Name::Setfsgid, [Some(123), Some(152)]),
    (Name::Mknod, [Some(133), None]),
    (Name::Prctl, [Some(157), Some(167)]),
    (Name::Setrlimit, [Some(160), Some(164)]),
    (Name::Chroot, [Some(161), Some(51)]),
    (Name::Listxattr, [Some(194), Some(11)]),
    (Name::Llistxattr, [Some(195), Some(12)]),
    (Name::Flistxattr, [Some(196), Some(13)]),
    (Name::Openat, [Some(257), Some(56)]),
    (Name::Mkdirat, [Some(258), Some(34)]),
    (Name::Mknodat, [Some(259), Some(33)]),
    (Name::Fchownat, [Some(260), Some(54)]),
    (Name::Newfstatat, [Some(262), Some(79)]),
    (Name::Symlinkat, [Some(266), Some(36)]),
    (Name::Prlimit64, [Some(302), Some(261)]),
    (Name::Statx, [Some(332), Some(291)]),
    (Name::Openat2, [Some(437), Some(437)]),
];

/// The resource limit whose soft value marks a process as one of other ids ([`super`]).
const MARKED: u32 = libc::RLIMIT_RTTIME as _;

/// This machine's column of [`Numbers`].
#[cfg(target_arch = "x86_64")]
pub(in crate::sandbox) const COLUMN: usize = 0;
#[cfg(target_arch = "aarch64")]
pub(in crate::sandbox) const COLUMN: usize = 1;

/// The call of a number.
pub(super) fn name(number: i32, column: usize) -> Option<Name> {
    let number = u16::try_from(number).ok()?;
    let named = |(_, numbers): &&(Name, Numbers)| numbers[column] == Some(number);
    CALLS.iter().find(named).map(|&(name, _)| name)
}

/// Which of a call's kind the supervisor is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Which {
    All,
    /// Those with `O_CREAT` in this argument.
    Creating(u32),
    /// Those with this value in this argument.
    With(u32, u32),
}

impl Name {
    /// Which of them concern the supervisor.
    pub(in crate::sandbox) fn which(self) -> Which {
        match self {
            Self::Open => Which::Creating(1),
            Self::Openat => Which::Creating(2),
            Self::Prctl => Which::With(0, libc::PR_SET_KEEPCAPS as u32),
            Self::Getrlimit | Self::Setrlimit => Which::With(0, MARKED),
            Self::Prlimit64 => Which::With(1, MARKED),
            _ => Which::All,
        }
    }
}

/// A file as a call names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    /// A descriptor of the caller's, or `AT_FDCWD`.
    pub(super) dir: i32,
    /// Where its path is; 0 for the file that `dir` is.
    pub(super) path: u64,
    /// Whether an empty path stands for what `dir` is.
    pub(super) empty: bool,
    /// Whether a symbolic link at the end is followed.
    pub(super) follow: bool,
}

impl At {
    fn path(path: u64, follow: bool) -> Self {
        Self::below(libc::AT_FDCWD, path, follow)
    }

    fn below(dir: i32, path: u64, follow: bool) -> Self {
        Self {
            dir,
            path,
            empty: false,
            follow,
        }
    }

    fn descriptor(fd: u64) -> Self {
        Self {
            dir: fd as i32,
            path: 0,
            empty: true,
            follow: true,
        }
    }

    /// By the usual flags; nothing if there are others, which the kernel may understand.
    fn flagged(dir: u64, path: u64, flags: u64, others: i32) -> Option<Self> {
        let flags = flags as i32;
        let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | others;
        if flags & !known != 0 {
            return None;
        }
        let empty = flags & libc::AT_EMPTY_PATH != 0;
        if path == 0 && !empty {
            return None;
        }
        Some(Self {
            dir: dir as i32,
            path,
            empty,
            follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
        })
    }
}

/// What a new file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum New {
    /// Opened with these flags.
    File { flags: i32, mode: u32 },
    /// A directory.
    Directory { mode: u32 },
    /// A symbolic link; where its text is.
    Symlink { target: u64 },
    /// By mknod(2): an empty file, a fifo or a socket.
    Node { mode: u32 },
    /// By mknod(2): a device.
    Device { mode: u32, device: Device },
}

/// A call that the supervisor may have something to say about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// stat(2) and its family, to be written to an address.
    Stat { at: At, to: u64 },
    /// statx(2).
    Statx {
        at: At,
        flags: i32,
        mask: u32,
        to: u64,
    },
    /// A change of owner; -1 keeps one.
    Chown {
        at: At,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// A new name in a directory.
    Create { at: At, new: New },
    /// openat2(2), whose flags lie in memory.
    Openat2 { at: At, how: u64, size: u64 },
    /// The names of extended attributes.
    ListXattr { at: At, to: u64, size: u64 },
    /// chroot(2).
    Chroot,
    /// prlimit(2) of the limit that is a mark. Where the limit is wanted, if it is.
    Limit { old: Option<u64> },
    /// prctl(2) with `PR_SET_KEEPCAPS`.
    KeepCapabilities(bool),
    /// The caller's ids.
    Ids(Ids),
}

/// Questions and orders about a process' ids. -1 keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    GetUid,
    GetEuid,
    GetGid,
    GetEgid,
    GetGroups {
        size: i32,
        to: u64,
    },
    GetResUid {
        to: [u64; 3],
    },
    GetResGid {
        to: [u64; 3],
    },
    SetUid(u32),
    SetGid(u32),
    SetReUid(Option<u32>, Option<u32>),
    SetReGid(Option<u32>, Option<u32>),
    SetResUid([Option<u32>; 3]),
    SetResGid([Option<u32>; 3]),
    SetFsUid(u32),
    SetFsGid(u32),
    /// How many, and where they are.
    SetGroups {
        count: i32,
        from: u64,
    },
}

/// What a call's arguments say; `None` if the kernel is to see to it alone.
pub(super) fn decode(name: Name, args: [u64; 6]) -> Option<Call> {
    let [a, b, c, d, e, _] = args;
    let id = |arg: u64| Some(arg as u32).filter(|&id| id != u32::MAX);
    let chown = |at, uid, gid| Call::Chown {
        at,
        uid: id(uid),
        gid: id(gid),
    };
    let create = |at, new| Call::Create { at, new };
    let ids = |ids| Some(Call::Ids(ids));
    Some(match name {
        Name::Stat => Call::Stat {
            at: At::path(a, true),
            to: b,
        },
        Name::Lstat => Call::Stat {
            at: At::path(a, false),
            to: b,
        },
        Name::Fstat => Call::Stat {
            at: At::descriptor(a),
            to: b,
        },
        Name::Newfstatat => Call::Stat {
            at: At::flagged(a, b, d, libc::AT_NO_AUTOMOUNT)?,
            to: c,
        },
        Name::Statx => Call::Statx {
            at: At::flagged(a, b, c, libc::AT_NO_AUTOMOUNT | libc::AT_STATX_SYNC_TYPE)?,
            flags: c as i32,
            mask: d as u32,
            to: e,
        },
        Name::Chown => chown(At::path(a, true), b, c),
        Name::Lchown => chown(At::path(a, false), b, c),
        Name::Fchown => chown(At::descriptor(a), b, c),
        Name::Fchownat => chown(At::flagged(a, b, e, 0)?, c, d),
        Name::Mknod => create(At::path(a, false), node(b, c)?),
        Name::Mknodat => create(At::below(a as i32, b, false), node(c, d)?),
        Name::Mkdir => create(At::path(a, false), New::Directory { mode: b as u32 }),
        Name::Mkdirat => {
            let new = New::Directory { mode: c as u32 };
            create(At::below(a as i32, b, false), new)
        }
        Name::Symlink => create(At::path(b, false), New::Symlink { target: a }),
        Name::Symlinkat => {
            let new = New::Symlink { target: a };
            create(At::below(b as i32, c, false), new)
        }
        Name::Creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            create(At::path(a, false), open(flags, b)?)
        }
        Name::Open => create(At::path(a, false), open(b as i32, c)?),
        Name::Openat => create(At::below(a as i32, b, false), open(c as i32, d)?),
        Name::Openat2 => Call::Openat2 {
            at: At::below(a as i32, b, false),
            how: c,
            size: d,
        },
        Name::Listxattr => list(At::path(a, true), b, c),
        Name::Llistxattr => list(At::path(a, false), b, c),
        Name::Flistxattr => list(At::descriptor(a), b, c),
        Name::Setrlimit => Call::Limit { old: None },
        Name::Getrlimit => Call::Limit { old: Some(b) },
        Name::Prlimit64 => Call::Limit {
            old: Some(d).filter(|&old| old != 0),
        },
        Name::Prctl => Call::KeepCapabilities(b != 0),
        Name::Chroot => Call::Chroot,
        Name::Getuid => return ids(Ids::GetUid),
        Name::Geteuid => return ids(Ids::GetEuid),
        Name::Getgid => return ids(Ids::GetGid),
        Name::Getegid => return ids(Ids::GetEgid),
        Name::Getgroups => {
            let size = a as i32;
            return ids(Ids::GetGroups { size, to: b });
        }
        Name::Getresuid => return ids(Ids::GetResUid { to: [a, b, c] }),
        Name::Getresgid => return ids(Ids::GetResGid { to: [a, b, c] }),
        Name::Setuid => return ids(Ids::SetUid(a as u32)),
        Name::Setgid => return ids(Ids::SetGid(a as u32)),
        Name::Setreuid => return ids(Ids::SetReUid(id(a), id(b))),
        Name::Setregid => return ids(Ids::SetReGid(id(a), id(b))),
        Name::Setresuid => return ids(Ids::SetResUid([id(a), id(b), id(c)])),
        Name::Setresgid => return ids(Ids::SetResGid([id(a), id(b), id(c)])),
        Name::Setfsuid => return ids(Ids::SetFsUid(a as u32)),
        Name::Setfsgid => return ids(Ids::SetFsGid(a as u32)),
        Name::Setgroups => {
            let count = a as i32;
            return ids(Ids::SetGroups { count, from: b });
        }
    })
}

fn list(at: At, to: u64, size: u64) -> Call {
    Call::ListXattr { at, to, size }
}

/// Flags of open(2) that make a regular file if there is none.
pub(super) fn open(flags: i32, mode: u64) -> Option<New> {
    let makes = flags & libc::O_CREAT != 0 && flags & (libc::O_PATH | libc::O_DIRECTORY) == 0;
    makes.then_some(New::File {
        flags,
        mode: mode as u32 & 0o7777,
    })
}

fn node(mode: u64, number: u64) -> Option<New> {
    let mode = mode as u32;
    let block = match mode & libc::S_IFMT {
        libc::S_IFBLK => true,
        libc::S_IFCHR => false,
        0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => return Some(New::Node { mode }),
        _ => return None,
    };
    // As linux/kdev_t.h takes a `dev_t` of 32 bits apart.
    let number = number as u32;
    let device = Device {
        block,
        major: (number & 0x000f_ff00) >> 8,
        minor: (number & 0xff) | ((number >> 12) & 0x000f_ff00),
    };
    // A whiteout, which overlayfs refuses.
    let whiteout = (device.major, device.minor, block) == (0, 0, false);
    (!whiteout).then_some(New::Device { mode, device })
}

/// The flags and the mode in a `struct open_how` (openat2(2)).
pub(super) fn open_how(bytes: &[u8; 24]) -> Option<New> {
    let word = |at: usize| {
        let bytes = bytes[at..at + 8].first_chunk().expect("eight bytes");
        u64::from_ne_bytes(*bytes)
    };
    // How paths are resolved is the kernel's affair.
    match word(16) {
        0 => open(i32::try_from(word(0)).ok()?, word(8)),
        _ => None,
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn calls_have_this_machines_numbers() {
        let table: [(Name, libc::c_long); 27] = [
            (Name::Chroot, libc::SYS_chroot),
            (Name::Fchown, libc::SYS_fchown),
            (Name::Fchownat, libc::SYS_fchownat),
            (Name::Flistxattr, libc::SYS_flistxattr),
            (Name::Fstat, libc::SYS_fstat),
            (Name::Getegid, libc::SYS_getegid),
            (Name::Geteuid, libc::SYS_geteuid),
            (Name::Getgid, libc::SYS_getgid),
            (Name::Getgroups, libc::SYS_getgroups),
            (Name::Getresgid, libc::SYS_getresgid),
            (Name::Getresuid, libc::SYS_getresuid),
            (Name::Getuid, libc::SYS_getuid),
            (Name::Mkdirat, libc::SYS_mkdirat),
            (Name::Mknodat, libc::SYS_mknodat),
            (Name::Newfstatat, libc::SYS_newfstatat),
            (Name::Openat, libc::SYS_openat),
            (Name::Openat2, libc::SYS_openat2),
            (Name::Prctl, libc::SYS_prctl),
            (Name::Prlimit64, libc::SYS_prlimit64),
            (Name::Setgroups, libc::SYS_setgroups),
            (Name::Setregid, libc::SYS_setregid),
            (Name::Setresgid, libc::SYS_setresgid),
            (Name::Setresuid, libc::SYS_setresuid),
            (Name::Setreuid, libc::SYS_setreuid),
            (Name::Setuid, libc::SYS_setuid),
            (Name::Statx, libc::SYS_statx),
            (Name::Symlinkat, libc::SYS_symlinkat),
        ];
        for (call, number) in table {
            assert_eq!(name(number as i32, COLUMN), Some(call));
        }
    }

    #[test]
    fn no_number_stands_twice_and_the_table_is_sorted() {
        for column in 0..2 {
            let mut numbers: Vec<u16> = CALLS.iter().filter_map(|(_, n)| n[column]).collect();
            let sorted = numbers.is_sorted();
            numbers.sort_unstable();
            numbers.dedup();
            let all = CALLS.iter().filter(|(_, n)| n[column].is_some()).count();
            assert_eq!(numbers.len(), all);
            assert!(column == 1 || sorted);
        }
        assert_eq!(name(-1, COLUMN), None);
        assert_eq!(name(1_000_000, COLUMN), None);
    }

    #[test]
    fn arguments_are_what_the_manual_pages_say() {
        let at_cwd = libc::AT_FDCWD as u64;
        let at = |dir, path, empty, follow| At {
            dir,
            path,
            empty,
            follow,
        };
        let nofollow = libc::AT_SYMLINK_NOFOLLOW as u64;
        let empty = libc::AT_EMPTY_PATH as u64;
        let check = |name, args: [u64; 5], expected: Option<Call>| {
            let [a, b, c, d, e] = args;
            assert_eq!(decode(name, [a, b, c, d, e, 0]), expected, "{name:?}");
        };
        // The upper half of what is an int is undefined (the kernel looks at 32 bits).
        check(
            Name::Newfstatat,
            [at_cwd & 0xffff_ffff, 10, 20, nofollow, 0],
            Some(Call::Stat {
                at: at(libc::AT_FDCWD, 10, false, false),
                to: 20,
            }),
        );
        check(
            Name::Newfstatat,
            [3, 0, 20, empty, 0],
            Some(Call::Stat {
                at: at(3, 0, true, true),
                to: 20,
            }),
        );
        check(Name::Newfstatat, [3, 0, 20, 0, 0], None);
        check(Name::Newfstatat, [3, 10, 20, 0x8000_0000, 0], None);
        check(
            Name::Fchownat,
            [at_cwd, 10, 1000, u64::from(u32::MAX), nofollow],
            Some(Call::Chown {
                at: at(libc::AT_FDCWD, 10, false, false),
                uid: Some(1000),
                gid: None,
            }),
        );
        check(
            Name::Lchown,
            [10, u64::MAX, 42, 0, 0],
            Some(Call::Chown {
                at: at(libc::AT_FDCWD, 10, false, false),
                uid: None,
                gid: Some(42),
            }),
        );
        // glibc's makedev(259, 300): a minor of more than eight bits.
        let device = Device {
            block: true,
            major: 259,
            minor: 300,
        };
        let mode = libc::S_IFBLK | 0o660;
        check(
            Name::Mknodat,
            [
                at_cwd,
                10,
                u64::from(mode),
                libc::makedev(259, 300) & 0xffff_ffff,
                0,
            ],
            Some(Call::Create {
                at: at(libc::AT_FDCWD, 10, false, false),
                new: New::Device { mode, device },
            }),
        );
        check(Name::Mknod, [10, u64::from(libc::S_IFCHR), 0, 0, 0], None);
        check(Name::Mknod, [10, u64::from(libc::S_IFDIR), 0, 0, 0], None);
        // Without O_CREAT, or with O_TMPFILE, no name is made.
        check(Name::Openat, [at_cwd, 10, 0, 0o644, 0], None);
        let unnamed = (libc::O_TMPFILE | libc::O_RDWR) as u64;
        check(Name::Openat, [at_cwd, 10, unnamed, 0o644, 0], None);
    }

    #[test]
    fn an_open_how_is_read() {
        let how = |words: [u64; 3]| -> [u8; 24] {
            let bytes = words.map(u64::to_ne_bytes).concat();
            bytes.try_into().unwrap()
        };
        let flags = libc::O_CREAT | libc::O_WRONLY;
        let new = New::File { flags, mode: 0o640 };
        assert_eq!(open_how(&how([flags as u64, 0o640, 0])), Some(new));
        assert_eq!(open_how(&how([flags as u64, 0o640, 8])), None);
        assert_eq!(open_how(&how([0, 0, 0])), None);
        assert_eq!(open_how(&how([u64::MAX, 0o640, 0])), None);
    }
}
