//! How much of the disk an archive may fill while it is unpacked. What a blob comes to nobody knows before, and gzip makes a
//! thousand bytes of one: a disk that is filled to its end is everybody's trouble, so a little of it stays free.

use std::io;
use std::io::Read;
use std::os::fd::OwnedFd;

/// Bytes that pass between two looks at the disk.
pub(super) const LOOK: u64 = 16 << 20;
/// Bytes of the disk that stay free.
const SPARE: u64 = 16 << 20;

/// The disk that a directory is on.
pub(super) struct Disk(pub(super) OwnedFd);

impl Disk {
    /// What this user may still fill; a file system that does not say has not said that it is full.
    pub(super) fn free(&self) -> u64 {
        let found = rustix::fs::fstatvfs(&self.0).ok();
        let counts = found.filter(|disk| disk.f_blocks > 0);
        counts.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Bytes that end with an error where the disk has no room for more.
pub(super) struct Roomy<R, F> {
    input: R,
    /// Bytes of the disk that are free, where something is written.
    free: Option<F>,
    /// Bytes since that was asked.
    passed: u64,
}

impl<R, F> Roomy<R, F> {
    pub(super) fn new(input: R, free: Option<F>) -> Self {
        Self {
            input,
            free,
            passed: 0,
        }
    }
}

impl<R: Read, F: Fn() -> u64> Read for Roomy<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.passed += len as u64;
        if let Some(free) = self.free.as_ref().filter(|_| self.passed >= LOOK) {
            self.passed = 0;
            let free = free();
            if free < SPARE {
                let why = format!("the disk has {free} bytes left, and this layer would fill it");
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
        }
        Ok(len)
    }
}
