//! In the place of the kernel: the memory of the caller, the mark on it, and whether it waits.

use std::cell::Cell;
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

pub(super) use super::actual::Answer;
pub(super) use super::actual::Question;
pub(super) use super::actual::stat;
pub(super) use super::actual::statx;

/// The caller's memory: one piece, which ends where a page does.
#[derive(Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    /// Reads so far.
    pub(super) reads: usize,
    /// Writes so far.
    pub(super) writes: usize,
}

/// The end of [`Memory`].
const END: u64 = 0x5000_0000;

/// Where the caller's ids are asked for between calls: three words apart from its memory.
pub(super) const IDS: u64 = 0x6000_0000;

thread_local! {
    pub(super) static ASKED: Cell<[u32; 3]> = const { Cell::new([0; 3]) };
    pub(super) static MEMORY: RefCell<Memory> = RefCell::default();
    static MARK: Cell<u64> = const { Cell::new(u64::MAX) };
}

impl Memory {
    /// The next round's.
    pub(super) fn fill(&mut self, bytes: Vec<u8>) {
        *self = Self {
            bytes,
            ..Self::default()
        };
        MARK.set(u64::MAX);
    }

    pub(super) fn begins(&self) -> u64 {
        END - self.bytes.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn at(&mut self, address: u64) -> io::Result<&mut [u8]> {
        let begins = self.begins();
        let offset = address.checked_sub(begins).map(|at| at as usize);
        let there = offset.and_then(|at| self.bytes.get_mut(at..));
        there
            .filter(|there| !there.is_empty())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))
    }

    /// What strncpy_from_user() makes of an address, byte by byte.
    pub(super) fn path(&mut self, address: u64) -> io::Result<Vec<u8>> {
        let there = self.at(address)?;
        match there.iter().take(4096).position(|&byte| byte == 0) {
            Some(len) => Ok(there[..len].to_vec()),
            None if there.len() >= 4096 => Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG)),
            None => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }
}

/// process_vm_readv(2): as much as is there, and an error if nothing is.
pub(super) fn read_memory(_: i32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    MEMORY.with_borrow_mut(|memory| {
        memory.reads += 1;
        if into.is_empty() {
            return Ok(0);
        }
        let there = memory.at(address)?;
        let len = there.len().min(into.len());
        into[..len].copy_from_slice(&there[..len]);
        Ok(len)
    })
}

/// process_vm_writev(2), all or an error.
pub(super) fn write_memory(_: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    if let (Some(at @ 0..=8), Some(id)) = (address.checked_sub(IDS), bytes.first_chunk()) {
        let mut ids = ASKED.get();
        ids[at as usize / 4] = u32::from_ne_bytes(*id);
        ASKED.set(ids);
        return Ok(());
    }
    MEMORY.with_borrow_mut(|memory| {
        memory.writes += 1;
        if bytes.is_empty() {
            return Ok(());
        }
        let there = memory.at(address)?;
        let len = there.len().min(bytes.len());
        there[..len].copy_from_slice(&bytes[..len]);
        match len == bytes.len() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    })
}

pub(super) fn mark(_: i32) -> io::Result<u64> {
    Ok(MARK.get())
}

pub(super) fn set_mark(_: i32, mark: u64) -> io::Result<()> {
    MARK.set(mark);
    Ok(())
}

/// The supervisor's end of a filter.
pub(super) struct Listener {
    /// Whether the caller waits.
    pub(super) waits: bool,
    /// Descriptors given.
    pub(super) given: Cell<usize>,
}

impl Listener {
    pub(super) fn waits(&self, _: u64) -> bool {
        self.waits
    }

    pub(super) fn give(&self, _: u64, _: BorrowedFd<'_>, _: bool) -> io::Result<i32> {
        match self.waits {
            true => {
                self.given.set(self.given.get() + 1);
                Ok(9)
            }
            false => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }
}
