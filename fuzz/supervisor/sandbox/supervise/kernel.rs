//! In the place of the kernel: what is read of the caller's memory, the mark on it, and whether it waits. What is written to its
//! memory goes where it is its.

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
}

/// The end of [`Memory`].
const END: u64 = 0x5000_0000;

/// Where the caller's ids are asked for between calls: three words apart from its memory.
pub(super) const IDS: u64 = 0x6000_0000;

/// Bytes of what is written to: the caller has it there, and this process as well.
const WRITTEN: usize = 1 << 16;

/// Maps what is written to, for this process and those that it makes.
pub(super) fn map_written() {
    for at in [END - WRITTEN as u64, IDS] {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory where nothing is.
        let mapped = unsafe {
            let at = std::ptr::without_provenance_mut(at as usize);
            libc::mmap(at, WRITTEN, access, flags, -1, 0)
        };
        assert_eq!(mapped as u64, at, "there is nothing yet");
    }
}

/// Whether something was written to the caller's memory. Forgotten then.
pub(super) fn written() -> bool {
    let place = std::ptr::without_provenance_mut::<u8>(END as usize - WRITTEN);
    // SAFETY: it is mapped, and nobody else writes while this process, which is the supervisor, looks.
    let bytes = unsafe { std::slice::from_raw_parts_mut(place, WRITTEN) };
    let written = bytes.iter().any(|byte| *byte != 0);
    bytes.fill(0);
    written
}

/// The ids that were asked for.
pub(super) fn asked() -> [u32; 3] {
    // SAFETY: as above.
    unsafe { std::ptr::without_provenance::<[u32; 3]>(IDS as usize).read_volatile() }
}

thread_local! {
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
