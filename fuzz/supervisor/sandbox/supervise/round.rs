//! What an input stands for: some calls and the memory they point to.

use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::Beginning;
use super::calls;
use super::calls::At;
use super::calls::CALLS;
use super::calls::COLUMN;
use super::calls::Call;
use super::calls::Name;
use super::kernel;
use super::kernel::Answer;
use super::kernel::IDS;
use super::kernel::Listener;
use super::kernel::MEMORY;
use super::kernel::Question;
use super::service::Caller;
use super::service::Service;
use super::target::PROC_SUPER_MAGIC;
use super::target::Target;
use super::world::CURRENT;
use super::world::DESCRIPTORS;
use super::world::World;

/// Bytes of a call in an input: its name, and for each argument how a word becomes it.
const CALL: usize = 1 + 6 * 3;
/// Calls of a round.
const MOST: usize = 4;

/// What bytes from 0x80 on stand for in the caller's memory.
const WORDS: [&str; 24] = [
    "/", "..", "../", "a", "b", "c", "d", "d/", "e/", "f/", "g/", "l", "new", "up", "dir", "abs",
    "chain", "out", "loop", "proc/", "self/", "fd/", "cwd", "root",
];

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u64 {
        u64::from(self.byte()) | u64::from(self.byte()) << 8
    }

    /// What programs pass, and what nobody passes.
    fn argument(&mut self) -> u64 {
        let (kind, word) = (self.byte(), self.word());
        let (begins, len) = MEMORY.with_borrow(|memory| (memory.begins(), memory.len() as u64));
        match kind % 10 {
            0 => word,
            1 | 2 => begins + word % (len + 2),
            3 => word as i16 as u64,
            4 => libc::AT_FDCWD as u64,
            5 => 3 + word % 6,
            6 => word.wrapping_mul(0x0001_0001_0001_0001),
            7 => word << 16 | word,
            8 => {
                let flags = [
                    libc::O_CREAT,
                    libc::O_WRONLY,
                    libc::O_RDWR,
                    libc::O_EXCL,
                    libc::O_TRUNC,
                    libc::O_CLOEXEC,
                    libc::O_DIRECTORY,
                    libc::O_PATH,
                    libc::O_TMPFILE,
                    libc::O_NOFOLLOW,
                ];
                let chosen = flags.iter().enumerate();
                let chosen = chosen.filter(|(at, _)| word >> at & 1 == 1);
                chosen.fold(0, |all, (_, flag)| all | *flag as u64)
            }
            _ => word & 0o7777 | (word >> 12) << 12,
        }
    }
}

/// One round.
pub(crate) fn round(world: &World, input: &[u8]) {
    let mut input = Input(input);
    let (how, count) = (input.byte(), usize::from(input.byte()) % MOST + 1);
    let calls: Vec<&[u8]> = (0..count)
        .map(|_| {
            let (call, rest) = input.0.split_at(CALL.min(input.0.len()));
            input.0 = rest;
            call
        })
        .collect();
    let bytes = memory(world, input.0);
    MEMORY.with_borrow_mut(|memory| memory.fill(bytes));
    let root = world.root.try_clone().expect("a descriptor");
    let id = if how & 1 == 0 { 0 } else { 1000 };
    let beginning = Beginning {
        uid: id,
        gid: id,
        groups: if how & 2 == 0 { Vec::new() } else { vec![7] },
        capabilities: 0,
        roots: how & 4 != 0,
    };
    let mut service = Service::new(root, beginning);
    let listener = Listener {
        waits: how & 0x38 != 0x38,
        given: 0.into(),
    };
    let target = Target {
        proc: world.proc.as_fd(),
        tid: world.tid,
    };
    let caller = Caller {
        target,
        listener: &listener,
        id: 1,
    };
    let mut changed = false;
    for call in calls {
        let mut input = Input(call);
        let (name, numbers) = CALLS[usize::from(input.byte()) % CALLS.len()];
        let args = [(); 6].map(|()| input.argument());
        let Some(number) = numbers[COLUMN] else {
            continue;
        };
        let decoded = calls::decode(name, args);
        if let Some(at) = decoded.as_ref().and_then(names) {
            leads_where_the_kernel_leads(world, &target, at);
        }
        let ask = |service: &mut Service, number: u16, args: [u64; 6]| {
            let question = Question {
                id: 1,
                tid: world.tid,
                number: number.into(),
                args,
            };
            service.answer(&caller, &question)
        };
        MEMORY.with_borrow_mut(|memory| memory.reads = 0);
        let had_root = has_root(&mut service, ask);
        let answer = ask(&mut service, number, args);
        let reads = MEMORY.with_borrow(|memory| memory.reads);
        assert!(reads <= 8, "{decoded:?}: {reads} reads");
        if !listener.waits {
            let told = (kernel::written(), listener.given.get());
            assert_eq!(told, (false, 0), "{decoded:?}");
        }
        let is_root = has_root(&mut service, ask);
        assert!(had_root || !is_root, "{decoded:?} makes it root");
        changed |= matches!(
            decoded,
            Some(Call::Create { .. } | Call::Openat2 { .. } | Call::Chown { .. })
        ) && answer != Answer::Continue;
    }
    world.check();
    if listener.waits {
        // The next may be told nothing.
        kernel::written();
    }
    if changed {
        world.reset();
    }
}

/// Whether one of the caller's ids is root's.
fn has_root(service: &mut Service, ask: impl Fn(&mut Service, u16, [u64; 6]) -> Answer) -> bool {
    let number = CALLS
        .iter()
        .find_map(|(name, numbers)| (*name == Name::Getresuid).then_some(numbers[COLUMN])?)
        .expect("both machines have it");
    let answer = ask(service, number, [IDS, IDS + 4, IDS + 8, 0, 0, 0]);
    // Who does not wait is told nothing.
    answer != Answer::Value(0) || kernel::asked().contains(&0)
}

/// The file that a call names, if it is there already.
fn names(call: &Call) -> Option<&At> {
    match call {
        Call::Stat { at, .. }
        | Call::Statx { at, .. }
        | Call::Chown { at, .. }
        | Call::ListXattr { at, .. } => Some(at),
        _ => None,
    }
}

/// The caller's memory: bytes as they are, and words.
fn memory(world: &World, input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.len() * 2);
    for byte in input.iter().take(6000) {
        match byte
            .checked_sub(0x80)
            .map(|at| usize::from(at) % (WORDS.len() + 2))
        {
            None => bytes.push(*byte),
            // A way out, if there is one.
            Some(24) => bytes.extend(format!("/proc/{}/root/mnt/outside/", world.other).bytes()),
            Some(25) => bytes.push(0),
            Some(at) => bytes.extend(WORDS[at].bytes()),
        }
    }
    bytes
}

/// The path and what it is relative to lead to one file for the supervisor and for the kernel, which is asked with that root.
/// A link of proc(5) it follows for nobody who asks so.
fn leads_where_the_kernel_leads(world: &World, target: &Target<'_>, at: &At) {
    if at.path == 0 {
        return;
    }
    let read = MEMORY.with_borrow_mut(|memory| memory.path(at.path));
    let found = target.open(&world.root, at);
    let path = match read {
        Ok(path) => path,
        Err(error) => {
            let wanted = Errno::from_io_error(&error);
            assert_eq!(found.err(), wanted, "{at:?}");
            return;
        }
    };
    let base = match at.dir {
        libc::AT_FDCWD => CURRENT,
        // Files that are no directories, and what is no descriptor.
        dir => match usize::try_from(dir - 3)
            .ok()
            .and_then(|at| DESCRIPTORS.get(at))
        {
            Some(&name @ ("" | "d" | "d/e/f")) => name,
            _ => return,
        },
    };
    if path.is_empty() {
        return;
    }
    let whole = match path[0] {
        b'/' => path.clone(),
        _ => [base.as_bytes(), b"/", &path].concat(),
    };
    if whole.len() > 4000 {
        return;
    }
    let wanted = kernels(world, &whole, at.follow);
    match (found, wanted) {
        (Ok(found), Ok(wanted)) => {
            let (found, wanted) = (identity(&found), identity(&wanted));
            // The kernel's `self` is another process.
            if !(found.1 && wanted.1) {
                assert_eq!(found, wanted, "{at:?} {:?}", String::from_utf8_lossy(&path));
            }
        }
        // Links of proc(5): where they lead is looked at by what they could do ([`World::check`]).
        (_, Err(Errno::XDEV | Errno::LOOP)) => {}
        (found, wanted) => {
            let proc = String::from_utf8_lossy(&whole).contains("proc")
                || String::from_utf8_lossy(&whole).contains("self")
                || String::from_utf8_lossy(&whole).contains("fd");
            assert!(
                proc || found.as_ref().err() == wanted.as_ref().err(),
                "{at:?} {:?}: {found:?}, and the kernel {wanted:?}",
                String::from_utf8_lossy(&path)
            );
        }
    }
}

fn kernels(world: &World, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&world.root, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the system.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// Device and inode, and whether it is in a proc file system.
fn identity(file: &OwnedFd) -> ((u64, u64), bool) {
    let stat = rustix::fs::fstat(file).expect("an open file");
    let kind = rustix::fs::fstatfs(file).expect("an open file").f_type as u32;
    ((stat.st_dev, stat.st_ino), kind == PROC_SUPER_MAGIC)
}
