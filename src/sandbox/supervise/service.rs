//! What is done about each call.

use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use rbuild_cache::Device;
use rbuild_cache::Owner;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Uid;
use rustix::io::Errno;

use super::Beginning;
use super::calls;
use super::calls::At;
use super::calls::COLUMN;
use super::calls::Call;
use super::calls::Ids;
use super::calls::New;
use super::ids::Credentials;
use super::ids::Refused;
use super::kernel;
use super::kernel::Answer;
use super::kernel::Listener;
use super::kernel::Question;
use super::owners::Owners;
use super::stat;
use super::target;
use super::target::PROC_SUPER_MAGIC;
use super::target::Target;

/// Marks of processes that have other ids than the step began with are this and the number of a row.
const MARK: u64 = 0x0172_6275_696c_0000;
/// Rows in the table of ids: a build has a handful.
const MOST_IDS: usize = 4096;
/// As many groups as a process can have (linux/limits.h).
const NGROUPS_MAX: usize = 65536;

/// Who waits for an answer.
pub(super) struct Caller<'a> {
    pub(super) target: Target<'a>,
    pub(super) listener: &'a Listener,
    pub(super) id: u64,
}

impl Caller<'_> {
    /// Fails if the thread whose memory and files were looked at may have been another.
    fn still_waits(&self) -> Result<(), Errno> {
        match self.listener.waits(self.id) {
            true => Ok(()),
            false => Err(Errno::SRCH),
        }
    }

    /// Writes to the memory of the thread that waits.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.target.memory()?;
        // It is that thread's, or somebody else's who has got its number.
        self.still_waits()?;
        target::write_memory(&memory, address, bytes)
    }
}

/// What a supervisor knows.
pub(super) struct Service {
    /// The step's root.
    root: OwnedFd,
    /// Whether a process may have another.
    roots: bool,
    /// The first row is what the step began with.
    ids: Vec<Credentials>,
    /// Whether the kernel shows files as root's that are ours.
    as_root: bool,
    owners: Owners,
}

/// What could not be made sense of is carried out by the kernel.
type Attempt = Result<Answer, Errno>;

impl Service {
    /// The service of a step whose root is `root`.
    pub(super) fn new(root: OwnedFd, beginning: Beginning) -> Self {
        let Beginning {
            uid,
            gid,
            groups,
            roots,
            capabilities: _,
        } = beginning;
        Self {
            root,
            roots,
            ids: vec![Credentials::new(uid, gid, groups)],
            as_root: (uid, gid) == (0, 0),
            owners: Owners::default(),
        }
    }

    /// What becomes of a call.
    pub(super) fn answer(&mut self, caller: &Caller<'_>, question: &Question) -> Answer {
        let Some(call) = calls::name(question.number, COLUMN)
            .and_then(|name| calls::decode(name, question.args))
        else {
            return Answer::Continue;
        };
        let attempt = match call {
            Call::Stat { at, to } => self.stat(caller, &at, to),
            Call::Statx {
                at,
                flags,
                mask,
                to,
            } => self.statx(caller, &at, (flags, mask), to),
            Call::Chown { at, uid, gid } => self.chown(caller, &at, uid, gid),
            Call::Create { at, new } => self.create(caller, &at, new),
            Call::Openat2 { at, how, size } => self.openat2(caller, &at, how, size),
            Call::ListXattr { at, to, size } => self.list(caller, &at, to, size),
            Call::Chroot => {
                self.roots = true;
                Ok(Answer::Continue)
            }
            Call::Limit { old } => limit(caller, old),
            Call::KeepCapabilities(keeps) => self.keep_capabilities(caller, keeps),
            Call::Ids(order) => self.change_ids(caller, order),
        };
        attempt.unwrap_or(Answer::Continue)
    }

    /// Looks something up from the caller's root on.
    fn rooted<T>(
        &self,
        caller: &Caller<'_>,
        look_up: impl FnOnce(&Target<'_>, &OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let own;
        let root = match self.roots {
            false => &self.root,
            true => {
                own = caller.target.link("root")?;
                &own
            }
        };
        let found = look_up(&caller.target, root);
        caller.still_waits()?;
        found
    }

    fn open(&self, caller: &Caller<'_>, at: &At) -> Result<OwnedFd, Errno> {
        self.rooted(caller, |target, root| target.open(root, at))
    }

    /// An open file's owner, unless what the kernel says of it is right.
    fn other_owner(&self, file: &OwnedFd) -> Result<Option<Owner>, Errno> {
        let mode = rustix::fs::fstat(file)?.st_mode;
        let owner = self.owners.get(file, mode)?;
        if !owner.is_usual() {
            return Ok(Some(owner));
        }
        // For a step of another user all files that are ours seem to be that user's; those in /proc are.
        let right = self.as_root || rustix::fs::fstatfs(file)?.f_type as u32 == PROC_SUPER_MAGIC;
        Ok((!right).then_some(owner))
    }

    fn stat(&self, caller: &Caller<'_>, at: &At, to: u64) -> Attempt {
        let file = self.open(caller, at)?;
        let Some(owner) = self.other_owner(&file)? else {
            return Ok(Answer::Continue);
        };
        let mut bytes = kernel::stat(file.as_fd()).map_err(|_| Errno::IO)?;
        stat::patch_stat(&mut bytes, owner);
        caller.write(to, &bytes)?;
        Ok(Answer::Value(0))
    }

    fn statx(&self, caller: &Caller<'_>, at: &At, how: (i32, u32), to: u64) -> Attempt {
        let file = self.open(caller, at)?;
        let Some(owner) = self.other_owner(&file)? else {
            return Ok(Answer::Continue);
        };
        let flags = how.0 & !libc::AT_SYMLINK_NOFOLLOW;
        let mut bytes = kernel::statx(file.as_fd(), flags, how.1).map_err(|_| Errno::IO)?;
        stat::patch_statx(&mut bytes, owner);
        caller.write(to, &bytes)?;
        Ok(Answer::Value(0))
    }

    fn chown(
        &mut self,
        caller: &Caller<'_>,
        at: &At,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Attempt {
        let file = self.open(caller, at)?;
        let before = rustix::fs::fstat(&file)?;
        let owner = self.owners.get(&file, before.st_mode)?;
        if !self
            .ids_of(caller)?
            .may_chown((owner.uid, owner.gid), uid, gid)
        {
            return Ok(Answer::Error(libc::EPERM));
        }
        // Of an id that is kept the kernel is told so, too: it takes setuid bits away all the same.
        let ours = (uid.map(|_| Uid::ROOT), gid.map(|_| Gid::ROOT));
        let owner = Owner {
            uid: uid.unwrap_or(owner.uid),
            gid: gid.unwrap_or(owner.gid),
            ..owner
        };
        let changed = rustix::fs::chownat(&file, "", ours.0, ours.1, AtFlags::EMPTY_PATH)
            .and_then(|()| self.owners.set(&file, before.st_mode, owner));
        Ok(match changed {
            Ok(()) => Answer::Value(0),
            Err(errno) => Answer::Error(errno.raw_os_error()),
        })
    }

    fn openat2(&mut self, caller: &Caller<'_>, at: &At, how: u64, size: u64) -> Attempt {
        // OPEN_HOW_SIZE_VER0; what is behind is newer than this program.
        if size != 24 {
            return Ok(Answer::Continue);
        }
        let how = caller.target.bytes(how)?;
        match calls::open_how(&how) {
            Some(new) => self.create(caller, at, new),
            None => Ok(Answer::Continue),
        }
    }

    /// A new name, if it would not be as the kernel makes it.
    fn create(&mut self, caller: &Caller<'_>, at: &At, new: New) -> Attempt {
        let ids = self.ids_of(caller)?;
        let (user, group, root) = (ids.user.file, ids.group.file, ids.is_root());
        let directory = matches!(new, New::Directory { .. });
        let parent = self.rooted(caller, |target, root| target.parent(root, at, directory))?;
        let Some((dir, name)) = parent else {
            return Ok(Answer::Continue);
        };
        let above = rustix::fs::fstat(&dir)?.st_mode;
        let group = match above & libc::S_ISGID {
            0 => group,
            _ => self.owners.get(&dir, above)?.gid,
        };
        let device = match new {
            New::Device { .. } if !root => return Ok(Answer::Error(libc::EPERM)),
            New::Device { device, .. } => Some(device),
            _ => None,
        };
        let owner = Owner {
            device,
            ..Owner::of(user, group)
        };
        if owner.is_usual() {
            return Ok(Answer::Continue);
        }
        // The kernel has the right error, or opens it, or follows a link.
        if rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(Answer::Continue);
        }
        let allowed = 0o7777 & !caller.target.umask()?;
        let made = match new {
            New::File { flags, mode } => {
                let opened = make_file(&dir, &name, flags, mode & allowed);
                return self.hand_over(caller, opened, flags, owner);
            }
            New::Directory { mode } => {
                let mode = Mode::from_raw_mode(mode & allowed);
                rustix::fs::mkdirat(&dir, &name, mode)
            }
            New::Symlink { target } => {
                let target = caller.target.path(target)?;
                caller.still_waits()?;
                rustix::fs::symlinkat(target, &dir, &name)
            }
            New::Node { mode } | New::Device { mode, .. } => {
                make_node(&dir, &name, mode, mode & allowed, device)
            }
        };
        let recorded = made.and_then(|()| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dir, &name, flags, Mode::empty())?;
            let mode = rustix::fs::fstat(&file)?.st_mode;
            self.owners.set(&file, mode, owner)
        });
        Ok(match recorded {
            Ok(()) => Answer::Value(0),
            Err(errno) => Answer::Error(errno.raw_os_error()),
        })
    }

    /// Gives a new file its owner, and the caller a descriptor of it.
    fn hand_over(
        &mut self,
        caller: &Caller<'_>,
        opened: Result<OwnedFd, Errno>,
        flags: i32,
        owner: Owner,
    ) -> Attempt {
        let file = match opened {
            Ok(file) => file,
            // Somebody was faster; with O_EXCL the kernel says so.
            Err(Errno::EXIST) => return Ok(Answer::Continue),
            Err(errno) => return Ok(Answer::Error(errno.raw_os_error())),
        };
        if let Err(errno) = self.owners.set(&file, libc::S_IFREG, owner) {
            return Ok(Answer::Error(errno.raw_os_error()));
        }
        let cloexec = flags & libc::O_CLOEXEC != 0;
        Ok(
            match caller.listener.give(caller.id, file.as_fd(), cloexec) {
                Ok(number) => Answer::Value(number.into()),
                Err(e) => Answer::Error(e.raw_os_error().unwrap_or(libc::EIO)),
            },
        )
    }

    fn list(&self, caller: &Caller<'_>, at: &At, to: u64, size: u64) -> Attempt {
        let file = self.open(caller, at)?;
        let mode = rustix::fs::fstat(&file)?.st_mode;
        let Some(names) = self.owners.names(&file, mode)? else {
            return Ok(Answer::Continue);
        };
        if size != 0 {
            if size < names.len() as u64 {
                return Ok(Answer::Error(libc::ERANGE));
            }
            caller.write(to, &names)?;
        }
        Ok(Answer::Value(names.len() as i64))
    }

    /// The row of the caller's ids.
    fn row(&self, caller: &Caller<'_>) -> Result<usize, Errno> {
        // Nobody has changed his.
        if self.ids.len() == 1 {
            return Ok(0);
        }
        let mark = kernel::mark(caller.target.tid).map_err(|_| Errno::SRCH)?;
        let row = mark
            .checked_sub(MARK)
            .and_then(|row| usize::try_from(row).ok());
        Ok(row.filter(|&row| row < self.ids.len()).unwrap_or(0))
    }

    fn ids_of(&self, caller: &Caller<'_>) -> Result<&Credentials, Errno> {
        Ok(&self.ids[self.row(caller)?])
    }

    /// The kernel keeps them anyway, since it sees no change of ids.
    fn keep_capabilities(&mut self, caller: &Caller<'_>, keeps: bool) -> Attempt {
        let ids = self.ids_of(caller)?;
        if ids.keeps != keeps && ids.is_root() {
            let ids = Credentials {
                keeps,
                ..ids.clone()
            };
            self.mark(caller, ids)?;
        }
        Ok(Answer::Continue)
    }

    fn change_ids(&mut self, caller: &Caller<'_>, order: Ids) -> Attempt {
        let target = &caller.target;
        let ids = self.ids_of(caller)?;
        let words = |to: [u64; 3], ids: super::ids::Four| -> Attempt {
            for (to, id) in to.into_iter().zip([ids.real, ids.effective, ids.saved]) {
                caller.write(to, &id.to_ne_bytes())?;
            }
            Ok(Answer::Value(0))
        };
        let mut groups = Vec::new();
        let before = match order {
            Ids::GetUid => return Ok(Answer::Value(ids.user.real.into())),
            Ids::GetEuid => return Ok(Answer::Value(ids.user.effective.into())),
            Ids::GetGid => return Ok(Answer::Value(ids.group.real.into())),
            Ids::GetEgid => return Ok(Answer::Value(ids.group.effective.into())),
            Ids::GetResUid { to } => return words(to, ids.user),
            Ids::GetResGid { to } => return words(to, ids.group),
            Ids::GetGroups { size, to } => {
                let count = ids.groups.len();
                let bytes: Vec<u8> = ids.groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
                return match usize::try_from(size) {
                    Ok(0) => Ok(Answer::Value(count as i64)),
                    Ok(size) if size >= count => {
                        caller.write(to, &bytes)?;
                        Ok(Answer::Value(count as i64))
                    }
                    _ => Ok(Answer::Error(libc::EINVAL)),
                };
            }
            Ids::SetGroups { count, from } => {
                match usize::try_from(count).ok().filter(|&n| n <= NGROUPS_MAX) {
                    Some(count) => groups = target.words(from, count)?,
                    None => return Ok(Answer::Error(libc::EINVAL)),
                }
                0
            }
            Ids::SetFsUid(_) => ids.user.file.into(),
            Ids::SetFsGid(_) => ids.group.file.into(),
            _ => 0,
        };
        let Some(after) = ids.after(order, &groups) else {
            return Ok(Answer::Continue);
        };
        Ok(match after {
            Err(Refused) => Answer::Error(libc::EPERM),
            Ok(after) if after == *ids => Answer::Value(before),
            Ok(after) => match self.mark(caller, after) {
                Ok(()) => Answer::Value(before),
                Err(_) => Answer::Error(libc::EAGAIN),
            },
        })
    }

    /// Gives the caller other ids.
    fn mark(&mut self, caller: &Caller<'_>, ids: Credentials) -> Result<(), Errno> {
        caller.still_waits()?;
        let row = match self.ids.iter().position(|known| *known == ids) {
            Some(row) => row,
            None if self.ids.len() == MOST_IDS => return Err(Errno::NOSPC),
            None => {
                self.ids.push(ids);
                self.ids.len() - 1
            }
        };
        kernel::set_mark(caller.target.tid, MARK + row as u64).map_err(|_| Errno::PERM)
    }
}

/// The limit that is a mark is said to be none, and is not changed: pam_limits sets all there are.
fn limit(caller: &Caller<'_>, old: Option<u64>) -> Attempt {
    if let Some(old) = old {
        // A `struct rlimit`.
        let none = [libc::RLIM_INFINITY.to_ne_bytes(); 2].concat();
        caller.write(old, &none)?;
    }
    Ok(Answer::Value(0))
}

/// As open(2) with these flags makes a file that is not there.
fn make_file(dir: &OwnedFd, name: &[u8], flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    let flags =
        OFlags::from_bits_retain(flags as u32) | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
}

fn make_node(
    dir: &OwnedFd,
    name: &[u8],
    kind: u32,
    mode: u32,
    device: Option<Device>,
) -> Result<(), Errno> {
    let kind = match (device, kind & libc::S_IFMT) {
        (Some(_), _) | (None, 0) => FileType::RegularFile,
        (None, kind) => FileType::from_raw_mode(kind),
    };
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), 0)
}
