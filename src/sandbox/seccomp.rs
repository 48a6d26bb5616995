//! The seccomp filter of a step: docker's default profile as a list of what is denied.
//!
//! Docker allows some 350 system calls by name and denies the rest with `EPERM`. Here the calls that its profile denies
//! to a container with the default capabilities are named and the rest is allowed: calls newer than this list then
//! fail by the kernel's own checks or with its own `ENOSYS`, which programs know how to handle, and not with an `EPERM`
//! that they do not. clone3(2) fails with `ENOSYS`, as docker answers it: its flags lie in memory a filter cannot
//! read, and the C library falls back to clone(2), whose flags are checked.
//!
//! A step may be let have namespaces of its own ([`Nesting`]), with what programs do in them: bubblewrap, sandboxes of
//! browsers, builders. Docker denies these calls to who lacks CAP_SYS_ADMIN, and podman allows them to all: in a nested
//! user namespace the kernel itself keeps every mount of the step where and as it is (mount_namespaces(7),
//! "Restrictions on mount namespaces").
//!
//! The program is written here and not by `seccompiler`, which kills a process that makes calls of the machine's
//! 32-bit sister (i386, arm): images for `linux/386` run on amd64. What is allowed whatever its arguments comes out of
//! the kernel's cache (Linux 5.11) and costs next to nothing.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::BPF_ABS;
use libc::BPF_ALU;
use libc::BPF_AND;
use libc::BPF_JEQ;
use libc::BPF_JGE;
use libc::BPF_JMP;
use libc::BPF_K;
use libc::BPF_LD;
use libc::BPF_RET;
use libc::BPF_W;
use libc::sock_filter;

use super::supervise::CALLS;
use super::supervise::Which;

const NONE: u16 = u16::MAX;

/// Number of a call on x86_64, aarch64, i386 and arm (EABI).
type Numbers = [u16; 4];

/// What is denied with `EPERM` whatever its arguments (docker, "Significant syscalls blocked by the default profile",
/// and what the profile ties to capabilities outside [`super::caps::DEFAULT`]).
#[rustfmt::skip]
const DENIED: &[(&str, Numbers)] = &[
    ("_sysctl", [156, NONE, 149, 149]),
    ("acct", [163, 89, 51, 51]),
    ("add_key", [248, 217, 286, 309]),
    ("bpf", [321, 280, 357, 386]),
    ("clock_settime", [227, 112, 264, 262]),
    ("clock_settime64", [NONE, NONE, 404, 404]),
    ("create_module", [174, NONE, 127, NONE]),
    ("delete_module", [176, 106, 129, 129]),
    ("fanotify_init", [300, 262, 338, 367]),
    ("finit_module", [313, 273, 350, 379]),
    ("get_kernel_syms", [177, NONE, 130, NONE]),
    ("get_mempolicy", [239, 236, 275, 320]),
    ("init_module", [175, 105, 128, 128]),
    ("io_uring_enter", [426, 426, 426, 426]),
    ("io_uring_register", [427, 427, 427, 427]),
    ("io_uring_setup", [425, 425, 425, 425]),
    ("ioperm", [173, NONE, 101, NONE]),
    ("iopl", [172, NONE, 110, NONE]),
    ("kcmp", [312, 272, 349, 378]),
    ("kexec_file_load", [320, 294, NONE, 401]),
    ("kexec_load", [246, 104, 283, 347]),
    ("keyctl", [250, 219, 288, 311]),
    ("lookup_dcookie", [212, 18, 253, 249]),
    ("mbind", [237, 235, 274, 319]),
    ("migrate_pages", [256, 238, 294, NONE]),
    ("move_pages", [279, 239, 317, 344]),
    ("nfsservctl", [180, 42, 169, 169]),
    ("open_by_handle_at", [304, 265, 342, 371]),
    ("perf_event_open", [298, 241, 336, 364]),
    ("pidfd_getfd", [438, 438, 438, 438]),
    ("process_madvise", [440, 440, 440, 440]),
    ("query_module", [178, NONE, 167, NONE]),
    ("quotactl", [179, 60, 131, 131]),
    ("quotactl_fd", [443, 443, 443, 443]),
    ("reboot", [169, 142, 88, 88]),
    ("request_key", [249, 218, 287, 310]),
    ("set_mempolicy", [238, 237, 276, 321]),
    ("set_mempolicy_home_node", [450, 450, 450, 450]),
    ("settimeofday", [164, 170, 79, 79]),
    ("stime", [NONE, NONE, 25, NONE]),
    ("swapoff", [168, 225, 115, 115]),
    ("swapon", [167, 224, 87, 87]),
    ("sysfs", [139, NONE, 135, 135]),
    ("syslog", [103, 116, 103, 103]),
    ("uselib", [134, NONE, 86, 86]),
    ("userfaultfd", [323, 282, 374, 388]),
    ("ustat", [136, NONE, 62, 62]),
    ("vhangup", [153, 58, 111, 111]),
    ("vm86", [NONE, NONE, 166, NONE]),
    ("vm86old", [NONE, NONE, 113, NONE]),
];

/// What is denied as well to steps that may have no namespaces of their own; each takes CAP_SYS_ADMIN in one.
#[rustfmt::skip]
const DENIED_TO_ONE: &[(&str, Numbers)] = &[
    ("fsconfig", [431, 431, 431, 431]),
    ("fsmount", [432, 432, 432, 432]),
    ("fsopen", [430, 430, 430, 430]),
    ("fspick", [433, 433, 433, 433]),
    ("mount", [165, 40, 21, 21]),
    ("mount_setattr", [442, 442, 442, 442]),
    ("move_mount", [429, 429, 429, 429]),
    ("open_tree", [428, 428, 428, 428]),
    ("open_tree_attr", [467, 467, 467, 467]),
    ("pivot_root", [155, 41, 217, 218]),
    ("setdomainname", [171, 162, 121, 121]),
    ("sethostname", [170, 161, 74, 74]),
    ("setns", [308, 268, 346, 375]),
    ("umount", [NONE, NONE, 22, NONE]),
    ("umount2", [166, 39, 52, 52]),
];

const CLONE: Numbers = [56, 220, 120, 120];
const CLONE3: Numbers = [435; 4];
const PERSONALITY: Numbers = [135, 92, 136, 136];
const SOCKET: Numbers = [41, 198, 359, 281];
const UNSHARE: Numbers = [272, 97, 310, 337];

/// All `CLONE_NEW…` flags but `CLONE_NEWTIME`, which clone(2) does not take.
const NAMESPACES: u32 = 0x7E02_0000;

/// `CLONE_NEWCGROUP`. Who owns a cgroup namespace may mount cgroup file systems, of which the limits of a build belong to
/// the user that its root is, and a version 1 has programs run by the machine's root (CVE-2022-0492).
const CGROUPS: u32 = 0x0200_0000;

/// `PER_LINUX`, `PER_LINUX32`, `UNAME26` with each, and the question what it is.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

const AF_VSOCK: u32 = 40;

/// Bit 30 of a number makes an x32 call of it.
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_…` (linux/audit.h) of this machine and of its 32-bit sister, with their columns in [`Numbers`].
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [(u32, usize); 2] = [(0xC000_003E, 0), (0x4000_0003, 2)];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [(u32, usize); 2] = [(0xC000_00B7, 1), (0x4000_0028, 3)];

/// Offsets in `struct seccomp_data`. Both machines are little endian: an argument's low half comes first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Whether a step may have user namespaces of its own, and others in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nesting {
    Allowed,
    Refused,
}

/// The program. It is made once in a process and is there in those that are forked then.
pub(super) fn program(nesting: Nesting) -> &'static [sock_filter] {
    static PROGRAMS: [OnceLock<Vec<sock_filter>>; 2] = [OnceLock::new(), OnceLock::new()];
    PROGRAMS[usize::from(nesting == Nesting::Allowed)].get_or_init(|| make(nesting))
}

/// x32 calls (x86_64 with bit 30 set) and unknown architectures get `ENOSYS`.
fn make(nesting: Nesting) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for (architecture, column) in ARCHITECTURES {
        let table = table(column, nesting);
        // Conditional jumps reach 255 instructions; a table is shorter.
        program.push(unless_equal(architecture, table.len() as u8));
        program.extend(table);
    }
    program.push(ret(ENOSYS));
    program
}

/// Calls of the 32-bit sisters, i386 and arm, that give files to others: the supervisor does not understand their
/// arguments, and without it they would fail with an `EINVAL` that says nothing.
const REFUSED_SISTERS: [[u16; 9]; 2] = [
    [14, 16, 95, 182, 198, 207, 212, 297, 298],
    [14, 16, 95, 182, 198, 207, 212, 324, 325],
];

/// The program that asks the supervisor ([`super::supervise`]). Calls of the 32-bit sister are not supervised: those that
/// would have to be get `ENOSYS`, and stat(2) shows all files as root's.
pub(super) fn questions() -> Vec<sock_filter> {
    let [(native, column), (sister, _)] = ARCHITECTURES;
    let asked = CALLS
        .iter()
        .filter_map(|(name, numbers)| Some((numbers[column]?, Verdict::Ask(name.which()))));
    let refused = REFUSED_SISTERS[column].map(|number| (number, Verdict::Absent));
    let mut program = vec![load(ARCHITECTURE)];
    for (architecture, table) in [
        (native, by_number(asked.collect(), column == 0)),
        (sister, by_number(BTreeMap::from(refused), false)),
    ] {
        program.push(unless_equal(architecture, table.len() as u8));
        program.extend(table);
    }
    program.push(ret(ENOSYS));
    program
}

/// What is done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
    Absent,
    /// Denied if the first argument has one of these bits.
    Without(u32),
    Personality,
    Socket,
    /// The supervisor is asked about these.
    Ask(Which),
}

impl Verdict {
    fn program(self) -> Vec<sock_filter> {
        match self {
            Self::Allow => vec![ret(ALLOW)],
            Self::Deny => vec![ret(EPERM)],
            Self::Absent => vec![ret(ENOSYS)],
            Self::Without(bits) => vec![
                load(ARGUMENT_0),
                statement(BPF_ALU | BPF_AND | BPF_K, bits),
                unless_equal(0, 1),
                ret(ALLOW),
                ret(EPERM),
            ],
            Self::Personality => {
                let count = PERSONALITIES.len() as u8;
                let values = (0..).zip(PERSONALITIES);
                let mut program = vec![load(ARGUMENT_0)];
                program.extend(values.map(|(at, value)| jump(BPF_JEQ, value, count - at, 0)));
                program.extend([ret(EPERM), ret(ALLOW)]);
                program
            }
            Self::Ask(Which::All) => vec![ret(libc::SECCOMP_RET_USER_NOTIF)],
            Self::Ask(Which::With(argument, value)) => vec![
                load(ARGUMENT_0 + 8 * argument),
                unless_equal(value, 1),
                ret(libc::SECCOMP_RET_USER_NOTIF),
                ret(ALLOW),
            ],
            Self::Ask(Which::Creating(argument)) => vec![
                load(ARGUMENT_0 + 8 * argument),
                statement(BPF_ALU | BPF_AND | BPF_K, libc::O_CREAT as u32),
                unless_equal(0, 1),
                ret(ALLOW),
                ret(libc::SECCOMP_RET_USER_NOTIF),
            ],
            Self::Socket => vec![
                load(ARGUMENT_0),
                unless_equal(AF_VSOCK, 1),
                ret(EPERM),
                ret(ALLOW),
            ],
        }
    }
}

fn table(column: usize, nesting: Nesting) -> Vec<sock_filter> {
    let (namespaces, unshare, denied) = match nesting {
        Nesting::Allowed => (CGROUPS, Verdict::Without(CGROUPS), &[][..]),
        Nesting::Refused => (NAMESPACES, Verdict::Deny, DENIED_TO_ONE),
    };
    let mut special = BTreeMap::from([
        (CLONE[column], Verdict::Without(namespaces)),
        (UNSHARE[column], unshare),
        (CLONE3[column], Verdict::Absent),
        (PERSONALITY[column], Verdict::Personality),
        (SOCKET[column], Verdict::Socket),
    ]);
    for (_, numbers) in DENIED.iter().chain(denied) {
        if numbers[column] != NONE {
            special.insert(numbers[column], Verdict::Deny);
        }
    }
    by_number(special, column == 0)
}

/// What a call's number decides, `special` by number and the rest allowed.
fn by_number(special: BTreeMap<u16, Verdict>, has_x32: bool) -> Vec<sock_filter> {
    // Ranges of numbers that are treated alike, by their first.
    let mut ranges = vec![(0, Verdict::Allow)];
    for (number, verdict) in special {
        let number = u32::from(number);
        ranges.retain(|&(first, _)| first != number);
        ranges.extend([(number, verdict), (number + 1, Verdict::Allow)]);
    }
    if has_x32 {
        ranges.push((X32, Verdict::Absent));
    }
    ranges.dedup_by_key(|&mut (_, verdict)| verdict);
    let mut table = vec![load(NUMBER)];
    table.extend(search(&ranges));
    table
}

/// Finds the range a number is in. By halves: the kernel runs the program for every call there is when it is
/// installed, to fill its cache, and takes 0.3 ms for a plain list.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    if low.is_empty() {
        return high[0].1.program();
    }
    let below = search(low);
    let mut program = vec![jump(BPF_JGE, high[0].0, below.len() as u8, 0)];
    program.extend(below);
    program.extend(search(high));
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn ret(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

fn jump(condition: u32, k: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | condition | BPF_K) as u16,
        jt: then,
        jf: otherwise,
        k,
    }
}

/// Skips `count` instructions unless the value is `k`.
fn unless_equal(k: u32, count: u8) -> sock_filter {
    jump(BPF_JEQ, k, 0, count)
}

#[cfg(test)]
mod t {
    use super::*;

    /// Runs the program as linux/Documentation/networking/filter.rst describes it, for the instructions used here.
    fn answer(nesting: Nesting, architecture: u32, number: u32, argument: u32) -> u32 {
        run(program(nesting), architecture, number, [argument, 0, 0])
    }

    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let code = u32::from(i.code);
            match code {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    value = match i.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        k if k >= ARGUMENT_0 => arguments[(k - ARGUMENT_0) as usize / 8],
                        k => panic!("load of {k}"),
                    }
                }
                c if c == BPF_ALU | BPF_AND | BPF_K => value &= i.k,
                c if c == BPF_RET | BPF_K => return i.k,
                c => {
                    let holds = match c & !(BPF_JMP | BPF_K) {
                        BPF_JEQ => value == i.k,
                        BPF_JGE => value >= i.k,
                        _ => panic!("code {c}"),
                    };
                    at += usize::from(if holds { i.jt } else { i.jf });
                }
            }
        }
    }

    #[test]
    fn calls_are_answered_as_docker_answers_them() {
        for (architecture, column) in ARCHITECTURES {
            let check = |call: u16, argument: u32, expected: u32| {
                assert_eq!(
                    answer(Nesting::Refused, architecture, u32::from(call), argument),
                    expected,
                    "call {call} of {architecture:x} with {argument:x}"
                );
            };
            for (_, numbers) in DENIED.iter().chain(DENIED_TO_ONE) {
                if numbers[column] != NONE {
                    check(numbers[column], 0, EPERM);
                }
            }
            check(CLONE[column], libc::SIGCHLD as u32, ALLOW);
            check(CLONE[column], libc::CLONE_NEWUSER as u32, EPERM);
            check(CLONE[column], libc::CLONE_NEWNS as u32, EPERM);
            check(UNSHARE[column], 0, EPERM);
            check(CLONE3[column], 0, ENOSYS);
            check(SOCKET[column], libc::AF_INET as u32, ALLOW);
            check(SOCKET[column], AF_VSOCK, EPERM);
            for value in PERSONALITIES {
                check(PERSONALITY[column], value, ALLOW);
            }
            // ADDR_NO_RANDOMIZE.
            check(PERSONALITY[column], 0x4_0000, EPERM);
            // One that no kernel has yet.
            check(2000, 0, ALLOW);
            check(0, 0, ALLOW);
            let special = [CLONE, CLONE3, PERSONALITY, SOCKET, UNSHARE];
            let special = special.map(|numbers| numbers[column]);
            let denied = DENIED.iter().chain(DENIED_TO_ONE);
            let denied = denied.map(|(_, numbers)| numbers[column]);
            let named: Vec<u16> = denied.chain(special).collect();
            for number in (0..600).filter(|number| !named.contains(number)) {
                check(number, 0, ALLOW);
            }
        }
        for nesting in [Nesting::Allowed, Nesting::Refused] {
            assert_eq!(answer(nesting, 0x0, 1, 0), ENOSYS);
            if ARCHITECTURES[0].1 == 0 {
                assert_eq!(answer(nesting, ARCHITECTURES[0].0, X32 | 1, 0), ENOSYS);
            }
        }
    }

    #[test]
    fn steps_that_may_nest_get_all_namespaces_but_those_of_cgroups() {
        for (architecture, column) in ARCHITECTURES {
            let check = |call: u16, argument: libc::c_int, expected: u32| {
                let (call, argument) = (u32::from(call), argument as u32);
                let said = answer(Nesting::Allowed, architecture, call, argument);
                assert_eq!(said, expected, "call {call} with {argument:x}");
            };
            for numbers in [CLONE, UNSHARE].map(|numbers| numbers[column]) {
                check(numbers, libc::CLONE_NEWUSER | libc::CLONE_NEWNS, ALLOW);
                check(numbers, libc::CLONE_NEWPID | libc::CLONE_NEWNET, ALLOW);
                check(numbers, libc::CLONE_NEWCGROUP, EPERM);
                check(numbers, libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP, EPERM);
            }
            check(CLONE3[column], 0, ENOSYS);
            let numbers = |rows: &[(&str, Numbers)]| -> Vec<u16> {
                let numbers = rows.iter().map(|(_, numbers)| numbers[column]);
                numbers.filter(|number| *number != NONE).collect()
            };
            for call in numbers(DENIED) {
                check(call, 0, EPERM);
            }
            for call in numbers(DENIED_TO_ONE) {
                check(call, 0, ALLOW);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_this_machine() {
        let column = ARCHITECTURES[0].1;
        let number = |name: &str| {
            let mut rows = DENIED.iter().chain(DENIED_TO_ONE);
            let row = rows.find(|(n, _)| *n == name).unwrap();
            libc::c_long::from(row.1[column])
        };
        assert_eq!(number("mount"), libc::SYS_mount);
        assert_eq!(number("umount2"), libc::SYS_umount2);
        assert_eq!(libc::c_long::from(UNSHARE[column]), libc::SYS_unshare);
        assert_eq!(number("setns"), libc::SYS_setns);
        assert_eq!(number("bpf"), libc::SYS_bpf);
        assert_eq!(number("keyctl"), libc::SYS_keyctl);
        assert_eq!(number("pidfd_getfd"), libc::SYS_pidfd_getfd);
        assert_eq!(libc::c_long::from(CLONE[column]), libc::SYS_clone);
        assert_eq!(
            libc::c_long::from(PERSONALITY[column]),
            libc::SYS_personality
        );
        assert_eq!(libc::c_long::from(SOCKET[column]), libc::SYS_socket);
    }

    #[test]
    fn the_supervisor_is_asked_about_its_calls_alone() {
        const ASKED: u32 = libc::SECCOMP_RET_USER_NOTIF;
        let program = questions();
        let [(native, column), (sister, _)] = ARCHITECTURES;
        let which = |number| {
            let asked = CALLS
                .iter()
                .find(|(_, numbers)| numbers[column].map(u32::from) == Some(number));
            asked.map(|(name, _)| name.which())
        };
        for number in 0..600 {
            let (arguments, expected) = match which(number) {
                None => ([u32::MAX; 3], ALLOW),
                Some(Which::All | Which::Creating(_)) => ([libc::O_CREAT as u32; 3], ASKED),
                Some(Which::With(_, value)) => ([value; 3], ASKED),
            };
            assert_eq!(
                run(&program, native, number, arguments),
                expected,
                "{number}"
            );
        }
        let openat = libc::SYS_openat as u32;
        assert_eq!(run(&program, native, openat, [0, 0, 1]), ALLOW);
        let prctl = libc::SYS_prctl as u32;
        let name = libc::PR_SET_NAME as u32;
        assert_eq!(run(&program, native, prctl, [name, 0, 0]), ALLOW);
        // i386 and arm: chown32 and stat64.
        assert_eq!(run(&program, sister, 212, [0; 3]), ENOSYS);
        assert_eq!(run(&program, sister, 195, [0; 3]), ALLOW);
        assert_eq!(run(&program, 0, 1, [0; 3]), ENOSYS);
        if column == 0 {
            assert_eq!(run(&program, native, X32 | 4, [0; 3]), ENOSYS);
        }
    }

    #[test]
    fn names_are_sorted_and_tables_within_reach_of_a_jump() {
        assert!(DENIED.is_sorted_by(|a, b| a.0 < b.0));
        assert!(DENIED_TO_ONE.is_sorted_by(|a, b| a.0 < b.0));
        for (_, column) in ARCHITECTURES {
            assert!(table(column, Nesting::Refused).len() < 256);
        }
    }
}
