//! Owners of files that are open, recorded as `rbuild_cache::Owner` says.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;

use rbuild_cache::OWNER;
use rbuild_cache::Owner;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::StatxFlags;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::TO_RECORD;
use super::insist;

const CAPABILITY: &[u8] = b"security.capability";

/// Files of other file systems whose owners are remembered: terminals, a few in a tmpfs of an old kernel.
const MOST_ELSEWHERE: usize = 4096;

/// A file for as long as it is there: device, inode, and when that was born, since inodes are used again.
type Identity = (u64, u64, i64, u32);

/// Owners of files. The current directory of the process must be its `/proc/self/fd`: files are open with `O_PATH`, and
/// their attributes are read by the number of the descriptor.
#[derive(Default)]
pub(super) struct Owners {
    /// Of files on file systems that keep no attributes.
    elsewhere: BTreeMap<Identity, Owner>,
}

/// The attribute that holds the owner of a file of that mode.
fn attribute(mode: u32) -> &'static [u8] {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile | FileType::Directory => OWNER,
        _ => CAPABILITY,
    }
}

fn identity(file: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    let born = stat.stx_btime;
    Ok((device, stat.stx_ino, born.tv_sec, born.tv_nsec))
}

impl Owners {
    /// The recorded owner of a file of that mode.
    pub(super) fn get(&self, file: impl AsFd, mode: u32) -> Result<Owner, Errno> {
        let file = file.as_fd();
        let name = attribute(mode);
        // The longest text there is.
        let mut value = [0; 64];
        let path = number(file);
        let read = insist(TO_RECORD, || rustix::fs::getxattr(&*path, name, &mut value));
        let owner = match read {
            Ok(len) if name == OWNER => Owner::from_text(&value[..len]),
            Ok(len) => Owner::from_capability(&value[..len]),
            Err(Errno::NODATA | Errno::RANGE) => None,
            Err(_) if self.elsewhere.is_empty() => None,
            Err(_) => self.elsewhere.get(&identity(file)?).copied(),
        };
        Ok(owner.unwrap_or_default())
    }

    /// Records the owner of a file of that mode.
    pub(super) fn set(&mut self, file: impl AsFd, mode: u32, owner: Owner) -> Result<(), Errno> {
        let file = file.as_fd();
        let name = attribute(mode);
        let path = number(file);
        let path = &*path;
        let set = insist(TO_RECORD, || match (owner.is_usual(), name == OWNER) {
            (true, _) => match rustix::fs::removexattr(path, name) {
                Err(Errno::NODATA) => Ok(()),
                removed => removed,
            },
            (false, true) => owner.record(path),
            (false, false) => {
                rustix::fs::setxattr(path, name, &owner.to_capability(), XattrFlags::empty())
            }
        });
        match set {
            Err(Errno::NOTSUP) => self.set_elsewhere(file, owner),
            set => set,
        }
    }

    fn set_elsewhere(&mut self, file: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
        let file = identity(file)?;
        if owner.is_usual() {
            self.elsewhere.remove(&file);
            return Ok(());
        }
        if self.elsewhere.len() == MOST_ELSEWHERE && !self.elsewhere.contains_key(&file) {
            return Err(Errno::NOSPC);
        }
        self.elsewhere.insert(file, owner);
        Ok(())
    }

    /// The names of a file's attributes, each with a zero behind it, without that of its owner; nothing if it is not among
    /// them.
    pub(super) fn names(&self, file: impl AsFd, mode: u32) -> Result<Option<Vec<u8>>, Errno> {
        let file = file.as_fd();
        let ours = attribute(mode);
        if ours == CAPABILITY && self.get(file, mode)?.is_usual() {
            return Ok(None);
        }
        let mut list = vec![0; 1024];
        let len = loop {
            match rustix::fs::listxattr(number(file), &mut list) {
                Ok(len) => break len,
                Err(Errno::RANGE) => list.resize(list.len() * 8, 0),
                Err(errno) => return Err(errno),
            }
        };
        list.truncate(len);
        let names = || list.split_inclusive(|&byte| byte == 0);
        let is_ours = |name: &&[u8]| name.strip_suffix(b"\0") == Some(ours);
        Ok(names().any(|name| is_ours(&name)).then(|| {
            names()
                .filter(|name| !is_ours(name))
                .flatten()
                .copied()
                .collect()
        }))
    }
}

/// A file's name in `/proc/self/fd`.
fn number(file: BorrowedFd<'_>) -> String {
    file.as_raw_fd().to_string()
}
